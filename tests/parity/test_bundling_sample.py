"""A bundle's sample gives the model's embeddings, with nothing installed but what it names."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import venv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from distill.cli.bundle import run_bundle
from distill.config import RunConfig
from distill.lock_config import LockConfig
from students import (
    BundleOptions,
    CardFacts,
    Labels,
    OpenClipSpec,
    Origin,
    Student,
    StudentSpec,
    TextSpec,
    build_student,
    bundle,
    export,
)
from students.exporters import FORMATS
from students.exporters.parity import made_up_samples

TEXTS = ["a red cat", "it's a “house”, 2 trees & one dog", "photo"]
LABELS = Labels(names=("cat", "<b>dog</b>", "it's café"), templates=("a {}", "one {}"))
CARD = CardFacts(
    origins=(
        Origin(name="ViT-L-14/dfn2b", licence="Apple AMLR (research only)"),
        Origin(name="ViT-B-16/openai", role="donor", licence="MIT"),
        Origin(name="someone's"),
    ),
    metrics={"val/top1": 0.5},
    retention={"val/top1": 0.925},
)


@pytest.fixture(scope="module")
def student() -> Student:
    torch.manual_seed(0)
    text = TextSpec(width=32, layers=2, heads=2)
    spec = StudentSpec(image="smallconv-8", text=text, embed_dim=16, image_size=32)
    student = build_student(spec, name="a|student`s <name>", kind="sigmoid").train()
    samples = made_up_samples(student.tokenizer, count=7)
    with torch.no_grad():
        for _ in range(30):
            student.encode_image([picture for picture, _ in samples])
    return student.eval()


@pytest.fixture(scope="module")
def exported(student: Student, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "out"
    export(student, out, samples=made_up_samples(student.tokenizer, count=7))
    return out


@pytest.fixture(scope="module")
def folder(exported: Path) -> Path:
    out = exported.with_name("bundles")
    report = bundle(exported, out, options=BundleOptions(labels=LABELS, card=CARD))
    (row,) = report.rows
    assert row["path"] == str(out / "onnx")
    assert row["files"] == sum(path.is_file() for path in (out / "onnx").rglob("*"))
    return out / "onnx"


def run_sample(
    python: str, folder: Path, where: Path
) -> tuple[dict[str, np.ndarray], str, list[Path]]:
    """Run a bundle's sample on a few pictures as a stranger would, in a process of its own."""
    random = np.random.default_rng(0)
    paths = []
    for i, (height, width) in enumerate([(40, 70), (90, 33), (32, 32)]):
        picture = Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
        paths.append(where / f"{i}.png")
        picture.save(paths[-1])
    command = [python, "sample.py", *map(str, paths), "--save", str(where / "rows.npz")]
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [*command, "--texts", *TEXTS], cwd=folder, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return dict(np.load(where / "rows.npz")), done.stdout, paths


def compare(rows: dict[str, np.ndarray], student: Student, paths: list[Path]) -> None:
    with torch.no_grad():
        image = student.encode_image([Image.open(path) for path in paths]).numpy()
        text = student.encode_text(TEXTS).numpy()
    np.testing.assert_allclose(rows["image"], image, atol=1e-5)
    np.testing.assert_allclose(rows["text"], text, atol=1e-5)


def test_the_sample_gives_the_models_embeddings(
    folder: Path, student: Student, tmp_path: Path
) -> None:
    rows, printed, paths = run_sample(sys.executable, folder, tmp_path)
    compare(rows, student, paths)
    assert all(str(path) in printed for path in paths)
    for path in folder.glob("*.py"):
        assert "students" not in path.read_text(), path


def test_the_labels_are_there_as_vectors(folder: Path, student: Student) -> None:
    said = json.loads((folder / "labels.json").read_text())
    rows = np.fromfile(folder / said["rows"], dtype="<f4").reshape(said["shape"])
    with torch.no_grad():
        each = [
            student.encode_text([t.replace("{}", n) for t in LABELS.templates])
            for n in LABELS.names
        ]
    wanted = torch.nn.functional.normalize(torch.stack([row.mean(dim=0) for row in each]), dim=1)
    np.testing.assert_allclose(rows, wanted.numpy(), atol=1e-6)


def test_the_metadata_lists_every_file(folder: Path, student: Student) -> None:
    said = json.loads((folder / "metadata.json").read_text())
    there = {path.name for path in folder.iterdir()} - {"metadata.json"}
    assert set(said["files"]) == there
    for name, facts in said["files"].items():
        content = (folder / name).read_bytes()
        assert facts == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert said["towers"]["image"]["file"] == "image.onnx"
    assert said["logit_scale"] == pytest.approx(10.0) and said["logit_bias"] == -10


def test_the_card_warns_of_licences_and_escapes_names(folder: Path) -> None:
    card = (folder / "README.md").read_text()
    warning = card[card.index("Mind the licence") : card.index("## Try it")]
    assert "ViT-L-14/dfn2b" in warning and "research only" in warning
    assert "ViT-B-16/openai" not in warning
    assert "licence unknown" in card and "| val/top1 | 0.5000 | 92.5 % |" in card
    assert "<b>" not in card and "<name>" not in card
    assert r"a\|student\`s &lt;name&gt;" in card


def test_the_card_has_the_scores_of_its_own_files(exported: Path, tmp_path: Path) -> None:
    unmeasured, measured = tmp_path / "unmeasured", tmp_path / "measured"
    shutil.copytree(exported, measured)
    said = json.loads((measured / "metadata.json").read_text())
    (verdict,) = said["verdicts"]
    score = {"metric_name": "top1", "metric": 0.4140, "metric_of_model": 0.4156}
    other = verdict | {"format": "ort", "metric": 0.9}
    said["verdicts"] = [other, verdict | score]
    (measured / "metadata.json").write_text(json.dumps(said))
    cards = []
    for given, out in ((exported, unmeasured), (measured, tmp_path / "out")):
        options = BundleOptions(card=CardFacts(metrics={"val/top1": 0.5}))
        bundle(given, out, options=options)
        cards.append((out / "onnx" / "README.md").read_text())
    assert "have not been measured" in cards[0] and "files: top1 0.4140" in cards[1]
    assert "same data, 0.4156." in cards[1] and "0.9" not in cards[1]
    for card in cards:
        assert "| metric | score |\n|---|---:|\n| val/top1 | 0.5000 |\n" in card


def test_an_unlimited_origin_gives_no_warning(exported: Path, tmp_path: Path) -> None:
    card = CardFacts(origins=(Origin(name="ViT-B-16/openai", licence="MIT"),))
    bundle(exported, tmp_path / "out", options=BundleOptions(card=card))
    text = (tmp_path / "out" / "onnx" / "README.md").read_text()
    assert "Mind the licence" not in text and "licence MIT" in text


def test_the_command_bundles(exported: Path, tmp_path: Path) -> None:
    base = RunConfig()
    taken = replace(base.student, text_from="ViT-L-14/dfn2b")
    config = replace(base, student=taken, lock=LockConfig(tower="text"))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(config.as_json()))
    (tmp_path / "names.txt").write_text("cat\n\ndog\n")
    given = [str(exported), str(tmp_path / "out"), "--labels", str(tmp_path / "names.txt")]
    outcome = run_bundle([*given, "--run", str(tmp_path / "run")], Console(quiet=True))
    (row,) = outcome.values["bundles"]
    said = json.loads((Path(row["path"]) / "labels.json").read_text())
    assert said["labels"] == ["cat", "dog"] and said["templates"] == ["a photo of a {}."]
    card = (Path(row["path"]) / "README.md").read_text()
    assert "> The donor of the text tower `ViT-L-14/dfn2b` is under Apple AMLR" in card
    assert "- donor of the text tower: `ViT-L-14/dfn2b`, licence Apple AMLR" in card
    assert "- locked tower: text, as it started\n" in card


def test_input_wrong_bundles_say_what_to_do(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no export in .*distill export"):
        bundle(tmp_path, tmp_path / "out")
    with pytest.raises(ValueError, match="'litert'"):
        bundle(exported, tmp_path / "out", formats=["litert"])
    with pytest.raises(ValueError, match=r"npm install onnxruntime-web@"):
        bundle(exported, tmp_path / "out", options=BundleOptions(ort_web=tmp_path))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(ValueError, match="nothing of yours is overwritten"):
        bundle(exported, tmp_path / "mine")
    with pytest.raises(ValueError, match="two labels or more"):
        Labels(names=("cat",))
    with pytest.raises(ValueError, match="'cat' is empty or there twice"):
        Labels(names=("cat", "cat"))
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.slow
def test_quantised_and_mobile_files_run_in_their_bundles(student: Student, tmp_path: Path) -> None:
    out, samples = tmp_path / "export", made_up_samples(student.tokenizer, count=7)
    variants = ("onnx:fp16", "onnx:dynamic-int8", "ort:dynamic-int8")
    export(student, out, formats=variants, samples=samples, tolerance=0.1)
    report = bundle(out, tmp_path / "bundles")
    assert [row["bundle"] for row in report.rows] == [name.replace(":", ".") for name in variants]
    config = (tmp_path / "bundles/ort.dynamic-int8/required_operators.config").read_text()
    assert "ai.onnx;" in config
    for row in report.rows:
        bundled = Path(row["path"])
        said = json.loads((bundled / "metadata.json").read_text())["towers"]
        rows, _, paths = run_sample(sys.executable, bundled, tmp_path)
        with torch.no_grad():
            truth = {"image": student.encode_image([Image.open(path) for path in paths]).numpy()}
            truth["text"] = student.encode_text(TEXTS).numpy()
        for tower, wanted in truth.items():
            apart = np.linalg.norm(wanted[:, None] - wanted[None], axis=-1).max()
            error = np.linalg.norm(rows[tower] - wanted, axis=-1).max() / apart
            assert error < 0.1, (row["bundle"], tower)
            assert said[tower]["about"] in (bundled / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnx", "litert", "executorch"])
def test_the_sample_runs_with_only_what_it_names(name: str, tmp_path: Path) -> None:
    for package in FORMATS[name].packages:
        pytest.importorskip(package)
    torch.manual_seed(0)
    vision = {"layers": 2, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 32}
    text = {"layers": 2, "width": 32, "heads": 2}
    spec = OpenClipSpec(model="ViT-B-32", vision=vision, text=text, embed_dim=16)
    student = build_student(spec).eval()
    out = tmp_path / "export"
    export(student, out, formats=[name], samples=made_up_samples(student.tokenizer, count=7))
    bundle(out, tmp_path / "bundles")
    folder = tmp_path / "bundles" / name
    venv.create(tmp_path / "venv", with_pip=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    needed = ["-r", str(folder / "requirements.txt")]
    done = subprocess.run(
        [python, "-m", "pip", "install", "-q", *needed], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"pip cannot install here: {done.stderr[-200:]}")
    rows, _, paths = run_sample(python, folder, tmp_path)
    compare(rows, student, paths)
