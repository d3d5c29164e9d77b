"""The wheel holds the four packages with their data files, and nothing else of the repository."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_wheel_builds_and_is_complete(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    (wheel,) = tmp_path.glob("clip_distill-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for package in ("teachers", "students", "reinforced_data", "distill"):
        assert f"{package}/py.typed" in names
    tracked = subprocess.run(
        ["git", "ls-files", "teachers", "students", "reinforced_data", "distill"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    missing = {name for name in tracked if not name.endswith(".md")} - names
    assert not missing
    assert not any(name.startswith(("tests/", "benchmarks/", "docs/")) for name in names)
