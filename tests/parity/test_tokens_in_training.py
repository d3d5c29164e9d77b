"""Fewer tokens through the trainer: resumed, in micro-batches, on two processes, by phase."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from distill import Objective, train
from distill.accelerate_configs import config_path
from distill.cli import main
from distill.config import DataConfig, OptimizerConfig, RunConfig, ScheduleConfig
from distill.diverging import DivergedError, replay_step
from distill.run_log import read_log
from distill.token_phases import phases, policy_at
from distill.watching import WatchConfig
from reinforced_data import open_dataset, read_extra, reinforce
from reinforced_data.attention import ranks
from reinforced_data.testing import TOKENIZER, tiny_teacher, write_source
from students import StudentSpec, TextSpec, build_student
from students.tokens.policy import TokenPolicy
from teachers import load_teacher
from teachers.patch_attention import PatchAttention
from teachers.vision_transformers import find_vit

SPEC = StudentSpec(
    image="test_vit",
    text=TextSpec(width=16, layers=1, heads=2, context_length=TOKENIZER.context_length),
    embed_dim=16,
    image_size=64,
)


def vit_student(seed: int = 0, image_size: int = 64):
    torch.manual_seed(seed)
    return build_student(replace(SPEC, image_size=image_size), tokenizer=TOKENIZER)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A transformer teacher, whose attention is kept, and another."""
    folder = tmp_path_factory.mktemp("tokens")
    source = write_source(folder / "source", 24, samples_per_shard=10)
    student = vit_student(3)
    looker = load_teacher(
        student.module, name="looker", preprocess=student.preprocess, tokenizer=TOKENIZER
    )
    teachers = [looker, tiny_teacher("b", seed=2, embed_dim=12)]
    arguments = {"num_views": 2, "progress": False, "batch_size": 7}
    reinforce(source, folder / "store", teachers=teachers, **arguments)
    # Afterwards: only the attention is missing, and only that is written.
    reinforce(source, folder / "store", teachers=teachers, attention="looker", **arguments)
    reinforce(source, folder / "at-once", teachers=teachers, attention="looker", **arguments)
    return folder / "store"


def recipe(policy: TokenPolicy = TokenPolicy(), **changes) -> RunConfig:  # noqa: B008 - frozen
    config = RunConfig(
        data=DataConfig(batch_size=8, num_workers=0),
        objective=Objective(contrastive=0.5, affinity=0.5),
        optimizer=OptimizerConfig(lr=1e-3, eps=1e-3),
        schedule=ScheduleConfig(num_steps=4, warmup_steps=1),
        tokens=policy,
        log_every=1,
        save_every=2,
    )
    return replace(config, **changes)


def weights(result) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in result.student.module.state_dict().items()}


def same(first, second) -> bool:
    return all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.fixture(scope="module")
def plain(store):
    return weights(train(vit_student(), store, recipe=recipe(), show=False))


def test_all_tokens_train_as_without_a_policy_bit_for_bit(store, plain):
    for policy in (TokenPolicy(image="random"), TokenPolicy(image="merge")):
        assert same(weights(train(vit_student(), store, recipe=recipe(policy), show=False)), plain)


POLICIES = {
    "random": TokenPolicy(image="random", image_keep=0.5),
    "grid": TokenPolicy(image="grid", image_keep=0.5),
    "block": TokenPolicy(image="block", image_keep=0.25),
    "attentive": TokenPolicy(image="attentive", image_keep=0.5),
    "attentive-ema": TokenPolicy(image="attentive", image_keep=0.5, image_scores="ema"),
    "merge": TokenPolicy(image="merge", image_keep=0.5),
    "resize": TokenPolicy(image="resize", image_keep=0.25),
    "text-truncate": TokenPolicy(text="truncate", text_length=5),
    "text-random": TokenPolicy(text="random", text_length=5),
    "text-block": TokenPolicy(text="block", text_length=5),
    "text-syntax": TokenPolicy(text="syntax", text_length=5),
    "text-frequency": TokenPolicy(text="frequency", text_length=5),
}


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_trains_and_is_undone(name, store, plain):
    config = recipe(POLICIES[name], ema_decay=0.99 if name == "attentive-ema" else None)
    student = vit_student()
    result = train(student, store, recipe=config, show=False)
    assert all(value.isfinite().all() for value in student.module.state_dict().values())
    assert not same(weights(result), plain)
    assert not any("forward" in vars(module) for module in student.modules())
    assert not any(module._forward_pre_hooks for module in student.modules())
    (cost,) = result.cost
    whole = 1 + 16
    if name.startswith("text"):
        assert cost["tokens/text"] == 5 and cost["tokens/image"] == whole
    else:
        assert cost["tokens/image"] < whole and cost["steps"] == 4


def test_micro_batches_choose_the_tokens_of_the_whole_batch(store):
    """The loss of the first step is the same, to rounding: it depends on every choice."""
    for name in ("random", "merge", "text-random", "attentive"):
        losses = []
        for size in (0, 3):
            config = recipe(
                POLICIES[name], data=DataConfig(batch_size=8, num_workers=0, micro_batch_size=size)
            )
            student = vit_student()
            result = train(student, store, recipe=config, show=False)
            losses.append(weights(result))
        for key, value in losses[0].items():
            torch.testing.assert_close(
                losses[1][key], value, rtol=0, atol=2e-5, msg=f"{name} {key}"
            )


PHASED = TokenPolicy(image="random", image_keep=0.5, text="syntax", text_length=5, until=0.5)


def test_phases_and_what_the_log_says(store, tmp_path):
    config = recipe(PHASED, tokens_then=(TokenPolicy(image="resize", image_keep=0.25, until=0.75),))
    assert [phase.last for phase in phases(config)] == [2, 3, 4]
    assert policy_at(config, 4) == TokenPolicy()
    result = train(vit_student(), store, recipe=config, out=tmp_path, show=False)
    lines = [line for line in read_log(tmp_path) if "tokens/image" in line]
    assert [line["tokens/image"] for line in lines] == [9, 9, 5, 17]
    assert [line["tokens/text"] for line in lines] == [5, 5, *[TOKENIZER.context_length] * 2]
    assert all(line["step_seconds"] > 0 and line["peak_memory_bytes"] > 1e6 for line in lines)
    assert [cost["steps"] for cost in result.cost] == [2, 1, 1]
    assert json.loads((tmp_path / "result.json").read_text())["cost"] == result.cost
    stored = RunConfig.from_json(json.loads((tmp_path / "config.json").read_text()))
    assert (stored.tokens, stored.tokens_then) == (config.tokens, config.tokens_then)


def test_a_resumed_run_is_the_run_bit_for_bit(store, tmp_path):
    config = recipe(replace(PHASED, until=0.75))
    whole = weights(train(vit_student(), store, recipe=config, out=tmp_path / "whole", show=False))
    shutil.copytree(tmp_path / "whole", tmp_path / "half")
    shutil.rmtree(tmp_path / "half" / "checkpoints" / "step-00000004")
    again = train(vit_student(9), store, recipe=config, out=tmp_path / "half", show=False)
    assert same(weights(again), whole)
    with pytest.raises(ValueError, match=r"tokens\.image_keep"):
        other = replace(config, tokens=replace(PHASED, until=0.75, image_keep=0.25))
        train(vit_student(), store, recipe=other, out=tmp_path / "whole", show=False)


def test_an_evaluation_between_steps_is_no_part_of_what_scores_patches(store):
    """The moving average that looks at patches is also what is evaluated, in other batches."""
    found = []
    for every in (0, 1):
        config = recipe(
            POLICIES["attentive-ema"],
            ema_decay=0.99,
            evaluate_on={"val": str(store.parent / "source")},
            evaluate_every=every,
        )
        found.append(weights(train(vit_student(), store, recipe=config, show=False)))
    assert same(*found)


def test_a_dump_replays_what_the_moving_average_chose(store, tmp_path):
    strict = WatchConfig(spike_factor=1e-9, min_history=2, window=2, max_skips=2)
    config = recipe(
        POLICIES["attentive-ema"],
        ema_decay=0.5,
        watch=strict,
        optimizer=OptimizerConfig(lr=0.5),
        schedule=ScheduleConfig(num_steps=60, warmup_steps=0),
    )
    with pytest.raises(DivergedError, match="2 steps in a row"):
        train(vit_student(), store, recipe=config, out=tmp_path / "run", show=False)
    (dump,) = (tmp_path / "run").glob("diverged-step-*")
    record = json.loads((dump / "dump.json").read_text())
    found = replay_step(dump, vit_student(), open_dataset(store))
    assert {name: str(value) for name, value in found.items()} == record["values"]


def test_growing_phases_are_asked_for(store):
    config = recipe(PHASED, tokens_then=(PHASED,))
    with pytest.raises(ValueError, match="must grow"):
        train(vit_student(), store, recipe=config, show=False)


def test_bf16_and_checkpointing(store):
    for name in ("random", "merge", "resize", "attentive-ema"):
        config = recipe(
            POLICIES[name], precision="bf16", activation_checkpointing=True, ema_decay=0.99
        )
        result = train(vit_student(), store, recipe=config, show=False)
        assert all(v.isfinite().all() for v in result.student.module.state_dict().values())


def test_scoring_without_a_moving_average_says_what_to_add(store):
    with pytest.raises(ValueError, match="ema-decay"):
        train(vit_student(), store, recipe=recipe(POLICIES["attentive-ema"]), show=False)


def test_stored_attention_is_the_teachers_own(store):
    """Of each view, in the sample's row; written with the embeddings or after them, the same."""
    name = "attention-looker"
    stored = [rows for _, _, rows in read_extra(store, name)]
    for found, other in zip(stored, read_extra(store.parent / "at-once", name), strict=True):
        assert found.equals(other[2])
    dataset = open_dataset(store)
    student = vit_student(3).eval()
    loader = dataset.loader(
        preprocess=student.preprocess,
        tokenizer=TOKENIZER,
        batch_size=8,
        num_steps=2,
        attention=True,
    )
    watched = PatchAttention(find_vit(student.module), [5])
    for batch in loader:
        with torch.no_grad():
            student.module.encode_image(student.preprocess.normalize(batch.pixels))
        found = torch.from_numpy(ranks(watched.take().numpy()))
        assert batch.attention.shape == (8, 4, 4)
        # The teacher embedded other samples beside these: the last bit of a softmax may differ.
        assert (found == batch.attention).float().mean() > 0.95


def test_attention_that_is_not_there_says_how_to_write_it(store, tmp_path):
    source = write_source(tmp_path / "source", 12)
    teachers = [tiny_teacher("b", seed=2)]
    reinforce(source, tmp_path / "store", teachers=teachers, num_views=1, progress=False)
    with pytest.raises(ValueError, match="--attention"):
        train(vit_student(), tmp_path / "store", recipe=recipe(POLICIES["attentive"]), show=False)
    with pytest.raises(ValueError, match="cannot be read"):
        reinforce(
            source,
            tmp_path / "store",
            teachers=teachers,
            num_views=1,
            attention="b",
            progress=False,
        )


SCRIPT = """
import sys
from dataclasses import replace
sys.path.insert(0, sys.argv[3])
from test_tokens_in_training import POLICIES, recipe, vit_student
from distill import train
config = recipe(replace(POLICIES["random"], text="random", text_length=5))
train(vit_student(), sys.argv[1], recipe=config, out=sys.argv[2], show=False)
"""


@pytest.mark.slow
def test_two_processes_equal_one(store, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    here = os.path.dirname(__file__)
    launcher = ["-m", "accelerate.commands.launch", "--config_file", str(config_path("cpu2"))]
    for name, start in (("one", []), ("two", launcher)):
        command = [sys.executable, *start, str(script), str(store), str(tmp_path / name), here]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr[-3000:]
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0, atol=2e-6)


def test_phases_from_the_command_line(store, tmp_path, capsys):
    """CLIPA: most of the run on few tokens, then more, then a tuning on all."""
    vit_student().save(tmp_path / "start")
    command = ["train", "clipa", "--student.name", tmp_path / "start", "--data.store", store]
    command += ["--data.batch-size", 8, "--data.micro-batch-size", 0, "--data.num-workers", 0]
    command += ["--schedule.num-steps", 8, "--schedule.warmup-steps", 1, "--precision", "no"]
    command += ["--tokens.text-length", 5, "--tokens.until", 0.5, "--log-every", 1]
    command += [
        "--tokens-then",
        "image=resize,image-keep=0.5,until=0.75",
        "--out",
        tmp_path / "run",
    ]
    command += ["--tokens-then=text=truncate,text-length=6,until=0.875"]
    assert main([str(part) for part in command]) == 0
    records = [r for r in read_log(tmp_path / "run") if "tokens/image" in r]
    seen = [(r["tokens/image"], r["tokens/text"]) for r in records]
    whole = seen[-1]
    assert [text for _, text in seen] == [5] * 4 + [8, 8, 6, 8]
    assert seen[0][0] < seen[4][0] < whole[0] == seen[6][0]
    assert main([*map(str, command), "--tokens-then", "resize"]) == 2
    assert "NAME=VALUE" in capsys.readouterr().err
    assert main([*map(str, command), "--tokens-then", "image=resized"]) == 2


def test_what_was_usual_before_a_phase_does_not_judge_it(store, tmp_path):
    """At the step to every token a ViT's gradient was eleven times the median: a run gave up."""
    policy = TokenPolicy(image="random", image_keep=0.5, until=0.5)
    kept = {}
    for name, tokens in (("one", TokenPolicy()), ("two", policy)):
        config = recipe(tokens, save_every=1, keep_checkpoints=4)
        train(vit_student(), store, recipe=config, out=tmp_path / name, show=False)
        checkpoints = sorted((tmp_path / name / "checkpoints").iterdir())
        metas = [json.loads((folder / "meta.json").read_text()) for folder in checkpoints]
        kept[name] = [len(meta["extra"]["watch"]["grad_norm"]) for meta in metas]
    assert kept == {"one": [1, 2, 3, 4], "two": [1, 2, 1, 2]}
