"""The environment: Python, packages and how they fit together, extras, hub, launchers."""

import importlib.util
import os
import platform
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import torch
import yaml
from packaging.specifiers import SpecifierSet
from torch import nn

from distill.doctor.findings import Finding
from distill.installed import DISTRIBUTION, conflicts, requirements, unmet, version
from teachers.hub import hub_obstacle
from teachers.quantization import quantize

_SHOWN = ("torchvision", "timm", "open_clip_torch", "accelerate")
_EXTRAS = {
    "onnx": "ONNX export",
    "mobile": "ExecuTorch, Core ML and LiteRT export",
    "cluster": "writing stores on a Ray cluster",
    "caption": "captioners",
    "track": "a run's numbers in Weights & Biases or Trackio",
}
_LAUNCH = "ACCELERATE_USE_CPU=true accelerate launch --config_file $(distill show accelerate cpu2)"
# Installed beside what is required, these spoil it.
_KNOWN_BAD = {
    "pillow-simd": (
        "its resampling rounds otherwise than Pillow's, so views differ from those that were "
        "embedded",
        "pip uninstall pillow-simd && pip install --force-reinstall pillow",
    ),
}


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


def check_known_bad() -> Finding:
    """Packages that contradict each other, or that are known to spoil what is required."""
    clash = conflicts()
    if clash:
        hint = "install them together: pip install --upgrade clip-distill; pip check"
        return Finding(name="versions", status="fail", detail="; ".join(clash), hint=hint)
    for name, (symptom, cure) in _KNOWN_BAD.items():
        if version(name) is not None:
            detail = f"{name} {version(name)} is installed: {symptom}"
            return Finding(name="versions", status="fail", detail=detail, hint=cure)
    return Finding(name="versions", status="ok", detail="no combination that is known to be bad")


def check_extras() -> list[Finding]:
    """Optional parts: present, or how to get them. Absence is no fault."""
    findings = []
    for extra, purpose in _EXTRAS.items():
        lacks = list(filter(None, map(unmet, requirements(extra))))
        detail = f"{purpose}: " + (f"not installed ({'; '.join(lacks)})" if lacks else "installed")
        hint = f'pip install "clip-distill[{extra}]"' if lacks else ""
        findings.append(Finding(name=f"extra {extra}", status="ok", detail=detail, hint=hint))
    return findings


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
    obstacle = hub_obstacle(seconds=2.0)
    if obstacle:
        hint = "behind a proxy set HTTPS_PROXY; HF_HUB_OFFLINE=1 asks no more; local folders work"
        return Finding(name="hub", status="warn", detail=f"{obstacle}; {detail}", hint=hint)
    return Finding(name="hub", status="ok", detail=f"{constants.ENDPOINT} answers; {detail}")


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
