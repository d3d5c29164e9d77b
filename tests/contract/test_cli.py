"""The command line as a user types it: verbs, --json, exit codes, errors."""

import json

import pytest
import torch

from distill.cli import main
from distill.cli.verbs import VERBS
from reinforced_data import ViewPolicy, reinforce
from reinforced_data.testing import TOKENIZER, encoded, picture, tiny_teacher, write_source
from students import StudentSpec, TextSpec, build_student

PROMISED = [
    "demo",
    "pack",
    "reinforce",
    "audit",
    "train",
    "evaluate",
    "export",
    "list",
    "show",
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
    for verb in PROMISED:
        if verb == "train":
            assert main([verb, "--help"]) == 0
            continue
        with pytest.raises(SystemExit) as ended:
            main([verb, "--help"])
        assert ended.value.code == 0


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

    metrics = tmp_path / "teacher.json"
    code, first = run(
        capsys, "evaluate", place / "teacher", "--on", f"held={place / 'source'}", "--out", metrics
    )
    assert code == 0 and json.loads(metrics.read_text())["metrics"] == first["metrics"]
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
    with pytest.raises(SystemExit) as ended:
        main(["train", "demo", "--schedule.num-step", "5"])
    assert ended.value.code == 2
    assert "--schedule.num-steps" in capsys.readouterr().err
