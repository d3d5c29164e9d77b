"""`distill doctor`: what this machine and this environment offer, and what to do about the rest.

Looks without changing anything, in seconds, and asks no network. `fail`: the toolkit will not work
here; `warn`: something will be slow, missing or other than expected.
"""

import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import psutil
import torch
import yaml
from packaging.specifiers import SpecifierSet
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import nn

from distill.installed import DISTRIBUTION, requirements, unmet, version
from teachers.quantization import quantize

Status = Literal["ok", "warn", "fail"]

_GIB = 2**30
_SHOWN = ("torchvision", "timm", "open_clip_torch", "accelerate")
_EXTRAS = {
    "onnx": "ONNX export",
    "mobile": "ExecuTorch, Core ML and LiteRT export",
    "cluster": "writing stores on a Ray cluster",
    "caption": "captioners",
    "track": "Weights & Biases, trackio",
}
_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}
_LAUNCH = "ACCELERATE_USE_CPU=true accelerate launch --config_file $(distill show accelerate cpu2)"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing looked at; `hint` says what to do and is empty when nothing is to be done."""

    name: str
    status: Status
    detail: str
    hint: str = ""


def diagnose(folder: str | Path = ".") -> list[Finding]:
    """Look at everything; `folder` is where runs and stores will be written."""
    checks = {
        "python": check_python,
        "packages": check_packages,
        "extras": check_extras,
        "devices": check_devices,
        "threads": check_threads,
        "memory": check_memory,
        "disk": lambda: check_disk(folder),
        "accelerate": check_accelerate,
        "hub": check_hub,
        "bitsandbytes": check_bitsandbytes,
        "triton": check_triton,
    }
    findings = []
    for name, check in checks.items():
        try:
            found = check()
        except Exception as error:
            # A doctor who dies of a symptom is no help: the others are still looked at.
            found = Finding(name=name, status="fail", detail=f"{type(error).__name__}: {error}")
        findings += found if isinstance(found, list) else [found]
    return findings


def print_findings(findings: Sequence[Finding], console: Console) -> None:
    """Print a table and, below it, what to do."""
    table = Table(box=SIMPLE_HEAD, show_header=False, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        detail = Text(finding.detail)
        if finding.hint:
            detail.append(f"\n-> {finding.hint}", style="italic")
        status = Text(finding.status, style=_STYLES[finding.status])
        table.add_row(status, Text(finding.name), detail)
    console.print(table)
    counts = {status: sum(f.status == status for f in findings) for status in ("warn", "fail")}
    verdict = "All is well." if not any(counts.values()) else ", ".join(
        f"{number} {status}" for status, number in counts.items() if number)  # fmt: skip
    console.print(verdict)


def check_python() -> Finding:
    """Python itself."""
    wanted = SpecifierSet(metadata.metadata(DISTRIBUTION)["Requires-Python"])
    here = platform.python_version()
    detail = f"{here} on {platform.system()} {platform.machine()}, {sys.executable}"
    if here in wanted:
        return Finding(name="python", status="ok", detail=detail)
    hint = f"use Python {wanted} in a new virtual environment"
    return Finding(name="python", status="fail", detail=detail, hint=hint)


def check_packages() -> list[Finding]:
    """Everything the distribution requires, in the version it requires."""
    wanted = requirements()
    lacks = list(filter(None, map(unmet, wanted)))
    versions = ", ".join(f"{name} {version(name)}" for name in _SHOWN)
    findings = [Finding(name="torch", status="ok", detail=f"{torch.__version__}; {versions}")]
    if lacks:
        hint = "pip install --upgrade clip-distill"
        detail = "not as required: " + "; ".join(lacks)
        findings.append(Finding(name="packages", status="fail", detail=detail, hint=hint))
    else:
        detail = f"all {len(wanted)} requirements met"
        findings.append(Finding(name="packages", status="ok", detail=detail))
    return findings


def check_extras() -> list[Finding]:
    """Optional parts: present, or how to get them. Absence is no fault."""
    findings = []
    for extra, purpose in _EXTRAS.items():
        lacks = list(filter(None, map(unmet, requirements(extra))))
        detail = f"{purpose}: " + (f"not installed ({'; '.join(lacks)})" if lacks else "installed")
        hint = f'pip install "clip-distill[{extra}]"' if lacks else ""
        findings.append(Finding(name=f"extra {extra}", status="ok", detail=detail, hint=hint))
    return findings


def check_devices() -> Finding:
    """GPUs that torch can use."""
    if torch.cuda.is_available():
        cards = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        detail = ", ".join(f"{card.name} ({card.total_memory / _GIB:.0f} GiB)" for card in cards)
        return Finding(name="devices", status="ok", detail=detail)
    if torch.backends.mps.is_available():
        return Finding(name="devices", status="ok", detail="Apple GPU (mps)")
    if shutil.which("nvidia-smi"):
        build = torch.version.cuda or "the CPU alone"
        detail = f"nvidia-smi is here, but torch sees no GPU (torch is built for CUDA {build})"
        hint = (
            "compare with the driver's CUDA version in nvidia-smi; is CUDA_VISIBLE_DEVICES empty?"
        )
        return Finding(name="devices", status="warn", detail=detail, hint=hint)
    return Finding(name="devices", status="ok", detail="CPU only")


def check_threads(*, threads: int | None = None, load: float | None = None) -> Finding:
    """Cores that this process may use, threads it will start, and who else is at work."""
    cores = usable_cores()
    threads = torch.get_num_threads() if threads is None else threads
    load = os.getloadavg()[0] if load is None else load
    detail = f"{cores:g} usable cores, {threads} threads a process, load {load:.1f}"
    hint = ""
    if threads > cores:
        hint = f"export OMP_NUM_THREADS={max(1, int(cores))}: threads that share a core wait"
    elif threads > 1 and load > 0.75 * cores:
        hint = "export OMP_NUM_THREADS=1: on a busy machine one thread is often faster"
    return Finding(name="threads", status="warn" if hint else "ok", detail=detail, hint=hint)


def check_memory() -> list[Finding]:
    """Main memory, and the shared memory that data-loader workers hand batches through."""
    free, total = psutil.virtual_memory().available, psutil.virtual_memory().total
    limit = _number(Path("/sys/fs/cgroup/memory.max"))
    if limit is not None and limit < total:
        used = _number(Path("/sys/fs/cgroup/memory.current")) or 0
        free, total = min(free, max(0, limit - used)), limit
    findings = [_room("memory", free, total, "close what else runs, or use smaller batches")]
    if Path("/dev/shm").is_dir():
        free, total = shutil.disk_usage("/dev/shm").free, shutil.disk_usage("/dev/shm").total
        hint = "start the container with --shm-size=8g, or train with 0 workers"
        findings.append(_room("shared memory", free, total, hint, least=_GIB))
    return findings


def check_disk(folder: str | Path) -> Finding:
    """Room where runs and stores go."""
    place = Path(folder).resolve()
    while not place.exists():
        place = place.parent
    if not os.access(place, os.W_OK):
        detail = f"{place} cannot be written"
        return Finding(name="disk", status="fail", detail=detail, hint="choose another folder")
    usage = shutil.disk_usage(place)
    return _room(
        "disk", usage.free, usage.total, f"make room on the disk of {place}", least=5 * _GIB
    )


def check_accelerate(environment: Mapping[str, str] | None = None) -> Finding:
    """What would change a launch unasked: accelerate's default file, left-over variables."""
    environment = os.environ if environment is None else environment
    home = environment.get("HF_HOME") or Path(
        environment.get("XDG_CACHE_HOME") or Path.home() / ".cache", "huggingface"
    )
    default = Path(home) / "accelerate" / "default_config.yaml"
    left = [name for name in ("LOCAL_RANK", "WORLD_SIZE", "RANK") if name in environment]
    left += [name for name in environment if name.startswith(("ACCELERATE_", "FSDP_"))]
    if left:
        detail = f"set in this shell: {', '.join(sorted(left))}"
        hint = "unset them unless you mean them: accelerate obeys them silently"
        return Finding(name="accelerate", status="warn", detail=detail, hint=hint)
    if default.is_file():
        written = yaml.safe_load(default.read_text()) or {}
        one = written.get("distributed_type", "NO") in ("NO", "MULTI_CPU")
        detail = f"`accelerate launch` without --config_file obeys {default}"
        if one and int(written.get("num_processes") or 1) > 1:
            detail += f", which asks for {written['num_processes']} processes and silently gets one"
        return Finding(name="accelerate", status="warn", detail=detail, hint=f"always: {_LAUNCH}")
    detail = "`--cpu --num_processes 2` would silently start one process; two: " + _LAUNCH
    return Finding(name="accelerate", status="ok", detail=detail)


def check_hub() -> Finding:
    """Whether weights may be downloaded, and what is here already."""
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    models = len(list(cache.glob("models--*"))) if cache.is_dir() else 0
    detail = f"{models} models in {cache}"
    if constants.HF_HUB_OFFLINE:
        hint = "unset HF_HUB_OFFLINE to download; local folders work as teachers either way"
        status = "ok" if models else "warn"
        return Finding(name="hub", status=status, detail=f"offline; {detail}", hint=hint)
    return Finding(name="hub", status="ok", detail=f"online allowed; {detail}")


def check_bitsandbytes() -> Finding:
    """Quantises a layer both ways, as teachers are, and compares it with itself."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(8, 64, generator=generator)
    near = []
    for precision in ("int8", "nf4"):
        linear = nn.Linear(64, 64)
        nn.init.normal_(linear.weight, std=0.1, generator=generator)
        layer = nn.Sequential(linear)
        with torch.no_grad():
            exact = layer(inputs)
            rounded = quantize(layer, precision)(inputs)
        cosine = torch.cosine_similarity(exact, rounded).mean().item()
        near.append(f"{precision} cosine {cosine:.4f}")
        if not cosine > 0.98:
            detail, hint = ", ".join(near), "load teachers with precision='bf16' or 'fp32'"
            return Finding(name="bitsandbytes", status="fail", detail=detail, hint=hint)
    detail = f"{version('bitsandbytes')}: {', '.join(near)}"
    return Finding(name="bitsandbytes", status="ok", detail=detail)


def check_triton(environment: Mapping[str, str] | None = None) -> Finding:
    """Which implementation `impl="auto"` will take."""
    environment = os.environ if environment is None else environment
    here = importlib.util.find_spec("triton") is not None
    gpu = torch.cuda.is_available()
    if environment.get("TRITON_INTERPRET", "0") not in ("", "0"):
        detail = "TRITON_INTERPRET is set: kernels run in Python, for tests only"
        hint = "unset TRITON_INTERPRET before training"
        return Finding(name="triton", status="warn", detail=detail, hint=hint)
    if gpu and not here:
        detail, hint = (
            "not installed: torch.compile cannot generate GPU kernels",
            "pip install triton",
        )
        return Finding(name="triton", status="warn", detail=detail, hint=hint)
    state = f"{version('triton')}" if here else "not installed"
    use = "for torch.compile on the GPU" if gpu else "no CUDA GPU, not needed"
    return Finding(name="triton", status="ok", detail=f"{state}; {use}")


def usable_cores() -> float:
    """Cores by affinity and by the container's quota, not those of the machine."""
    allowed = getattr(os, "sched_getaffinity", None)
    cores = float(len(allowed(0)) if allowed else os.cpu_count() or 1)
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.is_file():
        limit, period = quota.read_text().split()
        cores = cores if limit == "max" else min(cores, int(limit) / int(period))
    return cores


def _room(name: str, free: int, total: int, hint: str, *, least: int = 2 * _GIB) -> Finding:
    detail = f"{free / _GIB:.1f} of {total / _GIB:.1f} GiB free"
    if free >= least:
        return Finding(name=name, status="ok", detail=detail)
    return Finding(name=name, status="warn", detail=detail, hint=hint)


def _number(path: Path) -> int | None:
    text = path.read_text().strip() if path.is_file() else ""
    return int(text) if text.isdigit() else None
