"""`distill doctor`: what this machine and this environment offer, and what to do about the rest.

Looks without changing anything, in seconds; the one thing it asks of the network is whether the hub
answers. `fail`: the toolkit will not work here; `warn`: something will be slow, missing or other
than expected. Given a store's or a run's folder it looks at that instead.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from distill.doctor.findings import Finding, print_findings
from distill.doctor.health import examine
from distill.doctor.machine import (
    check_compiler,
    check_devices,
    check_disk,
    check_memory,
    check_threads,
)
from distill.doctor.self_check import check_itself
from distill.doctor.software import (
    check_accelerate,
    check_bitsandbytes,
    check_extras,
    check_hub,
    check_known_bad,
    check_packages,
    check_python,
    check_triton,
)
from reinforced_data.cores import usable_cores

Check = Callable[[], Finding | list[Finding]]


def diagnose(folder: str | Path = ".") -> list[Finding]:
    """Look at everything; `folder` is where runs and stores will be written."""
    checks: dict[str, Check] = {
        "python": check_python,
        "packages": check_packages,
        "versions": check_known_bad,
        "extras": check_extras,
        "devices": check_devices,
        "threads": check_threads,
        "memory": check_memory,
        "disk": lambda: check_disk(folder),
        "accelerate": check_accelerate,
        "hub": check_hub,
        "bitsandbytes": check_bitsandbytes,
        "triton": check_triton,
        "compiler": check_compiler,
        "self-check": check_itself,
    }
    return look(checks)


def look(checks: Mapping[str, Check]) -> list[Finding]:
    """Run every check; one that breaks is a finding itself."""
    findings = []
    for name, check in checks.items():
        try:
            found = check()
        except Exception as error:
            # A doctor who dies of a symptom is no help: the others are still looked at.
            found = Finding(name=name, status="fail", detail=f"{type(error).__name__}: {error}")
        findings += found if isinstance(found, list) else [found]
    return findings


__all__ = [
    "Finding",
    "diagnose",
    "examine",
    "print_findings",
    "usable_cores",
]
