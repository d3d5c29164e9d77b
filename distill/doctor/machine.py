"""The machine: cores, memory, disk, accelerators, compiler."""

import os
import shutil
from pathlib import Path

import psutil
import torch

from distill.doctor.findings import GIB, Finding, room
from reinforced_data.cores import usable_cores


def check_devices() -> Finding:
    """GPUs that torch can use."""
    if torch.cuda.is_available():
        cards = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        detail = ", ".join(f"{card.name} ({card.total_memory / GIB:.0f} GiB)" for card in cards)
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
    findings = [room("memory", free, total, "close what else runs, or use smaller batches")]
    if Path("/dev/shm").is_dir():
        free, total = shutil.disk_usage("/dev/shm").free, shutil.disk_usage("/dev/shm").total
        hint = "start the container with --shm-size=8g, or train with 0 workers"
        findings.append(room("shared memory", free, total, hint, least=GIB))
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
    return room("disk", usage.free, usage.total, f"make room on the disk of {place}", least=5 * GIB)


def check_compiler() -> Finding:
    """What torch.compile needs on a CPU."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++", "c++", "cl"]
    found = next(filter(None, map(shutil.which, names)), None)
    if found is not None:
        return Finding(name="compiler", status="ok", detail=found)
    detail = f"no C++ compiler ({', '.join(names)}): torch.compile cannot compile for the CPU"
    hint = "apt install g++, or leave --compile off"
    return Finding(name="compiler", status="warn", detail=detail, hint=hint)


def _number(path: Path) -> int | None:
    text = path.read_text().strip() if path.is_file() else ""
    return int(text) if text.isdigit() else None


def multiplies_bfloat16() -> bool:
    """Whether there is hardware for it: a GPU, or a processor's own instructions."""
    processor = torch.cpu.get_capabilities()
    own = processor.get("avx512_bf16") or processor.get("amx_bf16")
    return torch.cuda.is_available() or bool(own)
