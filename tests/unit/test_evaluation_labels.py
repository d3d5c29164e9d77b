"""Labels that cannot be scored: none, numbers and ids, and names that are no class."""

import json
from pathlib import Path

import pytest
from open_clip import OPENAI_IMAGENET_TEMPLATES

from distill.cli import main
from distill.evaluation import TEMPLATES, Suite, evaluate, run_suite
from distill.evaluation.label_checks import check_first_labels
from distill.evaluation.zero_shot import named_templates
from distill.file_metrics import metric_on
from reinforced_data.testing import sample, tiny_teacher, write_source

WORDLESS = r"the labels of .*source look like numbers or ids .*such as '{}'.*--class-names FILE"


def write(folder: Path, labels: list[str | None]) -> str:
    """A sample a label; its caption is the word red or blue."""
    samples = [
        sample(n, txt=("red", "blue")[n % 2], **({} if label is None else {"cls": label}))
        for n, label in enumerate(labels)
    ]
    write_source(folder / "source", samples)
    return str(folder / "source")


@pytest.mark.parametrize("ids", [("207", "3"), ("n01440764", "n01443537"), ("-1\n", " 5")])
def test_numbers_and_ids_are_refused_and_not_scored(tmp_path, ids):
    source, first = write(tmp_path, [*ids, None]), min(i.strip() for i in ids)
    for classes in (None, ("tench", "goldfish")):
        with pytest.raises(ValueError, match=WORDLESS.format(first)):
            evaluate(tiny_teacher(), source, classes=classes)
    # Where they are the names, and where nobody asks for names.
    given = evaluate(tiny_teacher(), source, classes=[i.strip() for i in ids])
    assert 0 <= given["top1"] <= 1 and given["samples"] == 3
    assert "top1" not in evaluate(tiny_teacher(), source, tasks=("retrieval",))


def test_one_label_that_is_no_number_makes_names_of_all(tmp_path):
    source = write(tmp_path, ["747", "red"])
    assert "top1" in evaluate(tiny_teacher(), source)
    with pytest.raises(ValueError, match="the label '747' is none of the 1 classes"):
        evaluate(tiny_teacher(), source, classes=("red",))


def test_the_check_before_training_reads_on_until_a_label_is_a_name(tmp_path):
    check_first_labels(write(tmp_path / "names", ["747"] * 40 + ["Airbus"]))
    check_first_labels(write(tmp_path / "many", ["747"] * 1_001 + ["Airbus"]))
    check_first_labels(write(tmp_path / "none", [None] * 40))
    with pytest.raises(ValueError, match=WORDLESS.format("0")):
        check_first_labels(write(tmp_path / "ids", [str(n) for n in range(40)]))
    with pytest.raises(ValueError, match=WORDLESS.format("7")):
        check_first_labels(write(tmp_path / "later", [None, None, "7"]))


def test_the_metric_of_exported_files_is_refused_before_they_are_made(tmp_path):
    source = write(tmp_path, ["207", "3"])
    with pytest.raises(ValueError, match=WORDLESS.format("207")):
        metric_on(source)
    assert metric_on(source, "text_to_image_r1")(tiny_teacher()) >= 0


@pytest.mark.parametrize("classes", [None, ("red", "blue")], ids=["labels", "classes"])
@pytest.mark.parametrize("name", ["calibration", "agreement", "typographic"])
def test_tests_on_a_source_without_labels_say_so(tmp_path, name, classes):
    source = write(tmp_path, [None] * 3)
    suite = Suite(source=source, classes=classes, teacher=tiny_teacher(seed=2))
    with pytest.raises(ValueError, match=rf"{name} needs labels, and no sample of {source} has"):
        run_suite(tiny_teacher(), suite, (name,))


@pytest.mark.parametrize("name", ["calibration", "agreement", "typographic", "corruptions"])
def test_tests_refuse_labels_that_are_no_class_as_evaluate_does(tmp_path, name):
    source = write(tmp_path / "names", ["red", "blue"])
    suite = Suite(source=source, classes=("red", "bleu"), teacher=tiny_teacher(seed=2))
    says = "the label 'blue' is none of the 2 classes; did you mean 'bleu'"
    with pytest.raises(ValueError, match=says):
        run_suite(tiny_teacher(), suite, (name,))
    suite = Suite(source=write(tmp_path / "ids", ["1", "0"]), teacher=tiny_teacher(seed=2))
    with pytest.raises(ValueError, match=WORDLESS.format("0")):
        run_suite(tiny_teacher(), suite, (name,))


def test_a_probe_needs_labels_on_both_sides(tmp_path):
    bare, named = write(tmp_path / "a", [None] * 3), write(tmp_path / "b", ["red", "blue"] * 6)
    for train, on in ((bare, named), (named, bare)):
        with pytest.raises(ValueError, match=f"probe needs labels, and no sample of {bare} has"):
            run_suite(tiny_teacher(), Suite(source=on, probe_train=train), ("probe",))


def test_the_command_names_the_source_and_what_to_do(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("distill.model_loading.load_model", lambda *_, **__: tiny_teacher())
    source = write(tmp_path, ["0", "1"])
    code = main(["evaluate", "tiny", "--on", source, "--out", str(tmp_path / "m.json")])
    assert code == 2
    said = capsys.readouterr()
    text = " ".join((said.out + said.err).split())
    assert "--class-names" in text and "--classes FILE" in text
    assert not (tmp_path / "m.json").exists()


def test_imagenet_templates_are_open_clip_s(tmp_path):
    prompts = TEMPLATES["imagenet"]
    assert [p.replace("{}", "cat") for p in prompts] == [
        t("cat") for t in OPENAI_IMAGENET_TEMPLATES
    ]
    assert len(set(prompts)) == len(prompts) == 80
    assert named_templates(("imagenet",)) == prompts and "imagenet" in list(TEMPLATES)
    source = write(tmp_path, ["red", "blue"])
    found = evaluate(tiny_teacher(), source, templates="imagenet")
    assert found == evaluate(tiny_teacher(), source, templates=prompts)
    assert json.dumps(list(TEMPLATES)) == '["plain", "photo", "photo7", "imagenet"]'
