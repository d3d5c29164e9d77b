"""When a folder's run is the same run: compared field by field, over versions of the toolkit."""

import dataclasses
import json

import pytest

from distill import Objective
from distill.config import DataConfig, RunConfig
from distill.mask_config import MaskConfig
from distill.same_run import check_same_run, differences
from distill.side_by_side import finished_result
from students.tokens.policy import TokenPolicy

CONFIG = RunConfig(
    data=DataConfig(batch_size=64),
    evaluate_on={"a": "x", "b": "y"},
    objective=Objective(feature=2.0),
)


def write(folder, config, without=()):
    """Write `config.json` as a version that did not know some fields of the objective."""
    values = config.as_json()
    for name in without:
        del values["objective"][name]
    (folder / "config.json").write_text(json.dumps({**values, "out": str(folder)}))
    (folder / "result.json").write_text(json.dumps({"steps": 5}))
    return dataclasses.replace(config, out=str(folder))


def test_a_field_that_was_not_known_had_its_default(tmp_path):
    config = write(tmp_path, CONFIG, without=("interactive", "feature_adapter"))
    assert differences(config, tmp_path) == {}
    assert finished_result(config) == {"steps": 5}
    check_same_run(config, tmp_path)

    goal = dataclasses.replace(config.objective, interactive=1.0)
    other = dataclasses.replace(config, objective=goal)
    assert differences(other, tmp_path) == {"objective.interactive": (0.0, 1.0)}
    assert finished_result(other) is None
    with pytest.raises(ValueError, match=r"objective.interactive: 0.0 -> 1.0"):
        check_same_run(other, tmp_path)


def test_a_field_that_is_no_more_counts_where_it_was_on(tmp_path):
    config = write(tmp_path, CONFIG)
    values = json.loads((tmp_path / "config.json").read_text())
    for before, found in ((False, {}), (True, {"student.lock_text": (True, None)})):
        student = {**values["student"], "lock_text": before}
        (tmp_path / "config.json").write_text(json.dumps({**values, "student": student}))
        assert differences(config, tmp_path) == found


def test_the_store_counts_and_how_it_is_spelled_does_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stores = {name: dataclasses.replace(CONFIG.data, store=name) for name in ("a", "./a", "b", "")}
    config = write(tmp_path, dataclasses.replace(CONFIG, data=stores["a"]))
    check_same_run(dataclasses.replace(config, data=stores["./a"]), tmp_path)
    with pytest.raises(ValueError, match=r"data\.store"):
        check_same_run(dataclasses.replace(config, data=stores["b"]), tmp_path)
    write(tmp_path, dataclasses.replace(CONFIG, data=stores[""]))  # of an earlier `distill.train`
    check_same_run(config, tmp_path)


def test_masks_refuse_scores_of_a_moving_average():
    policy = TokenPolicy(image="attentive", image_keep=0.5, image_scores="ema")
    with pytest.raises(ValueError, match=r"masks\.keep trains without a moving average"):
        RunConfig(
            masks=MaskConfig(keep=0.5, steps=5, warmup_steps=1), tokens=policy, ema_decay=0.99
        )


def test_every_other_difference_counts(tmp_path):
    config = write(tmp_path, CONFIG)
    assert differences(config, tmp_path) == {}
    fewer = dataclasses.replace(config, evaluate_on={"a": "x"})
    assert differences(fewer, tmp_path) == {"evaluate_on.b": ("y", None)}
    assert finished_result(fewer) is None
    check_same_run(fewer, tmp_path)  # what is evaluated may change between parts of a run
    assert differences(config, tmp_path / "nowhere") == {}


def test_a_configuration_survives_its_file():
    goal = dataclasses.replace(
        CONFIG.objective, relational_kind="distance", feature_standardize=True, interactive=2.0
    )
    config = dataclasses.replace(CONFIG, objective=goal)
    assert RunConfig.from_json(json.loads(json.dumps(config.as_json()))) == config
