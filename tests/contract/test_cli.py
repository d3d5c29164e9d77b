"""The command line as a user types it: verbs, --json, exit codes, errors."""

import json
import os
import subprocess
import sys

import pytest
import torch

from distill.cli import Outcome, main
from distill.cli.verbs import VERBS, Verb
from reinforced_data import ViewPolicy, reinforce
from reinforced_data.testing import TOKENIZER, encoded, picture, tiny_teacher, write_source
from students import StudentSpec, TextSpec, build_student

PROMISED = [
    "demo",
    "pack",
    "plan",
    "reinforce",
    "caption",
    "audit",
    "inherit",
    "train",
    "evaluate",
    "export",
    "profile",
    "list",
    "show",
    "status",
    "doctor",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A source, a teacher's folder, and a store that the command line wrote."""
    folder = tmp_path_factory.mktemp("cli")
    write_source(folder / "source", 20, samples_per_shard=8)
    torch.manual_seed(0)
    spec = StudentSpec(
        image="smallconv-4",
        text=TextSpec(width=16, layers=1, heads=2, context_length=8),
        embed_dim=16,
        image_size=16,
    )
    build_student(spec, tokenizer=TOKENIZER, name="small-teacher").save(folder / "teacher")
    code = main(
        [
            "reinforce",
            str(folder / "source"),
            str(folder / "store"),
            "--teachers",
            str(folder / "teacher"),
            "--num-views",
            "2",
            "--policy.num-ops",
            "1",
            "--json",
        ]
    )
    assert code == 0
    return folder


def run(capsys, *arguments):
    capsys.readouterr()
    code = main([*map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_every_promised_verb_exists_and_helps(capsys):
    assert set(PROMISED) <= set(VERBS)
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in PROMISED)


_HELP = """
import sys, time
from distill.cli import main
from distill.cli.verbs import VERBS
for verb in VERBS:
    before = time.process_time()
    assert main([verb, "--help"]) == 0
    assert time.process_time() - before < 1.5, verb
heavy = {"torch", "open_clip", "transformers", "pandas", "pyarrow"} & set(sys.modules)
assert not heavy, heavy
"""


def test_help_of_every_verb_is_quick_and_loads_no_torch():
    before = sum(os.times()[2:4])
    done = subprocess.run([sys.executable, "-c", _HELP], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert sum(os.times()[2:4]) - before < 1.5 * len(VERBS)
    assert all(f"distill {verb}" in done.stdout for verb in PROMISED)


def test_train_evaluate_export_in_one_chain(place, capsys, tmp_path):
    run_folder = tmp_path / "run"
    arguments = ["train", "demo", "--data.store", place / "store", "--out", run_folder]
    arguments += ["--data.batch-size", 8, "--data.num-workers", 0, "--schedule.num-steps", 6]
    arguments += ["--schedule.warmup-steps", 1, "--evaluate-on", "held", place / "source"]
    arguments += ["--optimizer.lr", 1e-5]  # nothing to learn here; a collapsed tower has no parity
    code, result = run(capsys, *arguments)
    assert code == 0 and result["steps"] == 6 and "held/image_to_text_r10" in result["metrics"]
    written = json.loads((run_folder / "config.json").read_text())
    assert written["data"]["batch_size"] == 8 and written["optimizer"]["lr"] > 0

    code, status = run(capsys, "status", run_folder)
    assert code == 0 and (status["kind"], status["step"], status["finished"]) == ("run", 6, True)
    assert status["metrics"] == result["metrics"] and status["seconds_left"] == 0
    assert status["steps_per_second"] > 0 and status["loss"]["total"] > 0

    metrics = tmp_path / "teacher.json"
    code, first = run(
        capsys, "evaluate", place / "teacher", "--on", f"held={place / 'source'}", "--out", metrics
    )
    assert code == 0 and json.loads(metrics.read_text())["metrics"] == first["metrics"]
    names = tmp_path / "classes.txt"
    names.write_text("cat\n\ndog\n")
    flags = ["--limit", 7, "--captions-from", "txt", "--device", "cpu", "--classes", names]
    code, few = run(capsys, "evaluate", place / "teacher", "--on", place / "source", *flags)
    assert code == 0 and few["metrics"]["samples"] == 7
    flags = ["--captions-from", "json:nothing"]
    code, none = run(capsys, "evaluate", place / "teacher", "--on", place / "source", *flags)
    assert code == 2 and "neither labels nor captions" in none["error"]
    code, second = run(
        capsys, "evaluate", run_folder, "--on", f"held={place / 'source'}", "--against", metrics
    )
    assert code == 0 and second["metrics"] == pytest.approx(
        {key: result["metrics"][key] for key in second["metrics"]}
    )
    assert "held/image_to_text_r10" in second["retention"]

    code, exported = run(
        capsys, "export", run_folder, tmp_path / "export", "--samples", place / "source"
    )
    assert code == 0
    assert {row["tower"] for row in exported["exports"]} == {"image", "text"}
    assert all(row["relative_error"] <= 1e-4 for row in exported["exports"])


def test_reinforce_resumes_and_audit_agrees(place, capsys):
    again = ["reinforce", place / "source", place / "store", "--teachers", place / "teacher"]
    code, report = run(capsys, *again, "--num-views", 2, "--policy.num-ops", 1)
    assert code == 0 and report["shards_already_done"] == report["shards"] == 3
    code, status = run(capsys, "status", place / "store")
    assert code == 0 and status["complete"] and status["samples"] == 20
    assert main(["status", str(place / "store")]) == 0
    printed = capsys.readouterr().out
    assert "3 of 3 shards (100 %), 20 samples, complete" in printed and "\x1b" not in printed
    code, report = run(capsys, "audit", place / "store", "--teachers", place / "teacher")
    assert code == 0 and report["problems"] == []


def test_audit_of_a_damaged_store_exits_with_3(place, capsys, tmp_path):
    source = write_source(tmp_path / "source", 6)
    teacher = tiny_teacher()
    store = tmp_path / "store"
    views = ViewPolicy(num_ops=0)
    reinforce(source, store, teachers=[teacher], num_views=2, policy=views, progress=False)
    next((store / "data").rglob("*.arrow")).write_bytes(b"not arrow")
    code, report = run(capsys, "audit", store)
    assert code == 3 and report["problems"]


def test_pack_a_folder_and_count_what_is_left_out(tmp_path, capsys):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.png").write_bytes(encoded(picture(number)))
        (folder / f"{number}.txt").write_text(f"picture {number}")
    (folder / "4.png").write_bytes(b"no picture")
    (folder / "4.txt").write_text("broken")
    code, report = run(capsys, "pack", folder, tmp_path / "shards")
    assert code == 3 and report["samples"] == 4 and sum(report["skipped"].values()) == 1


def test_list_and_show(capsys):
    code, listed = run(capsys, "list", "recipes")
    assert code == 0 and {row["name"] for row in listed["recipes"]} >= {"demo", "tinyclip"}
    code, listed = run(capsys, "list", "students")
    assert code == 0 and any(row["name"] == "MobileCLIP2-S0" for row in listed["students"])
    code, listed = run(capsys, "list", "teachers")
    assert code == 0 and any(row["name"] == "ViT-B-16/openai" for row in listed["teachers"])
    code, recipe = run(capsys, "show", "mobileclip2")
    assert code == 0 and recipe["student"]["name"] == "MobileCLIP2-S0"
    assert main(["show", "accelerate", "ddp"]) == 0
    assert capsys.readouterr().out.strip().endswith("ddp.yaml")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "no verb 'trian'; did you mean 'train'?"),
        (["train", "demoo"], "no recipe 'demoo'; did you mean 'demo'?"),
        (["train", "demo", "--out", "x"], "--data.store"),
        (["train", "demo", "--data.store", "x"], "--out"),
        (["list", "studnets"], "did you mean 'students'?"),
        (["show", "accelerate", "dpp"], "did you mean 'ddp'?"),
        (["evaluate", "ViT-B-16/opnai", "--on", "x"], "openai"),
        (["reinforce", "nowhere", "out"], "nowhere"),
        (["audit", "nowhere"], "nowhere"),
        (["status", "nowhere"], "nowhere is neither a reinforced dataset"),
        (["export", "nowhere", "out"], "nowhere"),
    ],
)
def test_wrong_input_exits_with_2_and_says_what(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert main([*arguments, "--json"]) == 2
    assert message in json.loads(capsys.readouterr().out)["error"]


def test_an_unknown_override_exits_with_2(capsys):
    assert main(["train", "demo", "--schedule.num-step", "5"]) == 2
    assert "--schedule.num-steps" in capsys.readouterr().err
    code, values = run(capsys, "train", "demo", "--schedule.num-step", "5")
    assert code == 2 and "does not take these arguments" in values["error"]


def test_profile_of_a_folder(capsys, place):
    code, values = run(capsys, "profile", place / "teacher", "--repeats", 2)
    assert code == 0 and [(row["tower"], row["form"]) for row in values["towers"]] == [
        (tower, form) for tower in ("image", "text") for form in ("training", "inference")
    ]
    assert all(row["macs"] > 0 and row["latency_ms"] > 0 for row in values["towers"])


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_answers_wrong_arguments_with_one_document(verb, capsys):
    code, values = run(capsys, verb, "--no-such-flag")
    assert code == 2 and set(values) == {"error"}


def noisy(*_):
    """A verb whose libraries print, in Python, in C and in a child process."""
    print("loading ...")
    os.write(1, b"a C library\n")
    subprocess.run(["echo", "a child"], check=True)
    return Outcome(values={"done": True})


def test_json_is_all_that_stdout_holds(capfd, monkeypatch):
    monkeypatch.setitem(VERBS, "noisy", Verb(summary="", run=noisy))
    assert main(["noisy", "--json"]) == 0
    printed = capfd.readouterr()
    assert json.loads(printed.out) == {"done": True}
    assert all(text in printed.err for text in ("loading ...", "a C library", "a child"))


def test_json_has_null_where_a_number_is_none(capsys, monkeypatch):
    """A diverged run's loss, say: `NaN` and `Infinity` are Python's, and no JSON."""
    values = {"loss": float("nan"), "runs": [(1.5, float("inf")), {"deep": -float("inf")}]}
    diverged = Verb(summary="", run=lambda *_: Outcome(values=values))
    monkeypatch.setitem(VERBS, "diverged", diverged)
    assert main(["diverged", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert printed == {"loss": None, "runs": [[1.5, None], {"deep": None}]}


@pytest.mark.parametrize(
    ("error", "code", "traced"),
    [
        (ValueError("[bad] input"), 2, False),
        (FileNotFoundError(2, "No such file", "x"), 2, False),
        (OSError(28, "No space left on device", "x"), 1, False),
        (ZeroDivisionError("ours"), 1, True),
        (KeyboardInterrupt(), 130, False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_error_has_a_code_a_text_and_a_document(error, code, traced, capsys, monkeypatch):
    def fail(*_):
        raise error

    monkeypatch.setitem(VERBS, "fail", Verb(summary="", run=fail))
    assert main(["fail"]) == code
    printed = capsys.readouterr()
    assert printed.out == "" and ("Traceback" in printed.err) == traced
    assert (str(error) or "interrupted") in printed.err.replace("\n", " ")
    found, values = run(capsys, "fail")
    assert found == code and set(values) == {"error"}
