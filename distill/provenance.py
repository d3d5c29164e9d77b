"""Which code made a file: the commit and the versions of what counts.

The commit is the checkout's that this package lies in, or the one it was installed from. Left out:
what was changed since, beyond that something was.
"""

import json
import platform
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from distill.installed import DISTRIBUTION, version

_PACKAGES = (DISTRIBUTION, "torch", "timm", "open_clip_torch")
_HERE = Path(__file__).parent
# All four packages, seen from this one: each takes part in what a run writes.
CODE = (".", "../students", "../teachers", "../reinforced_data")


def provenance() -> dict[str, Any]:
    """Say what is running: `commit` (None where nothing tells), `versions`, `machine`."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return {
        "commit": commit(),
        "versions": {"python": platform.python_version(), **{p: version(p) for p in _PACKAGES}},
        "machine": f"{platform.machine()}, {device}",
    }


def commit(folder: Path = _HERE, code: Sequence[str] = CODE) -> str | None:
    """Return the commit of the checkout, with "+changes" where tracked files of `code` have some.

    Args:
        folder: this package's, in the checkout.
        code: git's patterns of what counts, seen from there.
    """
    # A checkout that this package merely lies in, in an environment's folder, is another's.
    if _git(folder, "ls-files", "--error-unmatch", Path(__file__).name) is None:
        return _installed_from()
    found = _git(folder, "rev-parse", "HEAD")
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no", "--", *code)
    return found and found + ("+changes" if changed else "")


def short_commit(code: Sequence[str] = CODE, folder: Path = _HERE) -> str:
    """Return the commit in seven letters, for a table, with "+changes" as `commit` has it."""
    found, plus, changes = (commit(folder, code) or "").partition("+")
    return (found[:7] or "not known") + plus + changes


def _installed_from() -> str | None:
    try:
        text = metadata.distribution(DISTRIBUTION).read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        return None
    return json.loads(text or "{}").get("vcs_info", {}).get("commit_id")


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
