"""`distill report` on runs that were really trained: roles, shares, pictures, lineage."""

import json
import shutil

import pytest
import torch
from PIL import Image

from distill.cli import main
from reinforced_data import ViewPolicy, reinforce
from reinforced_data.testing import TOKENIZER, encoded, sample, tiny_teacher, write_source
from students import StudentSpec, TextSpec, build_student

COLOURS = {"red": (200, 30, 30), "green": (30, 190, 40), "<b>blue": (40, 60, 210)}


def written(folder, name: str, **changes: object) -> list[str]:
    settings = {
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
    assert [what for what, _ in numbers["lineage"]] == ["source", "store", "teacher", "student"]
    assert "data:image/png" in page and "&lt;b&gt;blue" in page and "<b>blue" not in page


def test_a_source_that_has_gone_costs_the_pictures_alone(place, tmp_path, capsys):
    run = tmp_path / "taught"
    shutil.copytree(place / "taught", run)
    config = (run / "config.json").read_text().replace(str(place / "source"), "/gone/source")
    (run / "config.json").write_text(config.replace(str(place / "store"), "/gone/store"))
    assert main(["report", str(run), "--out", str(tmp_path / "page.html")]) == 0
    numbers = json.loads((tmp_path / "page.json").read_text())
    assert "/gone/source" in numbers["notes"][0]
    assert numbers["lineage"][0] == ["store", "/gone/store"]
    assert "data:image/png" not in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("run", "options", "says"),
    [
        ("start", [], "holds no finished run"),
        ("taught", ["--pictures-of", "unseen"], "not evaluated on 'unseen'; it has seen"),
    ],
)
def test_input_of_report_is_refused(place, tmp_path, capsys, run, options, says):
    out = tmp_path / "page.html"
    assert main(["report", str(place / run), "--out", str(out), *options]) == 2
    assert says in " ".join(capsys.readouterr().err.split()) and not out.exists()
