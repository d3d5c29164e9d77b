"""A finished folder takes its place at once; an earlier one steps aside first."""

import os
import shutil
from pathlib import Path


def publish(partial: Path, out: Path) -> None:
    """Rename the finished folder `partial` to `out`; what was there goes last."""
    old = out.with_name(f".{out.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        os.rename(out, old)
    os.rename(partial, out)
    shutil.rmtree(old, ignore_errors=True)
