"""`distill evaluate`: what its flags ask and what its file says was asked."""

import json
from dataclasses import asdict
from io import StringIO

import pytest
import torch
from PIL import Image
from rich.console import Console

from distill.cli import main
from distill.cli.evaluating import _named_splits
from distill.cli.parsing import hint_at_gpu
from distill.evaluation import Suite, alike_classes, class_audit, embedding, run_suite
from reinforced_data.shard_writer import write_shards
from reinforced_data.testing import encoded, photograph
from students import Student, StudentSpec, TextSpec, build_student
from students.student import tower_params
from teachers import load_teacher
from teachers.tokenizers import WordTokenizer

NAMES = ("red square", "green disc", "blue bar", "Red Square")


def make(seed: int) -> Student:
    torch.manual_seed(seed)
    text = TextSpec(width=16, layers=1, heads=2, context_length=8)
    spec = StudentSpec(image="smallconv-4", text=text, embed_dim=16, image_size=16)
    words = sorted({word for name in NAMES for word in name.lower().split()} | {"it", "is", "a"})
    return build_student(spec, tokenizer=WordTokenizer(words, context_length=8))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a student, a teacher, and two sources of 24 and 12 pictures."""
    folder = tmp_path_factory.mktemp("command")
    samples = [
        {
            "__key__": f"{i:03d}",
            "png": encoded(photograph(i, 40, 40)),
            "txt": NAMES[i % 4],
            "cls": NAMES[i % 4],
        }
        for i in range(36)
    ]
    write_shards(folder / "train", samples[:24], samples_per_shard=8)
    write_shards(folder / "test", samples[24:], samples_per_shard=8)
    make(1).save(folder / "student")
    make(2).save(folder / "teacher")
    return folder


def asked(capsys, place, *arguments: object) -> tuple[int, dict]:
    student, test = str(place / "student"), str(place / "test")
    code = main(["evaluate", student, "--on", test, "--json", *map(str, arguments)])
    return code, json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("there", "device", "said"),
    [(True, "cpu", True), (True, "cuda:1", False), (False, "cpu", False)],
)
def test_a_gpu_that_is_left_idle_is_named(there, device, said, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    printed = StringIO()
    hint_at_gpu(device, Console(file=printed))
    assert ("--device cuda" in printed.getvalue()) == said


def test_each_test_s_flags_reach_it(place, capsys):
    tests = ["corruptions", "resolutions", "sizes", "probe", "typographic", "calibration"]
    flags = ["--severities", 1, 5, "--resolutions", 8, 12, "--sizes", 12, 24]
    code, values = asked(
        capsys, place, "--tests", *tests, *flags, "--probe-train", place / "train", "--limit", 9
    )
    assert code == 0
    suite = Suite(
        source=str(place / "test"),
        severities=(1, 5),
        resolutions=(8, 12),
        sizes=(12, 24),
        probe_train=str(place / "train"),
        limit=9,
    )
    expected = run_suite(make(1), suite, tests)
    assert {name: values["metrics"][name] for name in expected} == pytest.approx(expected)
    assert {"size/24/top1", "resolution/12/top1", "probe_top1"} <= expected.keys()


def test_agreement_with_a_teacher(place, capsys):
    tests = ["--tests", "agreement", "sizes", "--sizes", 12]
    code, values = asked(capsys, place, *tests, "--against", place / "teacher")
    assert code == 0
    expected = run_suite(
        make(1), Suite(source=str(place / "test"), teacher=make(2)), ("agreement",)
    )
    assert values["metrics"]["agreement"] == pytest.approx(expected["agreement"])
    # Nothing that the teacher was asked, too; its plain scores are.
    assert not {"agreement", "size/12/top1"} & values["retention"].keys()
    assert "top1" in values["retention"]
    code, values = asked(capsys, place, "--tests", "agreement")
    assert code == 2 and "--against" in values["error"]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--tests", "typografic"], "did you mean 'typographic'"),
        (["--tests", "probe"], "--probe-train"),
        (["--tests", "probe", "--probe-train", "nowhere"], "'nowhere' does not exist"),
        (["--tests", "agreement"], "--against"),
        (["--tests", "sizes", "--sizes", 0], "a size must be at least 1 pixel"),
        (["--tests", "resolutions", "--resolutions", 0], "a resolution must be at least 1 pixel"),
        (["--tests", "corruptions", "--severities", 3, 9], "severity must be one of"),
        (["--against", "missing.json"], "missing.json"),
        (["--leaks-from", "nowhere"], "'nowhere' does not exist"),
        (["--limit", -1], "a limit must be at least 1 sample, got -1"),
        (["--limit", 0, "--alike"], "a limit must be at least 1 sample, got 0"),
    ],
)
def test_what_cannot_be_is_refused_before_the_first_pass(place, capsys, monkeypatch, flags, says):
    def embedded(*_: object) -> None:
        raise AssertionError("the pictures were embedded first")

    monkeypatch.setattr(embedding, "_embed", embedded)
    code, values = asked(capsys, place, *flags)
    assert says in values["error"] and code == 2


def test_the_name_of_a_split_is_no_part_of_a_path():
    on = ("val=s3://b/date=2024/{0..9}.tar", "s3://b/date=2024/{0..9}.tar")
    assert _named_splits(on) == {"val": "s3://b/date=2024/{0..9}.tar", "": on[1]}
    assert _named_splits(["date=2024/0.tar"]) == {"date": "2024/0.tar"}
    with pytest.raises(ValueError, match="twice"):
        _named_splits(["a/b=1.tar", "a/b=2.tar"])


def test_prompts_for_other_classes_are_refused_and_gaps_are_said(place, capsys, tmp_path):
    (tmp_path / "cupl.json").write_text(json.dumps({"Blue Bar": ["it is red"]}))
    code, values = asked(capsys, place, "--prompts", tmp_path / "cupl.json")
    assert code == 2 and "none of the 4 classes has a sentence" in values["error"]
    (tmp_path / "cupl.json").write_text(json.dumps({"blue bar": ["it is red"]}))
    given = [str(place / "student"), "--on", str(place / "test"), "--limit", "4"]
    assert main(["evaluate", *given, "--prompts", str(tmp_path / "cupl.json")]) == 0
    assert "3 of 4 classes have no sentences" in capsys.readouterr().out


def test_prompts_are_used_and_the_file_says_what_was_asked(place, capsys, tmp_path):
    (tmp_path / "cupl.json").write_text(json.dumps({"blue bar": ["it is red"]}))
    out = tmp_path / "deep" / "metrics.json"
    flags = ["--templates", "a {}", "--prompts", tmp_path / "cupl.json", "--tests", "calibration"]
    code, values = asked(capsys, place, *flags, "--limit", 7, "--out", out)
    assert code == 0 and json.loads(out.read_text()) == values
    sentences = {"blue bar": ["it is red"]}
    suite = Suite(source=str(place / "test"), templates=("a {}",), sentences=sentences, limit=7)
    with_them = run_suite(make(1), suite, ("calibration",))["confidence"]
    assert values["metrics"]["confidence"] == pytest.approx(with_them, abs=1e-6)
    _, plain = asked(capsys, place, "--templates", "a {}", "--tests", "calibration", "--limit", 7)
    assert abs(plain["metrics"]["confidence"] - with_them) > 1e-5
    said = values["asked"]
    assert said["prompts"] == str(tmp_path / "cupl.json") and said["templates"] == ["a {}"]
    assert said["tests"] == ["calibration"] and said["limit"] == 7 and said["severities"] == [3]
    assert said["resolutions"] == said["sizes"] == [] and said["on"] == [str(place / "test")]
    assert values["class_counts"] == {"": 4} and values["provenance"]["versions"]["torch"]
    # What older readers know is where it was.
    assert values["model"] == str(place / "student") and values["retention"] is None
    assert "audit" not in values


def test_alike_names_are_compared_by_the_texts_that_score(place, capsys, tmp_path):
    said = {"blue bar": ["a green disc"] * 50}
    (tmp_path / "cupl.json").write_text(json.dumps(said))
    names, pair = sorted(NAMES), ("blue bar", "green disc")
    found = []
    for flags, sentences in (((), None), (("--prompts", tmp_path / "cupl.json"), said)):
        _, values = asked(capsys, place, "--alike", "--templates", "a {}", *flags)
        listed = [asdict(x) for x in alike_classes(
            make(1), names, templates=("a {}",), sentences=sentences
        )]  # fmt: skip
        assert values["audit"][""]["alike"] == listed
        found.append({(x["first"], x["second"]): x["cosine"] for x in listed})
    assert pair not in found[0] and found[1][pair] > 0.99


def test_the_file_counts_both_towers_of_a_student_and_of_a_teacher(place, capsys):
    model, frozen = make(1), load_teacher(make(1))
    _, values = asked(capsys, place)
    assert (values["image_params"], values["text_params"]) == (
        sum(x.numel() for x in model.module.visual.parameters()),
        sum(x.numel() for x in model.module.text.parameters()),
    )
    assert tower_params(frozen) == {"image": model.image_params, "text": model.text_params}
    assert not any(value.requires_grad for value in frozen.parameters())


def test_alike_names_without_training_shards(place, capsys, tmp_path):
    code, values = asked(capsys, place, "--alike")
    found = values["audit"][""]
    assert code == 0 and found.keys() == {"alike"} and len(found["alike"]) >= 1
    assert ("Red Square", "red square") in {(x["first"], x["second"]) for x in found["alike"]}
    code, values = asked(capsys, place, "--leaks-from", place / "test")
    assert values["audit"][""]["alike"] == found["alike"]
    assert len(values["audit"][""]["leaks"]) == 12
    bare = {"__key__": "a", "png": encoded(Image.new("RGB", (9, 9))), "txt": "it is"}
    write_shards(tmp_path / "bare", [bare], samples_per_shard=8)
    # The last --on is what counts.
    code, values = asked(capsys, place, "--alike", "--on", tmp_path / "bare")
    assert code == 2 and "--classes" in values["error"] and "--alike" in values["error"]


def test_training_shards_are_embedded_once_for_all_splits(place, capsys, monkeypatch):
    read = []
    whole = class_audit.known_pictures
    monkeypatch.setattr(
        class_audit, "known_pictures", lambda *a, **k: read.append(a[1]) or whole(*a, **k)
    )
    train, test = str(place / "train"), str(place / "test")
    splits = ["--on", f"a={test}", f"b={train}"]
    code, values = asked(capsys, place, "--leaks-from", train, *splits)
    assert code == 0 and sorted(read) == sorted([train, test, train])
    assert len(values["audit"]["b"]["leaks"]) == 24


def test_sentences_without_names_to_say_them_of_are_refused(place, capsys, tmp_path):
    bare = {"__key__": "a", "png": encoded(Image.new("RGB", (9, 9))), "txt": "it is"}
    write_shards(tmp_path / "bare", [bare], samples_per_shard=8)
    (tmp_path / "cupl.json").write_text(json.dumps({"blue bar": ["it is red"]}))
    for flag in ("--prompts", "--hierarchy"):
        code, values = asked(capsys, place, flag, tmp_path / "cupl.json", "--on", tmp_path / "bare")
        assert code == 2 and "no source has labels" in values["error"], flag


def test_a_file_of_classes_may_begin_with_a_mark_and_keep_odd_spaces(place, capsys, tmp_path):
    """Windows' editors write the mark; U+2028 is no new line to them."""
    names = [*NAMES, "odd\u2028name"]
    (tmp_path / "names.txt").write_text("\r\n".join(names) + "\r\n\r\n", encoding="utf-8-sig")
    code, values = asked(capsys, place, "--classes", tmp_path / "names.txt", "--alike")
    assert code == 0 and values["class_counts"] == {"": 5}


def test_a_hierarchy_s_sentences_are_used(place, capsys, tmp_path):
    (tmp_path / "parents.json").write_text(json.dumps({"blue bar": "square", "square": "disc"}))
    flags = ["--tests", "calibration", "--hierarchy", tmp_path / "parents.json"]
    _, values = asked(capsys, place, *flags)
    sentences = {"blue bar": ["a blue bar, which is a square, which is a disc"]}
    suite = Suite(source=str(place / "test"), sentences=sentences)
    expected = run_suite(make(1), suite, ("calibration",))
    assert values["metrics"]["confidence"] == pytest.approx(expected["confidence"], abs=1e-6)
