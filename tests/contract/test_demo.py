"""The demo's stages on a small world: folders, report.json's contract, resuming."""

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

import distill.demo.pipeline as pipeline
from distill.cli import main
from distill.demo import DemoSettings, run_demo
from distill.demo.reporting import term_lines
from distill.demo.settings import (
    ADDED,
    LEFT_OUT,
    ablation_configs,
    student_configs,
    teacher_configs,
)
from distill.run_log import write_json
from distill.run_origins import file_sha256
from distill.side_by_side import finished_result
from reinforced_data import open_dataset
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


def written(store, result):
    """When the store's data and a run's result were last written."""
    files = [path for path in (store / "data").rglob("*") if path.is_file()]
    assert sum("rules" in str(path) for path in files) >= 3
    return {path: path.stat().st_mtime_ns for path in (*files, result)}


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
        before = written(settings.store, result)
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            steps = ["--teacher-steps", "6", "--student-steps", "4", "--processes", "2"]
            assert main(["demo", "--out", str(settings.out), *steps, "--json"]) == 0
        again = json.loads(printed.getvalue())
        assert written(settings.store, result) == before, "a finished stage was repeated"
    assert again["rows"] == values["rows"]
    assert again["timings"]["teachers"] == values["timings"]["teachers"]
    return settings, values


def test_other_teachers_leave_no_student_of_the_old_ones(tmp_path):
    """A student's configuration names its teachers' folders, which do not change."""
    first = DemoSettings(out=tmp_path / "demo", teacher_steps=6, student_steps=4)
    students = [*student_configs(first), *ablation_configs(first)]
    for config in [*teacher_configs(first), *students]:
        folder = Path(config.out)
        folder.mkdir(parents=True)
        write_json(folder / "config.json", config.as_json())
        write_json(folder / "result.json", {"name": folder.name})
    seconds = {"glyphs": 5.0, "teachers": 70.0, "students": 90.0, "report": 1.0}
    write_json(first.out / "report.json", {"timings": seconds})
    quiet = Console(quiet=True)
    pipeline._start_over_if_changed(first, quiet)
    assert all(finished_result(config) for config in students)
    assert pipeline._seconds_before(first) == seconds
    longer = replace(first, student_steps=5)
    assert pipeline._seconds_before(longer) == {"glyphs": 5.0, "teachers": 70.0}

    other = replace(first, teacher_steps=7)
    assert pipeline._seconds_before(other) == {"glyphs": 5.0}
    pipeline._start_over_if_changed(other, quiet)
    assert all(finished_result(config) is None for config in students)
    aside = ("student-distilled", "ablations/without-feature", "report.json")
    for name in aside:
        assert not (first.out / name).exists()
    kept = first.out / "student-distilled.before-1" / "result.json"
    assert json.loads(kept.read_text()) == {"name": "student-distilled"}
    assert (first.out / "ablations.before-1" / "without-feature" / "result.json").is_file()
    assert (first.out / "report.json.before-1").is_file()


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
    assert list(values["timings"]) == [
        *("glyphs", "views", "teachers", "reinforce", "captions", "audit"),
        *("students", "export", "report"),
    ]


def test_only_the_student_with_captions_reads_them(demo):
    settings, values = demo
    configs = {config.out: config for config in student_configs(settings)}
    configs |= {config.out: config for config in ablation_configs(settings)}
    kinds = {path.rpartition("/")[2]: c.data.captions.kind for path, c in configs.items()}
    assert {name for name, kind in kinds.items() if kind != "original"} == {"with-captions"}
    assert kinds.keys() >= {*LEFT_OUT, *ADDED} and kinds["with-captions"] == "mix"
    assert {row["name"] for row in values["rows"]} >= kinds.keys()
    # What students fit their words on stays the source's own.
    assert set(open_dataset(settings.store).captions()) == set(NAMES)


def test_a_gain_is_with_the_thing_minus_without_it():
    def result(name, top1):
        scores = dict.fromkeys(("unseen_pairs/top1", "unseen_characters/top1"), top1)
        return {"name": name, "metrics": scores}

    others = [result("without-feature", 0.2), result("with-captions", 0.2)]
    assert term_lines([result("student-distilled", 0.3)], others) == [
        "feature mimicking: +10.0 points on unseen_pairs, +10.0 points on unseen_characters",
        "with captions by rules: -10.0 points on unseen_pairs, -10.0 points on unseen_characters",
    ]


def test_the_page_is_that_of_distill_report(demo):
    settings, values = demo
    page = (settings.out / "report.html").read_text()
    for part in ("results", "confusions", "health", "exports", "time", "origin", "missing"):
        assert f'<section id="{part}">' in page
    steps = [step["what"] for step in values["lineage"]]
    assert steps == [
        *("source", "store", "captioner", "teacher", "teacher", "donor of the text tower"),
        *("recipe", "code", "student", "file", "file"),
    ]
    files = {step["what"]: step for step in values["lineage"]}
    assert files["file"]["facts"]["now"] == "as exported"
    weights = file_sha256(settings.out / "student-distilled" / "model.safetensors")
    assert files["student"]["facts"]["sha256"] == weights
    # The page speaks of the best recipe, whichever row won, and draws the five that are compared.
    assert Path(files["student"]["which"]).parent.name == "student-distilled"
    assert {curve["name"] for curve in values["curves"]} == {
        *("teacher-a", "teacher-b"),
        *("student-undistilled", "student-control", "student-distilled"),
    }
