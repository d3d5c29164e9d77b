"""A finished folder takes its place at once; an earlier one steps aside first."""

import os
import shutil
from pathlib import Path


def recover(out: Path) -> None:
    """Put back the earlier folder of a `publish` that was killed between its two renames."""
    old = out.with_name(f".{out.name}.old")
    if old.exists() and not out.exists():
        os.rename(old, out)


def publish(partial: Path, out: Path) -> None:
    """Rename the finished folder `partial` to `out`; what was there goes last."""
    old = out.with_name(f".{out.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        os.rename(out, old)
    os.rename(partial, out)
    shutil.rmtree(old, ignore_errors=True)
