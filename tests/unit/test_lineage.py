"""A model card says what a run and its store say, and guesses nothing."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from distill.config import DataConfig, RunConfig, StudentConfig
from distill.lineage import card_facts
from distill.lock_config import LockConfig
from reinforced_data import ViewPolicy, reinforce
from reinforced_data.testing import sample, tiny_teacher, write_source
from students import CardFacts, Origin

LIMITED = "Apple AMLR (research only)"


def test_a_run_without_its_store(tmp_path: Path) -> None:
    config = {
        "student": {"name": "s", "donor": "ViT-L-14/dfn2b"},
        "data": {"store": str(tmp_path / "gone-dr"), "batch_size": 64, "teachers": None},
        "objective": {"contrastive": 0.0, "affinity": 1.0, "feature": 0.5},
        "optimizer": {"lr": 1e-3, "weight_decay": 0.2},
        "schedule": {"num_steps": 5000},
    }
    result = {"metrics": {"val/top1": 0.5}, "retention": {"val/top1": 0.9}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "result.json").write_text(json.dumps(result))
    facts = card_facts(tmp_path, licence="mit")
    assert facts.origins == (Origin(name="ViT-L-14/dfn2b", role="donor", licence=LIMITED),)
    assert facts.origins[0].limited
    assert facts.data == (("reinforced dataset", "gone-dr"),)
    assert ("objective", "1 affinity + 0.5 feature") in facts.recipe
    assert facts.metrics == result["metrics"] and facts.retention == result["retention"]
    assert facts.licence == "mit"


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no training run"):
        card_facts(tmp_path)
    assert card_facts(None).origins == ()


def facts_of(folder: Path, student: StudentConfig, lock: LockConfig, store: str = "") -> CardFacts:
    """The facts of a run that was configured so."""
    config = replace(RunConfig(), student=student, lock=lock, data=DataConfig(store=store))
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config.as_json()))
    return card_facts(folder)


def test_a_text_tower_taken_from_a_teacher(tmp_path: Path) -> None:
    student = StudentConfig(name="s", text_from="ViT-L-14/dfn2b")
    facts = facts_of(tmp_path, student, LockConfig(tower="text"))
    origin = Origin(name="ViT-L-14/dfn2b", role="donor of the text tower", licence=LIMITED)
    assert facts.origins == (origin,) and facts.origins[0].limited
    assert ("locked tower", "text, as it started") in facts.recipe
    folder = facts_of(tmp_path, replace(student, text_from=str(tmp_path / "mine")), LockConfig())
    assert [origin.name for origin in folder.origins] == ["mine"]
    assert "locked tower" not in dict(folder.recipe)


def test_published_weights_that_a_locked_tower_keeps(tmp_path: Path) -> None:
    facts = facts_of(tmp_path, StudentConfig(name="ViT-L-14/dfn2b"), LockConfig(tower="image"))
    assert facts.origins == (Origin(name="ViT-L-14/dfn2b", role="start", licence=LIMITED),)
    assert ("locked tower", "image, as it started") in facts.recipe


def test_locked_encoders_with_and_without_a_head(tmp_path: Path) -> None:
    lock = LockConfig(stored_image="ViT-L-14/dfn2b", stored_text="ViT-B-16/openai", text_head="mlp")
    facts = facts_of(tmp_path, StudentConfig(), lock)
    assert [(o.role, o.name, o.limited) for o in facts.origins] == [
        ("locked image encoder", "ViT-L-14/dfn2b", True),
        ("locked text encoder", "ViT-B-16/openai", False),
    ]
    assert facts.origins[1].licence == "MIT"
    assert ("trained on the locked image encoder", "nothing") in facts.recipe
    assert ("trained on the locked text encoder", "a head (mlp)") in facts.recipe


def test_a_store_at_a_url_names_its_teachers(tmp_path: Path) -> None:
    write_source(tmp_path / "source", [sample(n) for n in range(4)], samples_per_shard=4)
    teacher = tiny_teacher("large", seed=1)
    teacher.licence = "cc-by-nc-4.0"
    store = "memory://lineage/cc3m-dr"
    reinforce(tmp_path / "source", store, teachers=teacher, num_views=1, progress=False)
    facts = facts_of(tmp_path / "run", StudentConfig(name="s"), LockConfig(), store)
    assert facts.origins == (Origin(name="large", licence="cc-by-nc-4.0"),)
    assert facts.data == (("reinforced dataset", "cc3m-dr"),)


def test_a_locked_teacher_has_the_licence_that_the_store_has(tmp_path: Path) -> None:
    write_source(tmp_path / "source", [sample(n) for n in range(4)], samples_per_shard=4)
    teacher = tiny_teacher("large", seed=1)
    teacher.licence = "cc-by-nc-4.0"
    reinforce(
        tmp_path / "source", tmp_path / "store", teachers=teacher, num_views=1,
        policy=ViewPolicy(num_ops=0), progress=False,
    )  # fmt: skip
    lock = LockConfig(stored_image="large")
    facts = facts_of(tmp_path / "run", StudentConfig(name="s"), lock, str(tmp_path / "store"))
    assert facts.origins == (
        Origin(name="large", role="locked image encoder", licence="cc-by-nc-4.0"),
        Origin(name="large", licence="cc-by-nc-4.0"),
    )
