"""An export or a bundle that is killed leaves nothing that looks finished, and can be run again."""

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from distill.testing import start
from students import Student, StudentSpec, TextSpec, build_student, bundle, export, load_student
from students.exporters.parity import made_up_samples
from teachers.tokenizers import WordTokenizer

DISTURBED = ("README.md", "words.py", "metadata.json")


@pytest.fixture(scope="module")
def student() -> Student:
    torch.manual_seed(0)
    text = TextSpec(width=16, layers=1, heads=2, context_length=8)
    spec = StudentSpec(image="smallconv-8", text=text, embed_dim=8, image_size=32)
    return build_student(spec, tokenizer=WordTokenizer(["a", "b", "c"], 8))


def again(student: Student, out: Path, formats: Sequence[str]) -> None:
    samples = made_up_samples(student.tokenizer, count=4)
    export(student, out, formats=formats, samples=samples, tolerance=1.0)


def work(what: str, last: str, source: Path, out: Path, formats: Sequence[str]) -> None:
    """Be killed when a file or folder whose name ends so is opened for writing, or renamed."""

    def die_at(event: str, given: tuple[Any, ...]) -> None:
        writes = event == "open" and any(mark in (given[1] or "") for mark in "wax")
        if (writes or event == "os.rename") and str(given[0]).endswith(last):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(die_at)
    if what == "export":
        export(load_student(source), out, formats=formats, tolerance=1.0)
    else:
        bundle(source, out)


def die(what: str, last: str, source: Path, out: Path, *formats: str) -> None:
    process = start(work, what, last, source, out, formats)
    process.join(600)
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("formats", "last"),
    [
        (("onnx:fp16",), "text.fp16.onnx"),
        pytest.param(("ort",), "required_operators.config", marks=pytest.mark.slow),
        pytest.param(("coreml",), "weight.bin", marks=pytest.mark.slow),
        pytest.param(("coreml:4bit-weights",), "Manifest.json", marks=pytest.mark.slow),
        pytest.param(("onnx", "coreml"), "metadata.json", marks=pytest.mark.slow),
    ],
)
def test_a_killed_export_leaves_no_folder(
    student: Student, tmp_path: Path, formats: tuple[str, ...], last: str
) -> None:
    student.save(tmp_path / "student")
    out, partial = tmp_path / "out", tmp_path / ".out.partial"
    die("export", last, tmp_path / "student", out, *formats)
    assert partial.is_dir() and not out.exists() and not (partial / "metadata.json").exists()
    if "student.json" not in os.listdir(partial):
        with pytest.raises(ValueError, match=r"student.json is missing"):
            load_student(partial)
    with pytest.raises(ValueError, match="no export in"):
        bundle(partial, tmp_path / "bundles")
    again(student, out, formats)
    assert sorted(os.listdir(tmp_path)) == ["out", "student"]


@pytest.mark.slow
def test_an_export_that_is_killed_at_the_last_moment_gives_the_earlier_one_back(
    student: Student, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    student.save(tmp_path / "student")
    again(student, out, ["onnx"])
    before = (out / "metadata.json").read_bytes()
    os.rename(out, tmp_path / ".out.old")  # where a kill between the two renames leaves it
    with pytest.raises(RuntimeError, match="above 1e-12"):
        export(student, out, tolerance=1e-12)
    assert (out / "metadata.json").read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["out", "student"]


@pytest.mark.slow
def test_a_kill_between_the_two_renames(student: Student, tmp_path: Path) -> None:
    out = tmp_path / "out"
    student.save(tmp_path / "student")
    again(student, out, ["onnx"])
    die("export", ".out.partial", tmp_path / "student", out, "onnx")
    assert sorted(os.listdir(tmp_path)) == [".out.old", ".out.partial", "student"]
    again(student, out, ["onnx"])
    assert sorted(os.listdir(tmp_path)) == ["out", "student"]


@pytest.mark.parametrize("last", ["bundles.json", *DISTURBED])
@pytest.mark.slow
def test_a_killed_bundle_leaves_no_folder(student: Student, tmp_path: Path, last: str) -> None:
    again(student, tmp_path / "export", ["onnx:fp16"])
    out = tmp_path / "bundles"
    die("bundle", last, tmp_path / "export", out)
    assert (tmp_path / ".bundles.partial" / "onnx.fp16").is_dir() and not out.exists()
    bundle(tmp_path / "export", out)
    assert sorted(os.listdir(tmp_path)) == ["bundles", "export"]
    assert (out / "bundles.json").is_file()
