"""Stored scores as weights: each rule, what a step's loss is, and that parts make the whole."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from distill import Objective, train
from distill.cli import main
from distill.config import DataConfig, OptimizerConfig, RunConfig, ScheduleConfig
from distill.feeding import batches
from distill.preparing import accelerator_for
from distill.stepping import Stepper
from reinforced_data import ViewPolicy, add_scores, open_dataset, reinforce
from reinforced_data.scores.weights import ScoreWeights
from reinforced_data.testing import TOKENIZER, TinyEncoder, tiny_teacher, write_source
from students import StudentSpec, TextSpec, build_student

SAMPLES, BATCH, WITHOUT = 40, 12, 3
# Of a sample's number; the first ones have none, as a filter that failed there would leave it.
SCORES = {f"{n:04d}": (n % 5) / 4 - 0.25 for n in range(WITHOUT, SAMPLES)}
SCHEDULE = ScheduleConfig(num_steps=6, warmup_steps=1)
RECIPE = RunConfig(
    data=DataConfig(batch_size=BATCH, num_workers=0),
    objective=Objective(contrastive=0.3, affinity=0.7),
    optimizer=OptimizerConfig(lr=1e-2),
    schedule=SCHEDULE,
    save_every=3,
    log_every=1,
)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """One teacher, one view, and two scores."""
    folder = tmp_path_factory.mktemp("weights")
    source = write_source(folder / "source", SAMPLES, samples_per_shard=16)
    settings = {"num_views": 1, "policy": ViewPolicy(num_ops=0), "progress": False}
    reinforce(source, folder / "store", teachers=tiny_teacher(), **settings)
    add_scores(folder / "store", "clip", SCORES, progress=False)
    add_scores(folder / "store", "same", dict.fromkeys(SCORES, 0.125), progress=False)
    add_scores(folder / "store", "bad", dict.fromkeys(SCORES, -1.0), progress=False)
    return folder / "store"


def student():
    return build_student(TinyEncoder(seed=5), image_size=16, tokenizer=TOKENIZER)


def weighed(weights: ScoreWeights) -> RunConfig:
    return dataclasses.replace(RECIPE, data=dataclasses.replace(RECIPE.data, score_weights=weights))


def first_batches(store: Path, weights: ScoreWeights, **rank: int) -> list:
    config = weighed(weights)
    return list(batches(open_dataset(store), student(), config, first=0, last=3, **rank))


def test_each_rule():
    scores = np.array([-0.5, 0.0, 0.25, 1.0], np.float32)
    linear = ScoreWeights(score="clip").of(scores)
    np.testing.assert_allclose(linear, np.array([0, 0, 0.8, 3.2]), rtol=1e-12)
    soft = ScoreWeights(score="clip", kind="softmax", temperature=0.5).of(scores)
    wanted = torch.softmax(torch.from_numpy(scores).double() / 0.5, 0).numpy() * 4
    np.testing.assert_allclose(soft, wanted, rtol=1e-12)
    cut = ScoreWeights(score="clip", kind="threshold", threshold=0.25).of(scores)
    assert cut.tolist() == [0, 0, 2, 2]
    # Exponents that no float holds: only their differences count.
    sharp = ScoreWeights(score="clip", kind="softmax", temperature=1e-4).of(scores)
    assert sharp.tolist() == [0, 0, 0, 4]


def test_batches_carry_the_weights_of_their_samples_and_ranks_parts_of_them(store):
    weights = ScoreWeights(score="clip", kind="softmax", temperature=0.3)
    whole = first_batches(store, weights)
    halves = [first_batches(store, weights, rank=rank, world_size=2) for rank in (0, 1)]
    for step, batch in enumerate(whole):
        assert set(batch.keys) <= SCORES.keys(), "a sample without a score takes no part"
        scores = np.array([SCORES[key] for key in batch.keys], np.float32)
        assert torch.equal(batch.weights, torch.from_numpy(weights.of(scores)).float())
        parts = [half[step].weights for half in halves]
        assert torch.equal(torch.cat(parts), batch.weights)
        assert batch.to("cpu").weights is not None
    assert first_batches(store, ScoreWeights())[0].weights is None


def test_a_weight_of_zero_leaves_a_pair_out_of_the_mean_and_keeps_it_as_a_negative(store):
    config = weighed(ScoreWeights(score="clip", kind="threshold", threshold=0.25))
    batch = first_batches(store, config.data.score_weights)[0]
    dataset, learner = open_dataset(store), student()
    stepper = Stepper(learner, config, [16], accelerator_for("no"))
    values = stepper.gradients(batch, 1)
    kept = torch.tensor([SCORES[key] >= 0.25 for key in batch.keys])
    assert 0 < kept.sum() < BATCH and dataset.teachers
    with torch.no_grad():
        rows = learner(learner.preprocess.normalize(batch.pixels), batch.tokens)
    image, text = (torch.nn.functional.normalize(r.double(), dim=1) for r in rows[:2])
    logits = rows.logit_scale.double() * image @ text.T
    pairs = torch.arange(BATCH)
    # Captions here all differ: each pair is its own positive.
    assert len(set(batch.caption_ids.tolist())) == BATCH
    both = [
        torch.nn.functional.cross_entropy(side, pairs, reduction="none")[kept].mean()
        for side in (logits, logits.T)
    ]
    torch.testing.assert_close(values["contrastive"].double(), sum(both) / 2, rtol=2e-6, atol=0)


def test_equal_scores_train_to_the_weights_of_no_scores(store):
    # The samples without a score take no part in either.
    learners = []
    for weights in (ScoreWeights(score="same"), ScoreWeights(score="same", kind="softmax")):
        learners.append(train(student(), store, recipe=weighed(weights), show=False).student)
    plain = weighed(ScoreWeights(score="same", kind="threshold"))
    given = first_batches(store, plain.data.score_weights)
    unweighed = [dataclasses.replace(batch, weights=None) for batch in given]
    results = []
    for found in (given, unweighed):
        learner = student()
        stepper = Stepper(learner, plain, [16], accelerator_for("no"))
        for step, batch in enumerate(found, start=1):
            stepper.step(batch, step)
        results.append(learner.module.state_dict())
    for name, value in results[0].items():
        assert torch.equal(value, results[1][name]), name
        assert torch.equal(
            learners[0].module.state_dict()[name], learners[1].module.state_dict()[name]
        )


def test_a_run_that_goes_on_reaches_the_same_weights(store, tmp_path):
    recipe = weighed(ScoreWeights(score="clip", kind="softmax", temperature=0.3))
    train(student(), store, recipe=recipe, out=tmp_path / "whole", show=False)
    shutil.copytree(tmp_path / "whole", tmp_path / "part")
    shutil.rmtree(tmp_path / "part" / "checkpoints" / "step-00000006")
    (tmp_path / "part" / "model.safetensors").unlink()
    train(student(), store, recipe=recipe, out=tmp_path / "part", show=False)
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "part"))
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    other = weighed(ScoreWeights(score="clip", kind="softmax", temperature=0.4))
    with pytest.raises(ValueError, match=r"data\.score_weights\.temperature: 0\.3 -> 0\.4"):
        train(student(), store, recipe=other, out=tmp_path / "part", show=False)
    config = json.loads((tmp_path / "whole" / "config.json").read_text())
    assert RunConfig.from_json(config).data.score_weights == recipe.data.score_weights


def test_from_the_command_line(store, tmp_path, capsys):
    torch.manual_seed(0)
    text = TextSpec(width=16, layers=1, heads=2, context_length=8)
    spec = StudentSpec(image="smallconv-4", text=text, embed_dim=16, image_size=16)
    build_student(spec, tokenizer=TOKENIZER, name="small").save(tmp_path / "start")
    arguments = {
        "--data.store": store,
        "--out": tmp_path / "run",
        "--student.name": tmp_path / "start",
        "--data.batch-size": 12,
        "--data.num-workers": 0,
        "--schedule.num-steps": 2,
        "--schedule.warmup-steps": 0,
        "--data.score-weights.kind": "linear",
    }
    given = [str(part) for pair in arguments.items() for part in pair]
    assert main(["train", "demo", *given, "--data.score-weights.score", "clip", "--json"]) == 0
    capsys.readouterr()
    assert main(["train", "demo", *given, "--data.score-weights.score", "clop"]) == 2
    assert "no score 'clop'; did you mean 'clip'?" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"score": "bad"}, "no sample of a batch of 12 has a weight.*-1 to -1"),
        ({"score": "clip", "kind": "threshold", "threshold": 2.0}, "score_weights.threshold=2"),
        ({"temperature": 0.0}, "temperature must be positive"),
    ],
)
def test_rules_that_leave_nothing_are_refused(store, weights, message):
    with pytest.raises(ValueError, match=message):
        first_batches(store, ScoreWeights(**weights))


def test_weights_that_no_term_reads_are_refused(store):
    recipe = weighed(ScoreWeights(score="clip"))
    recipe = dataclasses.replace(recipe, objective=Objective(contrastive=0.0, feature=1.0))
    with pytest.raises(ValueError, match="weighs the contrastive and affinity terms"):
        train(student(), store, recipe=recipe, show=False)
