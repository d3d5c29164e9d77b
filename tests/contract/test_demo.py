"""The demo's stages on a small world: folders, report.json's contract, resuming."""

import contextlib
import io
import json

import pytest
from PIL import Image
from rich.console import Console

import distill.demo.pipeline as pipeline
from distill.cli import main
from distill.demo import DemoSettings, run_demo
from reinforced_data.testing import encoded, picture, sample, write_source

NAMES = [
    f"{shade} {kind}" for shade in ("pale", "deep", "warm") for kind in ("disc", "bar", "arch")
]


def small_world(out):
    """The four splits of the glyphs, with nine names and noisy coloured pictures."""
    paths = {}
    for offset, (split, count) in enumerate(
        {"train": 288, "validation": 18, "unseen_pairs": 18, "unseen_characters": 18}.items()
    ):
        paths[split] = out / split
        if paths[split].is_dir():
            continue
        samples = []
        for number in range(count):
            label = number % len(NAMES)
            noise = picture(1000 * offset + number, 32, 32)
            shade = Image.new("RGB", (32, 32), (28 * label, 250 - 28 * label, 120))
            mixed = Image.blend(noise, shade, 0.7)
            name = NAMES[label]
            samples.append(sample(number, png=encoded(mixed), txt=name, cls=name))
        write_source(paths[split], samples, samples_per_shard=100)
    return paths


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """One run of every stage, and the command that finds them done."""
    settings = DemoSettings(
        out=tmp_path_factory.mktemp("runs") / "demo",
        teacher_steps=6,
        student_steps=4,
        processes=2,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "pack_glyphs", small_world)
        console = Console(record=True, quiet=True, width=100)
        values = run_demo(settings, console)
        result = settings.out / "student-distilled" / "result.json"
        before = result.stat().st_mtime_ns
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            steps = ["--teacher-steps", "6", "--student-steps", "4", "--processes", "2"]
            assert main(["demo", "--out", str(settings.out), *steps, "--json"]) == 0
        again = json.loads(printed.getvalue())
        assert result.stat().st_mtime_ns == before, "a finished training was repeated"
    assert again["rows"] == values["rows"]
    assert again["timings"]["teachers"] == values["timings"]["teachers"]
    return settings, values


def test_folders(demo):
    settings, _ = demo
    for name in ("teacher-a", "teacher-b", "student-undistilled", "student-control"):
        assert (settings.out / name / "model.safetensors").is_file()
    assert (settings.out / "student-distilled" / "result.json").is_file()
    assert (settings.out / "export" / "onnx" / "image.onnx").is_file()
    assert (settings.out / "report.html").stat().st_size > 10_000


def test_report_json_is_what_was_promised(demo):
    settings, values = demo
    assert values["rows"] == json.loads((settings.out / "report.json").read_text())["rows"]
    rows = {row["name"]: row for row in values["rows"]}
    assert rows["teacher-a"]["role"] == "teacher" and not rows["teacher-a"]["distilled"]
    for name in ("student-undistilled", "student-control", "student-distilled"):
        row = rows[name]
        assert row["role"] == "student" and row["distilled"] == (name == "student-distilled")
        assert row["steps"] == 4
        for split in ("unseen_pairs", "unseen_characters"):
            for metric in ("top1", "top5", "image_to_text_r10", "text_to_image_r10"):
                assert 0 <= row["metrics"][f"{split}/{metric}"] <= 1
    assert rows["student-distilled"]["image_params"] * 7 <= rows["teacher-a"]["image_params"]
    teacher, student = rows["teacher-a"]["metrics"], rows["student-distilled"]
    for key, share in student["retention"].items():
        if share is not None:
            assert share == pytest.approx(student["metrics"][key] / teacher[key])
    assert {(row["format"], row["tower"]) for row in values["exports"]} == {
        ("onnx", "image"),
        ("onnx", "text"),
    }
    assert all(row["relative_error"] <= 1e-4 for row in values["exports"])
    assert {"glyphs", "teachers", "reinforce", "students", "export"} <= values["timings"].keys()
