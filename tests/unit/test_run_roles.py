"""What a report calls a run, and what its lineage says of a lock, from configurations alone."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from distill import run_origins
from distill.config import RunConfig
from distill.lineage import recorded_licences
from distill.lock_config import LockConfig
from distill.objective import Objective
from distill.recipes.locked import lit, llm2clip, locked_text, sail
from distill.run_origins import origins
from distill.run_report import report_of_runs
from distill.run_roles import is_given, is_taught
from reinforced_data.store.columns import Column

DINO = "timm/vit_large_patch14_dinov2.lvd142m"
MPNET = "hf-text:sentence-transformers/all-mpnet-base-v2"
LLAMA = "hf-text:microsoft/LLM2CLIP-Llama-3.2-1B-Instruct-CC-Finetuned"
LARGE, BASE = "ViT-L-14/datacomp_xl_s13b_b90k", "ViT-B-16/datacomp_xl_s13b_b90k"
# recipe, kind, the sides that are locked: (side, teacher, what is trained on its rows)
LOCKED = [
    (lit, "control", [("image", LARGE, "nothing")]),
    (locked_text, "distilled", [("text", BASE, "nothing")]),
    (sail, "control", [("image", DINO, "a head (glu)"), ("text", MPNET, "a head (glu)")]),
    (llm2clip, "control", [("text", LLAMA, "a head (mlp)")]),
]


def written(folder, config, metrics=None):
    """What `distill train` leaves of a run, but for the weights."""
    folder.mkdir()
    values = json.loads(json.dumps(config.as_json()))
    values["data"]["store"] = str(folder / "gone")
    (folder / "config.json").write_text(json.dumps(values))
    result = {"image_params": 9, "text_params": 8, "steps": 7, "seconds": 6.0}
    result["metrics"] = metrics or {}
    (folder / "result.json").write_text(json.dumps(result))
    return folder


@pytest.mark.parametrize(("recipe", "kind", "sides"), LOCKED)
def test_a_locked_recipe_is_no_undistilled_student(tmp_path, recipe, kind, sides):
    run = written(tmp_path / "run", recipe())
    (row,) = report_of_runs([run]).rows
    assert row.kind == kind
    steps = [step for step in origins(run) if step.what.startswith("locked")]
    assert [(step.what, step.which, step.facts["trained on its rows"]) for step in steps] == [
        (f"locked {side} encoder, from the store", teacher, trained)
        for side, teacher, trained in sides
    ]
    assert all(step.facts["licence"] for step in steps)


def test_runs_may_be_named_from_here_and_from_the_root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    written(tmp_path / "runs" / "a", RunConfig())
    written(tmp_path / "runs" / "b", RunConfig())
    both = report_of_runs([Path("runs/a"), tmp_path / "runs" / "b"])
    assert both.title == "Runs in runs"
    monkeypatch.chdir(tmp_path / "runs" / "a")
    assert report_of_runs([Path("."), Path("../b")]).title == f"Runs in {tmp_path / 'runs'}"


def test_shares_are_those_of_evaluate(tmp_path):
    """None of a teacher's 0, and no share of what is not better for being more."""
    large = {"val/top1": 0.5, "val/top5": 0.0, "val/ece": 0.1}
    teacher = written(tmp_path / "large", RunConfig(), large)
    run = written(tmp_path / "run", RunConfig(), dict.fromkeys(large, 0.25))
    row = report_of_runs([run], teachers=[teacher]).rows[1]
    assert row.retention == {"val/top1": 0.5, "val/top5": None}


def config(objective=None, **changes):
    base = RunConfig()
    student = {key: changes.pop(key) for key in ("name", "donor", "text_from") if key in changes}
    base = replace(base, student=replace(base.student, **student), **changes)
    plain = objective or Objective()
    return json.loads(json.dumps(replace(base, objective=plain).as_json()))


def own_term(student, teachers):
    raise AssertionError("a report runs nothing")


@pytest.mark.parametrize(
    ("values", "taught", "given"),
    [
        (config(), False, False),
        (config(Objective(relational=1.0)), True, False),
        (config(Objective(custom={"mine": (0.5, own_term)})), True, False),
        (config(Objective(custom={"mine": (0.0, own_term)})), False, False),
        (config(Objective(fastclip=1.0, contrastive=0.0)), False, False),
        (config(text_from="runs/teacher"), False, True),
        (config(donor=BASE), False, True),
        (config(name="ViT-B-16/openai"), False, False),
        (config(name="ViT-B-16/openai", lock=LockConfig(tower="image")), False, True),
        (config(name="ViT-B-16", lock=LockConfig(tower="image")), False, False),
        (config(name="ViT-B-16", lock=LockConfig(tower="text"), text_from=BASE), False, True),
    ],
)
def test_taught_and_given(values, taught, given):
    assert (is_taught(values), is_given(values)) == (taught, given)


def test_every_term_is_in_the_lineage(tmp_path):
    terms = Objective(contrastive=1.0, relational=2.0, custom={"mine": (0.5, own_term)})
    run = written(tmp_path / "run", replace(RunConfig(), objective=terms))
    (recipe,) = [step for step in origins(run) if step.what == "recipe"]
    assert recipe.facts["objective"] == "1 contrastive + 2 relational + 0.5 mine"


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"name": "ViT-B-16/openai"}, "weights it started from"),
        ({"donor": LARGE}, "donor of weights"),
        ({"text_from": BASE}, "donor of the text tower"),
    ],
)
def test_what_it_started_from_is_in_the_lineage_with_the_licence_that_the_store_knows(
    tmp_path, monkeypatch, changes, what
):
    base = RunConfig()
    run = written(tmp_path / "run", replace(base, student=replace(base.student, **changes)))
    (name,) = changes.values()
    (step,) = [step for step in origins(run) if step.which == name]
    assert step.what == what
    facts = {"teacher": {"licence": "of my own"}}
    identity = {"teacher": name}
    column = Column(name="x", kind="x", fingerprint="", identity=identity, facts=facts)
    assert recorded_licences([column]) == {name: "of my own"}
    monkeypatch.setattr(run_origins, "_from_store", lambda data: ([], recorded_licences([column])))
    (step,) = [step for step in origins(run) if step.which == name]
    assert step.facts["licence"].startswith("of my own")


def test_a_configuration_from_before_locks():
    values = config()
    del values["lock"], values["objective"]["custom"]
    assert not is_given(values) and not is_taught(values)


@pytest.mark.parametrize(
    ("changes", "start"),
    [({"text_from": BASE}, BASE), ({"donor": LARGE}, LARGE), ({"name": "a/b"}, "a/b")],
)
def test_a_locked_tower_is_in_the_lineage(tmp_path, changes, start):
    base = RunConfig()
    student = replace(base.student, **changes)
    run = written(tmp_path / "run", replace(base, student=student, lock=LockConfig(tower="text")))
    (step,) = [step for step in origins(run) if step.what.startswith("locked")]
    assert (step.what, step.which) == ("locked text tower", start)
