"""Core ML packages: on any machine their structure is right; on a Mac their numbers are too."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from distill.cli.export import run
from students import OpenClipSpec, Student, build_student, bundle, export
from students.exporters import coreml
from students.exporters.graph import Graph
from students.exporters.metadata import size_of
from students.exporters.parity import made_up_samples
from teachers.tokenizers import WordTokenizer

TOKENIZER = WordTokenizer.fit([f"word{chr(97 + i)}" for i in range(26)] * 2, context_length=8)
SAMPLES = made_up_samples(TOKENIZER, count=5)
PRECISIONS = ("none", "fp16", "int8", "4bit-weights")
pytest.importorskip("coremltools")


@pytest.fixture(scope="module")
def student() -> Student:
    torch.manual_seed(0)
    vision = {"layers": 1, "width": 64, "head_width": 32, "patch_size": 8, "image_size": 32}
    text = {"layers": 1, "width": 64, "heads": 2}
    spec = OpenClipSpec(model="ViT-B-32", vision=vision, text=text, embed_dim=32)
    return build_student(spec, tokenizer=TOKENIZER)


@pytest.fixture(scope="module")
def folder(student: Student, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "out"
    # So lenient that no layer of a random tower is kept from rounding.
    many = {"quantize": PRECISIONS, "tolerance": 10.0}
    export(student, out, formats=("coreml",), samples=SAMPLES, **many)
    return out


def spec_of(path: Path):
    import coremltools

    return coremltools.models.utils.load_spec(str(path))


def test_every_precision_is_there_and_smaller(folder: Path) -> None:
    towers = json.loads((folder / "metadata.json").read_text())["towers"]
    assert [row["quantize"] for row in towers[::2]] == list(PRECISIONS)
    for tower in ("image", "text"):
        sizes = []
        for row in [row for row in towers if row["tower"] == tower]:
            assert row["input_shape"][0] == 1 and row["about"] == coreml.ABOUT[row["quantize"]]
            assert row["input_dtype"] == ("float32" if tower == "image" else "int32")
            assert row["bytes"] == size_of(folder / row["path"])
            assert (row["relative_error"] is None) == (sys.platform != "darwin")
            weights = folder / row["path"] / "Data/com.apple.CoreML/weights/weight.bin"
            sizes.append(weights.stat().st_size)
        whole, half, eighth, sixteenth = sizes
        assert half < 0.55 * whole and eighth < 0.32 * whole and sixteenth < 0.85 * eighth


def test_a_package_says_what_it_is(folder: Path) -> None:
    for row in json.loads((folder / "metadata.json").read_text())["towers"]:
        spec = spec_of(folder / row["path"])
        assert spec.specificationVersion == (9 if row["quantize"] == "4bit-weights" else 7)
        said = dict(spec.description.metadata.userDefined)
        assert json.loads(said["clip_distill.logit_scale"]) == pytest.approx(1 / 0.07)
        if row["tower"] == "image":
            assert json.loads(said["clip_distill.preprocessing"])["image_size"] == 32


def test_weights_are_rounded_and_the_token_table_too(folder: Path) -> None:
    kinds = {
        "int8": "constexpr_affine_dequantize",
        "4bit-weights": "constexpr_blockwise_shift_scale",
    }
    for quantize, kind in kinds.items():
        steps = coreml.operations(spec_of(folder / f"coreml/text.{quantize}.mlpackage"))
        rounded = {op.outputs[0].name for op in steps if op.type == kind}
        (table,) = [op.inputs["x"].arguments[0].name for op in steps if op.type == "gather"]
        linears = [op.inputs["weight"].arguments[0].name for op in steps if op.type == "linear"]
        assert table in rounded and len(linears) == 5
        assert len(set(linears) - rounded) <= 1, "only the narrow projection may be too small"


def test_the_check_finds_what_is_wrong(student: Student, folder: Path) -> None:
    row = json.loads((folder / "metadata.json").read_text())["towers"][1]
    keys = ("input", "input_shape", "input_dtype", "output", "output_shape", "output_dtype")
    graph = Graph(
        name="text",
        module=student.text_tower,
        inputs=torch.zeros(2, 8),
        batch_size=1,
        interface={key: row[key] for key in keys},
        facts={},
    )
    path = folder / row["path"]
    with pytest.raises(RuntimeError, match="does not say of itself"):
        coreml.inspect(replace(graph, facts={"logit_scale": 3}), path, "none")
    for wrong in ({"input": "ids"}, {"input_shape": [1, 9]}, {"output_dtype": "float16"}):
        asked = replace(graph, interface={**graph.interface, **wrong})
        with pytest.raises(RuntimeError, match="takes and gives"):
            coreml.inspect(asked, path, "none")
    with pytest.raises(RuntimeError, match="takes and gives"):
        coreml.inspect(graph, path, "4bit-weights")  # which needs a later system


@pytest.mark.slow
def test_layers_that_are_kept_stay_fp16(student: Student, tmp_path: Path) -> None:
    sizes = []
    name = "0.module.visual.transformer.resblocks.0.mlp.c_fc"
    for i, kept in enumerate(((), (name,))):
        graph = Graph(
            name="image",
            module=torch.nn.Sequential(student.image_tower).eval(),
            inputs=torch.randn(2, 3, 32, 32),
            batch_size=1,
            interface={"input": "pixels", "input_dtype": "float32", "output": "rows"},
            facts={},
            keep_float=kept,
        )
        coreml.write_int8(graph, tmp_path / f"{i}.mlpackage")
        sizes.append(size_of(tmp_path / f"{i}.mlpackage"))
    assert 0.9 * 64 * 256 < sizes[1] - sizes[0] < 1.1 * 64 * 256, "one more byte a number"


@pytest.mark.slow
def test_a_second_export_gives_the_same_bytes(
    student: Student, folder: Path, tmp_path: Path
) -> None:
    once = {"quantize": ("int8",), "tolerance": 10.0}
    export(student, tmp_path / "out", formats=("coreml",), samples=SAMPLES, **once)
    for path in (tmp_path / "out" / "coreml").rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (folder / path.relative_to(tmp_path / "out")).read_bytes()


def test_a_bundle_has_whole_packages(folder: Path, student: Student, tmp_path: Path) -> None:
    report = bundle(folder, tmp_path / "bundles", formats=["coreml.fp16"], student=student)
    made = Path(report.rows[0]["path"])
    said = json.loads((made / "metadata.json").read_text())
    assert said["towers"]["text"]["file"] == "text.fp16.mlpackage"
    for name, facts in said["files"].items():
        assert (made / name).stat().st_size == facts["bytes"]
        if ".mlpackage/" in name:
            assert (made / name).read_bytes() == (folder / "coreml" / name).read_bytes()
    assert "image.fp16.mlpackage/Data/com.apple.CoreML/weights/weight.bin" in said["files"]
    assert (made / "requirements.txt").read_text().split() == ["numpy", "pillow", "coremltools"]
    assert "| `Clip.swift` | the same on iOS and macOS |" in (made / "README.md").read_text()
    assert "| text | " in (made / "README.md").read_text()


@pytest.mark.slow
def test_pictures_are_images_where_preprocessing_is_inside(
    student: Student, tmp_path: Path
) -> None:
    settings = {"samples": SAMPLES, "preprocessing_inside": True}
    export(student, tmp_path / "out", formats=("coreml:fp16",), **settings)
    row = json.loads((tmp_path / "out/metadata.json").read_text())["towers"][0]
    assert (row["input_shape"], row["input_dtype"]) == ([1, 32, 32, 3], "uint8")
    spec = spec_of(tmp_path / "out" / row["path"])
    (given,) = spec.description.input
    image = given.type.imageType
    assert (given.name, image.width, image.height, image.colorSpace) == ("pixels", 32, 32, 20)
    steps = [op.type for op in coreml.operations(spec) if op.type not in ("const", "cast")]
    assert steps[:2] in (["sub", "mul"], ["sub", "real_div"]), "normalised before anything else"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "darwin", reason="a Mac checks the numbers")
def test_the_command_says_what_was_not_checked(
    student: Student, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    student.save(tmp_path / "run")
    given = [str(tmp_path / "run"), str(tmp_path / "out"), "--formats", "coreml:fp16"]
    classes = tmp_path / "names.txt"
    classes.write_text("worda\nwordb\n")
    outcome = run([*given, "--classes", str(classes)], Console(width=200))
    assert [row["tower"] for row in outcome.values["exports"]] == ["image", "text", "zero_shot"]
    printed = capsys.readouterr()
    assert "their numbers were not: only macOS runs them" in printed.out
    assert "not run here" in printed.out and "MIL" not in printed.err
    with pytest.raises(ValueError, match="take one image a call, not 2"):
        run([*given, "--preprocessing-inside", "--batch-size", "2"], Console(quiet=True))
