"""Which code made a number: the checkout's commit, from wherever it is asked, and its changes."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import ladder_table

from distill.provenance import commit, short_commit


def git(folder, *arguments):
    by = ("-c", "user.name=a", "-c", "user.email=a@b")
    done = subprocess.run(
        ["git", *by, "-C", str(folder), *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path):
    """A checkout of a few files, all committed."""
    folder = tmp_path / "checkout"
    names = (
        "distill/provenance.py",
        "students/a.py",
        "benchmarks/a.py",
        "benchmarks/results/a.csv",
    )
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("1")
    git(tmp_path, "init", "-q", str(folder))
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    return folder


def test_a_change_in_any_package_is_said(checkout):
    head, here = git(checkout, "rev-parse", "HEAD"), checkout / "distill"
    assert commit(here) == head
    (checkout / "benchmarks" / "results" / "a.csv").write_text("2")
    assert commit(here) == head
    (checkout / "students" / "a.py").write_text("2")
    assert commit(here) == f"{head}+changes"


def test_a_benchmark_says_its_own_checkout_and_not_the_callers(checkout, tmp_path, monkeypatch):
    """Wherever it is started; its own file counts, the table that it writes does not."""
    head = git(checkout, "rev-parse", "HEAD")[:7]
    placed = partial(short_commit, folder=checkout / "distill")
    monkeypatch.setattr(ladder_table, "short_commit", placed)
    other = tmp_path / "other"
    git(tmp_path, "init", "-q", str(other))
    monkeypatch.chdir(other)
    (checkout / "benchmarks" / "results" / "a.csv").write_text("2")
    assert ladder_table.provenance().startswith(f"commit {head}, torch ")
    (checkout / "benchmarks" / "a.py").write_text("2")
    assert ladder_table.provenance().startswith(f"commit {head}+changes, torch ")
