"""`distill report` on runs that were really trained: what it says, and what a browser shows."""

import contextlib
import hashlib
import io
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "parity"))
from browsing import needs_chromium, run_page

from distill.cli import main
from distill.evaluation import retention
from reinforced_data import ViewPolicy, reinforce
from reinforced_data.testing import TOKENIZER, encoded, sample, tiny_teacher, write_source
from students import StudentSpec, TextSpec, build_student, load_student

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
SECTIONS = (
    *("results", "costs", "beyond", "curves", "ladder-1", "ladder-2", "text-to-image"),
    *("image-to-text", "confusions", "health", "exports", "time", "origin", "missing"),
)
SCRIPT = "<script>alert(1)</script> blue"
COLOURS = {"red": (200, 30, 30), "green": (30, 190, 40), SCRIPT: (40, 60, 210)}


def written(folder, name: str, **changes: object) -> list[str]:
    settings = {
        "evaluate-every": 2,
        "data.store": folder / "store",
        "data.batch-size": 6,
        "data.num-workers": 0,
        "schedule.num-steps": 4,
        "schedule.warmup-steps": 1,
        "out": folder / name,
        "student.name": folder / "start",
    } | changes
    flags = [part for key, value in settings.items() for part in (f"--{key}", str(value))]
    return ["train", "demo", *flags, "--evaluate-on", "seen", str(folder / "source")]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    names = list(COLOURS)
    samples = [
        sample(n, png=encoded(Image.new("RGB", (24, 20), COLOURS[names[n % 3]])), txt=names[n % 3],
               cls=names[n % 3])
        for n in range(12)
    ]  # fmt: skip
    write_source(folder / "source", samples, samples_per_shard=6)
    reinforce(
        folder / "source",
        folder / "store",
        teachers=tiny_teacher("large", seed=1),
        num_views=2,
        policy=ViewPolicy(num_ops=0),
        progress=False,
    )
    torch.manual_seed(0)
    text = TextSpec(width=16, layers=1, heads=2, context_length=8)
    spec = StudentSpec(image="smallconv-4", text=text, embed_dim=16, image_size=16)
    build_student(spec, tokenizer=TOKENIZER, name="small").save(folder / "start")
    plain = {f"objective.{term}": 0.0 for term in ("affinity", "feature")}
    given = {"student.name": "demo-student", "student.donor": folder / "start"}
    assert main(written(folder, "taught")) == 0
    assert main(written(folder, "plain", **plain)) == 0
    assert main(written(folder, "given", **plain, **given)) == 0
    return folder


def test_roles_shares_pictures_and_lineage(place, tmp_path, capsys):
    out = tmp_path / "page.html"
    runs = [str(place / name) for name in ("taught", "plain", "given")]
    asked = ["report", *runs, "--teachers", str(place / "given"), "--out", str(out), "--json"]
    assert main(asked) == 2
    assert "cannot be told apart" in json.loads(capsys.readouterr().out)["error"]

    shutil.copytree(place / "given", tmp_path / "large")
    asked[asked.index("--teachers") + 1] = str(tmp_path / "large")
    assert main(asked) == 0
    assert json.loads(capsys.readouterr().out)["page"] == str(out)
    numbers, page = json.loads(out.with_suffix(".json").read_text()), out.read_text()
    rows = {row["name"]: row for row in numbers["rows"]}
    assert [row["role"] for row in numbers["rows"]] == ["teacher", "student", "student", "student"]
    assert {name for name, row in rows.items() if row["distilled"]} == {"taught"}
    assert numbers["controls"] == ["given"] and numbers["reference"] == "large"
    shares, top1 = rows["taught"]["retention"], "seen/top1"
    if rows["large"]["metrics"][top1]:
        assert shares[top1] == pytest.approx(
            rows["taught"]["metrics"][top1] / rows["large"]["metrics"][top1]
        )
    assert {c["name"] for c in numbers["curves"]} == set(rows) and len(
        numbers["curves"][0]["steps"]
    )
    steps = {step["what"]: step for step in numbers["lineage"]}
    start = "weights it started from"
    assert list(steps) == ["source", "store", "teacher", start, "recipe", "code", "student"]
    assert steps[start]["which"].endswith("start")
    assert steps["source"]["facts"]["shards"] == "2"
    assert steps["teacher"]["facts"]["licence"].startswith("not known")
    weights = (place / "taught" / "model.safetensors").read_bytes()
    assert steps["student"]["facts"]["sha256"] == hashlib.sha256(weights).hexdigest()
    assert json.loads((place / "taught" / "result.json").read_text())["provenance"]["versions"]
    assert "data:image/png" in page and "&lt;script&gt;alert(1)" in page and "<script" not in page


def test_a_source_that_has_gone_costs_the_pictures_alone(place, tmp_path, capsys):
    run = tmp_path / "taught"
    shutil.copytree(place / "taught", run)
    config = (run / "config.json").read_text().replace(str(place / "source"), "/gone/source")
    (run / "config.json").write_text(config.replace(str(place / "store"), "/gone/store"))
    assert main(["report", str(run), "--out", str(tmp_path / "page.html")]) == 0
    numbers = json.loads((tmp_path / "page.json").read_text())
    assert "/gone/source" in numbers["missing"]["Retrieval, with pictures"]
    assert numbers["lineage"][0]["which"] == "/gone/store"
    assert "/gone/store" in numbers["missing"]["Data health"]
    assert "data:image/png" not in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("run", "options", "says"),
    [
        ("start", [], "holds no finished run"),
        ("taught", ["--evaluations", "no-such.json"], "no-such.json cannot be read"),
        ("taught", ["--pictures-of", "unseen"], "not evaluated on 'unseen'; it has seen"),
    ],
)
def test_input_of_report_is_refused(place, tmp_path, capsys, run, options, says):
    out = tmp_path / "page.html"
    assert main(["report", str(place / run), "--out", str(out), *options]) == 2
    assert says in " ".join(capsys.readouterr().err.split()) and not out.exists()


@pytest.mark.parametrize(
    ("out", "options"),
    [
        ("run/result.html", []),
        ("run/model.safetensors", []),
        ("teacher.html", ["--evaluations", "teacher.json"]),
        ("ladder-x.csv", ["--ladders", "."]),
        ("page.json", []),
    ],
)
def test_a_report_never_replaces_what_it_reads(tmp_path, monkeypatch, capsys, out, options):
    monkeypatch.chdir(tmp_path)
    files = [Path(name) for name in ("run/result.json", "run/config.json", "run/model.safetensors")]
    files += [Path("teacher.json"), Path("ladder-x.csv")]
    Path("run").mkdir()
    for file in files:
        file.write_text("{}")
    assert main(["report", "run", "--out", out, *options]) == 2
    assert f"--out {out}" in " ".join(capsys.readouterr().err.split())
    assert {file.read_text() for file in files} == {"{}"} and len([*tmp_path.iterdir()]) == 3


def test_a_report_beside_its_run_can_be_written_again(place, tmp_path, capsys):
    run = tmp_path / "taught"
    shutil.copytree(place / "taught", run)
    for _ in range(2):
        assert main(["report", str(run), "--out", str(run / "page.html"), "--health", "never"]) == 0
    assert "rows" in json.loads((run / "page.json").read_text())


@pytest.fixture(scope="module")
def evaluated(place, tmp_path_factory):
    """What `distill evaluate` says of a run, with all tests but the probe, and of another model."""
    folder, on = tmp_path_factory.mktemp("evaluated"), f"seen={place / 'source'}"
    tests = ["corruptions", "typographic", "resolutions", "calibration", "agreement"]
    more = ["--tests", *tests, "--resolutions", "8", "12", "--against", str(place / "start")]
    more += ["--leaks-from", str(place / "source")]
    for name, options in (("taught", more), ("start", ["--tests", "calibration"])):
        out = str(folder / f"{name}.json")
        assert main(["evaluate", str(place / name), "--on", on, *options, "--out", out]) == 0
    return folder


@pytest.fixture(scope="module")
def folder(place, evaluated, tmp_path_factory):
    """A page of everything there is, and the page around it that looks at it."""
    folder = tmp_path_factory.mktemp("page")
    runs = [str(place / name) for name in ("taught", "plain", "given")]
    assert main(["export", runs[0], str(folder / "export"), "--quantize", "none", "int8"]) == 0
    profiles = []
    for run in runs:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            assert main(["profile", run, "--repeats", "2", "--warmup", "1", "--json"]) == 0
        profiles.append(folder / f"{Path(run).name}.json")
        profiles[-1].write_text(printed.getvalue())
    line = ["report", *runs[:2], "--teachers", runs[2], "--out", str(folder / "page.html")]
    line += ["--ladders", str(RESULTS), "--exports", str(folder / "export")]
    line += ["--evaluations", str(evaluated / "taught.json"), str(evaluated / "start.json")]
    assert main([*line, "--profiles", *map(str, profiles)]) == 0
    shutil.copy(Path(__file__).with_name("look_at_page.html"), folder / "look.html")
    return folder


def test_files_weights_and_measurements_are_tied_to_their_run(folder):
    numbers = json.loads((folder / "page.json").read_text())
    forms = {(each["name"], each["form"]) for each in numbers["measured"]}
    assert {("taught", "onnx"), ("taught", "onnx int8"), ("plain", "torch on cpu")} <= forms
    files = [step for step in numbers["lineage"] if step["what"] == "file"]
    assert len(files) == 4 and {step["facts"]["now"] for step in files} == {"as exported"}
    assert "seen/top1" in {curve["series"] for curve in numbers["curves"]}
    assert "Exported files" not in numbers["missing"] and "Ladder" not in numbers["missing"]


def test_evaluations_are_rows_or_more_of_rows(place, folder, evaluated):
    numbers = json.loads((folder / "page.json").read_text())
    said = json.loads((evaluated / "taught.json").read_text())["metrics"]
    rows = {row["name"]: row for row in numbers["rows"]}
    assert list(rows) == ["given", "start", "taught", "plain"] and numbers["reference"] == "given"
    assert (rows["start"]["role"], rows["start"]["steps"]) == ("teacher", 0)
    start = load_student(place / "start")
    counted = (rows["start"]["image_params"], rows["start"]["text_params"])
    assert counted == (start.image_params, start.text_params)
    # Tests are no scores of a split: no chart of each corruption.
    assert set(rows["taught"]["metrics"]) == set(rows["plain"]["metrics"])
    tests = {each["name"]: each for each in numbers["beyond"]}
    scores = {f"seen/{name}": value for name, value in tests["taught"]["scores"].items()}
    assert {"seen/ece", "seen/corrupted/top1", "seen/typographic/fooled", "seen/agreement",
            "seen/resolution/12/top1"} <= set(scores)  # fmt: skip
    assert scores == pytest.approx({name: said[name] for name in scores})
    assert (tests["taught"]["leaks"], tests["start"]["leaks"]) == (12, None)
    assert "Beyond one number" not in numbers["missing"]


def test_a_model_that_was_only_evaluated_can_be_the_reference(place, evaluated, tmp_path):
    line = ["report", str(place / "taught"), "--out", str(tmp_path / "page.html")]
    assert main([*line, "--evaluations", str(evaluated / "start.json"), "--health", "never"]) == 0
    numbers = json.loads((tmp_path / "page.json").read_text())
    teacher, student = numbers["rows"]
    assert numbers["reference"] == teacher["name"] == "start"
    assert student["retention"] == retention(student["metrics"], teacher["metrics"])
    assert student["retention"].keys() == teacher["metrics"].keys()
    assert "start" not in numbers["missing"].get("Learning curves", "")


@needs_chromium
@pytest.mark.parametrize(("scheme", "dark"), [("1", False), ("0", True)])
def test_a_browser_shows_all_of_it(folder, tmp_path, scheme, dark):
    asked, console = [], tmp_path / "console.txt"
    flags = [f"--blink-settings=preferredColorScheme={scheme}", "--enable-logging=stderr"]
    looks = run_page(folder, "look.html", flags=flags, asked=asked, console=console)
    assert isinstance(looks, list), looks
    for look in looks:
        assert look["overflow"] <= 0 and look["wide"] == [] and look["texts"] == []
        assert look["faint"] == []
        assert (look["ground"] < 40) if dark else (look["ground"] > 240)
        assert set(SECTIONS) <= set(look["heights"])
        assert min(look["heights"].values()) > 40
        assert look["pictures"] and look["requests"] == 0
    assert set(asked) <= {"/look.html", "/page.html", "/favicon.ico"}
    said = [line for line in console.read_text(errors="replace").splitlines() if "CONSOLE" in line]
    # The browser itself looks for an icon of the page around.
    assert [line for line in said if "favicon" not in line and "404" not in line] == []
    page = (folder / "page.html").read_text()
    assert SCRIPT.replace("<", "&lt;").replace(">", "&gt;") in page and "<script" not in page
