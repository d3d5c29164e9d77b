"""A model card says what a run and its store say, and guesses nothing."""

import json
from pathlib import Path

import pytest

from distill.lineage import card_facts
from students import Origin


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
    licence = "Apple AMLR (research only)"
    assert facts.origins == (Origin(name="ViT-L-14/dfn2b", role="donor", licence=licence),)
    assert facts.origins[0].limited
    assert facts.data == (("reinforced dataset", "gone-dr"),)
    assert ("objective", "1 affinity + 0.5 feature") in facts.recipe
    assert facts.metrics == result["metrics"] and facts.retention == result["retention"]
    assert facts.licence == "mit"


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no training run"):
        card_facts(tmp_path)
    assert card_facts(None).origins == ()
