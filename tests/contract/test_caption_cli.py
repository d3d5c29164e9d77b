"""`distill caption` as a user types it."""

import json

import pytest
import torch

from distill.cli import main
from distill.model_loading import load_frozen
from reinforced_data.store.attempts import Attempts
from reinforced_data.store.storage import Storage
from reinforced_data.testing import TOKENIZER, sample, write_source
from students import StudentSpec, TextSpec, build_student
from teachers import RuleCaptioner


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A source of three shards, a teacher's folder, and a store."""
    folder = tmp_path_factory.mktemp("cli")
    write_source(folder / "source", 12)
    torch.manual_seed(0)
    spec = StudentSpec(
        image="smallconv-4",
        text=TextSpec(width=16, layers=1, heads=2, context_length=8),
        embed_dim=16,
        image_size=16,
    )
    build_student(spec, tokenizer=TOKENIZER, name="small-teacher").save(folder / "teacher")
    command = ["reinforce", folder / "source", folder / "store", "--teachers", folder / "teacher"]
    assert main([*map(str, command), "--num-views", "2", "--json"]) == 0
    return folder


def run(capsys, *arguments):
    capsys.readouterr()
    code = main([*map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_write_resume_embed_look_and_audit(place, capsys):
    command = ["caption", place / "store", "--name", "rules", "--captioner", "rules"]
    command += ["--num-captions", 3]
    code, report = run(capsys, *command)
    assert code == 0
    assert (report["samples"], report["written"], report["shards_already_done"]) == (12, 36, 0)
    code, report = run(capsys, *command, "--teachers", place / "teacher")
    assert code == 0 and report["written"] == 0 and len(report["columns"]) == 2
    assert main([str(word) for word in command]) == 0
    printed = capsys.readouterr()
    assert "12 samples in 3 shards (3 were done before), " in printed.out
    assert " 0 captions written in " in printed.out
    assert "caption set rules of" in printed.out
    code, status = run(capsys, "status", place / "store")
    assert code == 0 and status["complete"]
    assert {"captions-rules", "text-small-teacher-rules"} <= {
        column["name"].rpartition("-")[0] for column in status["columns"]
    }
    code, found = run(capsys, "audit", place / "store", "--teachers", place / "teacher")
    assert code == 0 and found["counts"]["columns"] == 7
    assert any(name.startswith("text-small-teacher-rules-") for name in found["cosines"])


def test_a_filter_that_leaves_samples_without_captions_ends_with_3(place, capsys):
    command = ["caption", place / "store", "--name", "near", "--captioner", "rules"]
    command += ["--score-teacher", place / "teacher", "--min-score", 0.05]
    code, report = run(capsys, *command)
    assert code == 3 and report["dropped"]["low-score"] and report["skipped"]
    assert main([str(word) for word in command]) == 3
    printed = capsys.readouterr().out
    assert "x all-captions-dropped: '" in printed


def test_shards_that_wait_are_told_of(place, capsys, tmp_path):
    write_source(tmp_path / "source", [sample(number) for number in range(6)])
    bad = tmp_path / "source" / "00001.tar"
    whole = bad.read_bytes()
    bad.write_bytes(b"<html>")
    command = ["reinforce", tmp_path / "source", tmp_path / "store"]
    assert run(capsys, *command)[0] == 3
    words = ["caption", tmp_path / "store", "--name", "rules", "--captioner", "rules"]
    assert main([str(word) for word in words]) == 3
    assert "waiting: 1 shards that distill reinforce has not finished" in capsys.readouterr().out
    bad.write_bytes(whole)
    assert run(capsys, *command)[0] == 0
    code, report = run(capsys, *words)
    assert code == 0 and (report["shards"], report["shards_already_done"]) == (2, 1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--captioner", "rule"], "no captioner 'rule'; did you mean 'rules'"),
        (["--captioner", "rules", "--top-p", "0.9"], "'rules' has no use for top_p"),
        (["--prompt", "Say it."], "prompt say how a captioner writes, and none is given"),
        ([], "without a captioner, give teachers"),
        (["--captioner", "rules", "--min-score", "0.2"], "needs both min_score and a score"),
        (["--captioner", "rules", "--min-words", "0"], "1 <= min_words <= max_words"),
        (["--captioner", "rules", "--num-captions", "0"], "must be at least 1"),
        (["--captioner", "rules", "--name", "My Set"], "lower-case letters, digits"),
    ],
)
def test_wrong_input_ends_with_2_and_says_what(place, capsys, words, said):
    code, outcome = run(capsys, "caption", place / "store", "--name", "new", *words)
    assert code == 2 and said in outcome["error"]
    assert not list((place / "store" / "columns").glob("captions-new*"))


def test_what_is_no_store_ends_with_2(capsys, tmp_path):
    code, outcome = run(capsys, "caption", tmp_path, "--name", "new", "--captioner", "rules")
    assert code == 2 and "is not a reinforced dataset" in outcome["error"]


def test_a_quarantined_shard_is_told_of_and_tried_again_when_asked(place, capsys):
    attempts = Attempts(Storage(place / "store"), "", "worker")  # of an earlier release
    assert all(attempts.take(1) for _ in range(3))
    attempts.declare_dead("worker", "out of memory")
    command = ["caption", place / "store", "--name", "again", "--captioner", "rules"]
    code, report = run(capsys, *command)
    assert code == 3 and report["shards"] == 2
    ((source, said),) = report["quarantined"].items()
    assert source.endswith("00001.tar") and "worker (out of memory)" in said
    assert main([str(word) for word in command]) == 3
    assert "--retry-quarantined" in capsys.readouterr().out
    code, report = run(capsys, *command, "--retry-quarantined")
    assert code == 0 and report["shards"] == 3 and report["quarantined"] == {}


def test_each_process_has_its_own_gpu(place, capsys, monkeypatch):
    devices = {}

    def captioner(spec, settings):
        devices["captioner"] = settings.device
        return RuleCaptioner()

    def teacher(spec, precision, device):
        devices["teacher"] = device
        return load_frozen(spec, precision, "cpu")

    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr("distill.launching.captioning.load_captioner", captioner)
    monkeypatch.setattr("distill.model_loading.load_frozen", teacher)
    command = ["caption", place / "store", "--name", "own-gpu", "--captioner", "rules"]
    command += ["--teachers", place / "teacher", "--device", "cuda", "--teacher-device", "cuda"]
    assert run(capsys, *command)[0] == 0
    assert devices == {"captioner": "cuda:1", "teacher": "cuda:1"}


def test_captioners_are_listed(capsys):
    code, found = run(capsys, "list", "captioners")
    assert code == 0 and "rules" in [row["name"] for row in found["captioners"]]
