"""Bad input as the command line answers it: exit codes, and texts that say what to do."""

import json
import os

import pytest
import torch

from distill.cli import main
from reinforced_data.testing import TOKENIZER, sample, write_source
from students import StudentSpec, TextSpec, build_student

SPEC = StudentSpec(
    image="smallconv-4",
    text=TextSpec(width=16, layers=1, heads=2, context_length=8),
    embed_dim=16,
    image_size=16,
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A damaged source, two different teachers of one name, and the store of the first."""
    folder = tmp_path_factory.mktemp("commands")
    samples = [sample(0), sample(1, txt=b"\xff"), sample(2, png=b"no"), *map(sample, range(3, 15))]
    shards = write_source(folder / "source", samples)
    os.truncate(shards[1], os.path.getsize(shards[1]) // 2)
    os.truncate(shards[2], 100)
    for seed in (1, 2):
        torch.manual_seed(seed)
        build_student(SPEC, tokenizer=TOKENIZER, name="teacher").save(folder / f"teacher-{seed}")
    return folder


def reinforce(place, *options, teacher=1):
    arguments = ["reinforce", place / "source", place / "store", "--teachers"]
    arguments += [place / f"teacher-{teacher}", "--num-views", 2, *options]
    return main(list(map(str, arguments)))


@pytest.fixture(scope="module")
def store(place):
    assert reinforce(place) == 3
    return place / "store"


def text(capsys):
    return " ".join(capsys.readouterr().err.split())


def test_a_damaged_source_ends_with_3_and_every_sample_accounted_for(place, store, capsys):
    assert reinforce(place) == 3
    printed = capsys.readouterr().out
    for reason in ("bad-text", "not-an-image", "truncated-shard"):
        assert f"left out: 1 x {reason}" in printed
    assert "not read: " in printed and "00002.tar" in printed
    assert reinforce(place, "--json") == 3
    report = json.loads(capsys.readouterr().out)
    assert list(report["failed"]) == [str(place / "source" / "00002.tar")]
    assert main(["status", str(store), "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert status["skipped"] == report["skipped"] and status["samples"] == report["samples"]
    assert status["cut_shards"] == [str(place / "source" / "00001.tar")]
    assert not status["complete"] and status["shards_done"] == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--num-views", 3], "another view set 'default' already (views-"),
        (["--policy.num-ops", 1], "'num_ops': 2"),
        (["--seed", 5], "seed is 0, you give 5"),
        (["--captions-from", "json:alt"], "captions_from is None, you give 'json:alt'"),
        (["--codec", "float32"], "codec is 'int8', you give 'float32'"),
    ],
)
def test_a_store_of_other_settings_says_which_and_what_to_do(
    place, store, capsys, options, message
):
    assert reinforce(place, *options) == 2
    printed = text(capsys)
    assert message in printed and str(store) in printed
    assert "Give the same settings, another name" in printed and "or another folder" in printed


def test_a_store_of_another_teacher_of_that_name_says_so(place, store, capsys):
    assert reinforce(place, teacher=2) == 2
    printed = text(capsys)
    assert "has another teacher 'teacher' already" in printed
    assert "teacher_fingerprint is" in printed and "another name" in printed


def test_evaluation_counts_what_it_could_not_read(place, capsys):
    shards = f"{place}/source/{{00000..00001}}.tar"
    assert main(["evaluate", str(place / "teacher-1"), "--on", shards, "--json"]) == 3
    metrics = json.loads(capsys.readouterr().out)["metrics"]
    assert metrics["skipped"] == 3 and metrics["samples"] >= 4


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{place}/source/{{00000..00009}}.tar", "00003.tar' does not exist"),
        ("{place}/nowhere/*.tar", "does not exist or holds no *.tar shards"),
        ("{place}/source/00002.tar", "is truncated or not an uncompressed tar"),
        ("pipe:cat {place}/source/00000.tar", "would run something"),
        ("s3x://bucket/a.tar", "cannot be opened"),
    ],
)
def test_a_source_that_cannot_be_read_at_all_ends_with_2(place, capsys, source, message):
    arguments = ["reinforce", source.format(place=place), f"{place}/new"]
    assert main(arguments) == 2
    assert message in text(capsys)
