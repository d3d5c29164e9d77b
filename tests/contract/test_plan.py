"""A plan against what then happens: bytes, time, and the refusal of a disk that is too small."""

import json
import os
import time
from dataclasses import replace
from typing import Any

import pytest
import torch

from distill.cli import main
from reinforced_data import StorePlan, open_source, pack_glyphs, plan_store, reinforce
from reinforced_data.planning.disk_room import DiskRoom
from reinforced_data.testing import TOKENIZER, sample, tiny_teacher, write_source
from students import StudentSpec, TextSpec, build_student
from teachers import WordTokenizer, load_teacher


def _bytes(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """600 samples whose captions differ in number and length; one in fifty is unusable."""
    samples = []
    for number in range(600):
        texts = [f"number {number} " + "of a picture " * (number % 7)] * (1 + number % 3)
        broken = {"png": b"no picture"} if number % 50 == 7 else {}
        members = {"json": json.dumps({"captions": texts}), **broken}
        samples.append({k: v for k, v in sample(number, **members).items() if k != "txt"})
    return write_source(tmp_path_factory.mktemp("plan") / "source", samples, samples_per_shard=100)


@pytest.mark.parametrize(
    "codec", ["int8", *(pytest.param(name, marks=pytest.mark.slow) for name in ("int4", "pq64"))]
)
def test_bytes_are_predicted(source, tmp_path, codec):
    teachers = [tiny_teacher("a", embed_dim=64), tiny_teacher("b", embed_dim=128, image_size=8)]
    teachers = teachers[: 1 if codec == "pq64" else 2]  # a codebook takes seconds to fit
    asked: dict[str, Any] = {"teachers": teachers, "num_views": 3, "codec": codec}
    plan = plan_store(source, **asked, probe_samples=128, tower_seconds=0.02)
    assert (plan.samples, plan.samples_from) == (600, "counted")
    reinforce(source, tmp_path / "store", **asked, progress=False)
    assert plan.bytes == pytest.approx(_bytes(tmp_path / "store"), rel=0.03)
    assert plan.files == sum(path.is_file() for path in (tmp_path / "store").rglob("*")) - 2 * (
        codec == "pq64"
    )
    for column in plan.columns:
        if codec != "pq64" or "embeddings" not in column.kind:  # a codebook's digest is in the name
            folders = [tmp_path / "store" / part / column.name for part in ("data", "commits")]
            assert column.bytes == pytest.approx(sum(map(_bytes, folders)), rel=0.05), column.name
    room = plan.room(tmp_path / "store")
    if codec != "pq64":
        assert room.present_bytes == pytest.approx(plan.bytes, rel=0.05)
        assert plan.refusal(replace(room, free_bytes=0, free_files=0)) is None or room.present_bytes


def test_a_disk_too_small_or_without_files_is_refused(source):
    plan = plan_store(source, teachers=[], num_views=2, probe_samples=32)
    room = DiskRoom(out="there", free_bytes=10**9, free_files=10**6)
    assert plan.refusal(room) is None
    assert "GB free" in str(plan.refusal(replace(room, free_bytes=1000)))
    assert "Pack larger shards" in str(plan.refusal(replace(room, free_files=10)))
    assert plan.refusal(DiskRoom(out="s3://x", free_bytes=None, free_files=None)) is None
    there = replace(room, free_bytes=0, free_files=0, present_bytes=10**9, present_files=10**6)
    assert plan.refusal(there) is None


def test_the_probe_leaves_the_teacher_as_it_was_and_nothing_behind(source, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    teacher = tiny_teacher("a")
    before = dict(vars(teacher.module))
    plan_store(source, teachers=[teacher], num_views=1, probe_samples=16, tower_seconds=0.01)
    assert vars(teacher.module).keys() == before.keys()
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def small_teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher") / "small"
    torch.manual_seed(0)
    text = TextSpec(width=16, layers=1, heads=2, context_length=8)
    spec = StudentSpec(image="smallconv-4", text=text, embed_dim=16, image_size=16)
    build_student(spec, tokenizer=TOKENIZER, name="small").save(folder)
    return folder


def run(capsys, *arguments):
    capsys.readouterr()
    code = main([*map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_the_command_its_record_and_its_refusal(source, small_teacher, tmp_path, capsys):
    folder = os.path.dirname(source[0])
    probe = ["--teachers", small_teacher, "--num-views", 2, "--probe-samples", 16]
    probe += ["--tower-seconds", 0.02, "--out", tmp_path / "store"]
    code, record = run(capsys, "plan", folder, *probe)
    assert code == 0, record
    assert record["estimate"]["bytes"] > 0 and not (tmp_path / "store").exists()
    assert record["estimate"]["teachers"][0]["views_per_second"] > 0
    (tmp_path / "plan.json").write_text(json.dumps(record))

    more = ["--samples", 10**12, "--samples-per-shard", 10**4, "--workers", 10]
    code, grown = run(capsys, "plan", tmp_path / "plan.json", *more, "--price-per-hour", 2)
    assert code == 0 and grown["shards"] == 10**8 and grown["measured"] == record["measured"]
    assert grown["estimate"]["cost"] == pytest.approx(2 * grown["estimate"]["worker_hours"])
    code, refused = run(capsys, "plan", tmp_path / "plan.json", *more, "--out", tmp_path / "store")
    assert code == 2 and "GB free" in refused["error"] and refused["estimate"]["bytes"] > 1e13

    again = ["--samples", 10**5, "--workers", 20, "--simulate", "--preemption-hours", 0.01]
    code, simulated = run(capsys, "plan", tmp_path / "plan.json", *again)
    assert code == 0 and simulated["simulation"]["finish_seconds"] > 0
    assert simulated["simulation"]["store_bytes"] == simulated["estimate"]["bytes"]
    code, given = run(capsys, "plan", tmp_path / "plan.json", *again[:-2], "--shard-seconds", 3600)
    found = given["simulation"]
    assert code == 0 and found["ideal_seconds"] > simulated["simulation"]["ideal_seconds"]
    rate = sum(found["requests"].values()) / found["last_worker_seconds"]
    assert found["mean_requests_per_second"] == rate < found["peak_requests_per_second"]
    assert main(["plan", str(tmp_path / "plan.json"), "--simulate"]) == 0
    printed = capsys.readouterr().out
    for said in (
        "600 samples (counted)",
        "read, decode, render",
        "small (cpu)",
        "pays",
        "work lost",
        "in the busiest minute",
    ):
        assert said in printed


def test_input_no_plan_and_no_samples(source, tmp_path, capsys):
    wrong = tmp_path / "wrong.json"
    for content, said in (("{}", "is no plan"), ("{", "is not JSON")):
        wrong.write_text(content)
        code, result = run(capsys, "plan", wrong)
        assert code == 2 and said in result["error"] and str(wrong) in result["error"]
    broken = write_source(tmp_path / "broken", [sample(n, png=b"no picture") for n in range(4)])
    with pytest.raises(ValueError, match=r"none of 4 samples.*not-an-image"):
        plan_store(broken, teachers=[], num_views=1)
    for name in ("workers", "cores", "samples", "probe_samples", "num_views"):
        none: dict[str, Any] = {name: 0}
        with pytest.raises(ValueError, match=f"{name} must be above 0"):
            plan_store(source, teachers=[], **none)
    plan = plan_store(source, teachers=[], num_views=1, probe_samples=8)
    assert StorePlan.from_json(json.loads(json.dumps(plan.to_json())), "") == plan
    with pytest.raises(ValueError, match="workers must be above 0"):
        plan.revised(workers=0)


@pytest.mark.slow
def test_bytes_and_time_are_predicted_on_glyphs(tmp_path):
    """Time is this process' own: another's would make a wall clock say anything."""
    folder = pack_glyphs(tmp_path / "glyphs")["unseen_pairs"]
    torch.manual_seed(0)
    text = TextSpec(width=64, layers=2, heads=2, context_length=24)
    spec = StudentSpec(image="smallconv-32", text=text, embed_dim=64, image_size=32)
    names = [text for shard in open_source(folder) for text in shard.captions]
    tokenizer = WordTokenizer.fit(names, context_length=24)
    teacher = load_teacher(build_student(spec, tokenizer=tokenizer, name="glyphs"))
    asked: dict[str, Any] = {"teachers": [teacher], "num_views": 4, "batch_size": 128}
    plan = plan_store(folder, **asked, probe_samples=128)
    began = time.process_time()
    reinforce(folder, tmp_path / "store", **asked, progress=False)
    spent = time.process_time() - began
    assert plan.bytes == pytest.approx(_bytes(tmp_path / "store"), rel=0.03)
    assert spent / 1.5 < plan.samples * plan.host_seconds < spent * 1.5
