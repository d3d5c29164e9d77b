"""What else a model is asked: on real shards, with answers known from elsewhere."""

import io
import json
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from distill.cli import main
from distill.evaluation import Suite, alike_classes, evaluate, leaks, linear_probe, run_suite
from distill.evaluation.calibration import calibration, expected_calibration_error
from distill.evaluation.probing import fit_probe
from distill.evaluation.prompt_files import hierarchy_sentences, read_hierarchy, read_sentences
from distill.evaluation.stress import (
    CORRUPTIONS,
    corruption,
    lower_resolution,
    typographic_attack,
    written_class,
)
from distill.evaluation.zero_shot import embed_classes
from reinforced_data.shard_writer import write_shards
from reinforced_data.source import Sample, open_source
from reinforced_data.testing import photograph
from students import Student, StudentSpec, TextSpec, build_student
from teachers.clip_model import unit_rows
from teachers.tokenizers import WordTokenizer

NAMES = ("red square", "green disc", "blue bar", "grey sky")


def bare(key: str, label: str | None = None) -> Sample:
    return Sample(key=key, image=b"", extension="png", captions=(), label=label, offset=0, size=0)


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def picture(label: int, seed: int) -> Image.Image:
    """A photograph tinted by its class."""
    pixels = np.array(photograph(seed, 40, 40)).astype(np.float32)
    tint = np.array([(1, 0.2, 0.2), (0.2, 1, 0.2), (0.2, 0.2, 1), (0.6, 0.6, 0.6)][label])
    return Image.fromarray((pixels * tint).astype(np.uint8))


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("suite") / "source"
    samples = [
        {
            "__key__": f"{i:03d}",
            "png": png(picture(i % 4, i)),
            "txt": NAMES[i % 4],
            "cls": NAMES[i % 4],
        }
        for i in range(40)
    ]
    write_shards(folder, samples, samples_per_shard=16)
    return str(folder)


@pytest.fixture(scope="module")
def student() -> Student:
    torch.manual_seed(3)
    spec = StudentSpec(
        image="smallconv-4",
        text=TextSpec(width=16, layers=1, heads=2, context_length=8),
        embed_dim=16,
        image_size=16,
    )
    words = sorted({word for name in NAMES for word in name.split()} | {"a", "it", "is", "."})
    return build_student(spec, tokenizer=WordTokenizer(words, context_length=8))


def test_calibration_error_equals_the_definition():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(500, 7)) * 2
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    targets = rng.integers(0, 7, size=500)
    expected, confidence = 0.0, probabilities.max(1)
    right = probabilities.argmax(1) == targets
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            expected += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    got = expected_calibration_error(torch.tensor(probabilities), torch.tensor(targets))
    assert got == pytest.approx(expected, abs=1e-12) and got > 0.1


def test_a_model_that_is_as_sure_as_it_is_right_is_calibrated():
    """1,000 answers with 80 % in the first class, right 800 times; then all of them wrong."""
    probabilities = torch.tensor([[0.8, 0.2]]).repeat(1000, 1)
    targets = torch.tensor([0] * 800 + [1] * 200)
    assert expected_calibration_error(probabilities, targets) == pytest.approx(0, abs=1e-6)
    assert expected_calibration_error(probabilities, 1 - torch.zeros_like(targets)) == (
        pytest.approx(0.8)
    )


def test_calibration_takes_the_scale_itself():
    rows = torch.eye(3)
    got = calibration(rows, ["a", "b", "c"], ["a", "b", "c"], rows, scale=2.0)
    sure = np.exp(2) / (np.exp(2) + 2)
    assert got == pytest.approx({"ece": 1 - sure, "confidence": sure})


def test_probe_weights_are_where_the_gradient_vanishes():
    generator = torch.Generator().manual_seed(0)
    rows = unit_rows(torch.randn(80, 5, generator=generator, dtype=torch.float64))
    targets = torch.arange(80) % 3
    weights = fit_probe(rows, targets, 3, 1e-3).requires_grad_()
    loss = torch.nn.functional.cross_entropy(rows @ weights[:, :-1].T + weights[:, -1], targets)
    (loss + 1e-3 * weights[:, :-1].square().sum()).backward()
    assert weights.grad is not None and weights.grad.abs().max() < 1e-6


def test_a_probe_learns_what_the_rows_hold(student, source):
    found = linear_probe(student, source, source)
    # Four classes by colour, rows of random weights; a guess is right a quarter of the time.
    assert found["probe_top1"] > 0.7
    assert evaluate(student, source, tasks=("zero_shot",))["top1"] < found["probe_top1"]
    with pytest.raises(ValueError, match="needs at least 2 classes and 10 labelled"):
        linear_probe(student, islice(open_source(source), 6), source)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_grows_with_its_severity_and_is_drawn_by_key(name):
    pixels = np.array(photograph(1, 64, 64))
    sample, other = (bare(key) for key in "ab")
    hurt = [corruption(name, level)(pixels, sample) for level in (1, 3, 5)]
    away = [np.abs(found.astype(float) - pixels).mean() for found in hurt]
    assert hurt[0].shape == pixels.shape and hurt[0].dtype == np.uint8
    # Saturation goes both ways: 1 takes it away, 5 adds much.
    assert away[0] > 0.5 and (name == "saturation" or away[0] < away[1] < away[2])
    again = corruption(name, 3)(pixels, sample)
    np.testing.assert_array_equal(again, hurt[1])
    elsewhere = corruption(name, 3)(pixels, other)
    assert (elsewhere == hurt[1]).all() == (name != "noise")


def test_noise_and_contrast_are_imagenet_c():
    grey = np.full((200, 200, 3), 128, np.uint8)
    sample = bare("a")
    assert corruption("noise", 2)(grey, sample).std() / 255 == pytest.approx(0.12, rel=0.02)
    pixels = np.array(photograph(1, 64, 64))
    flat = corruption("contrast", 4)(pixels, sample)
    np.testing.assert_allclose(flat.std((0, 1)), 0.1 * pixels.std((0, 1)), rtol=0.05)
    np.testing.assert_allclose(flat.mean((0, 1)), pixels.mean((0, 1)), atol=0.5)


def test_lower_resolution_leaves_no_more_than_it_says():
    pixels = np.array(photograph(2, 64, 64))
    sample = bare("a")
    assert lower_resolution(64)(pixels, sample) is pixels
    low = lower_resolution(16)(pixels, sample)
    again = lower_resolution(16)(low, sample)
    assert np.abs(low.astype(int) - pixels).mean() > 3 * np.abs(low.astype(int) - again).mean()


def test_the_attack_writes_another_class_where_it_can_be_read():
    pixels = np.full((64, 64, 3), 90, np.uint8)
    sample = bare("k", NAMES[0])
    written = typographic_attack(NAMES)(pixels, sample)
    assert written_class(sample, NAMES) in NAMES[1:]
    changed = (written != pixels).any(2)
    # Over most of the width, and on a small part of the picture; no letter is cut off at the edge.
    columns, rows = np.flatnonzero(changed.any(0)), np.flatnonzero(changed.any(1))
    assert 0.5 * 64 < np.ptp(columns) < 64 and 2 < np.ptp(rows) < 22
    assert 0.02 < changed.mean() < 0.3
    assert {written_class(bare(str(i)), NAMES) for i in range(40)}
    with pytest.raises(ValueError, match="at least two classes"):
        written_class(sample, NAMES[:1])


def test_the_whole_suite_and_what_it_needs(student, source):
    suite = Suite(
        source=source,
        severities=(1, 5),
        resolutions=(8,),
        teacher=student,
        probe_train=source,
        limit=20,
    )
    tests = ("corruptions", "typographic", "resolutions", "calibration", "agreement", "probe")
    found = run_suite(student, suite, tests)
    # A model agrees with itself.
    assert found["agreement"] == 1.0 and found.get("kept_right", 1.0) == 1.0
    assert {f"corrupted/{name}/top1" for name in CORRUPTIONS} <= found.keys()
    each = [found[f"corrupted/{name}/top1"] for name in CORRUPTIONS]
    assert found["corrupted/top1"] == pytest.approx(np.mean(each))
    assert {"typographic/fooled", "resolution/8/top1", "ece", "probe_top1"} <= found.keys()
    assert all(0 <= value <= 1 for value in found.values())
    with pytest.raises(ValueError, match="no test 'corruption'; did you mean 'corruptions'"):
        run_suite(student, suite, ("corruption",))
    for name, needs in (("agreement", "--against"), ("probe", "--probe-train")):
        with pytest.raises(ValueError, match=f"the test '{name}' needs .*{needs}"):
            run_suite(student, Suite(source=source), (name,))


def test_sentences_of_classes(student, tmp_path):
    path = tmp_path / "cupl.json"
    path.write_text(json.dumps({"red square": ["it is red.", "it has corners."], "sky": ["high"]}))
    sentences = read_sentences(path)
    both = embed_classes(student, NAMES[:2], ("a {}",), sentences=sentences)
    texts = ["a red square", "it is red.", "it has corners."]
    mean = unit_rows(student.encode_text(texts).mean(0, keepdim=True))
    torch.testing.assert_close(both[:1], mean.detach())
    plain = embed_classes(student, NAMES[:2], ("a {}",))
    torch.testing.assert_close(both[1:], plain[1:])
    with pytest.raises(ValueError, match="no text for the class 'green disc'"):
        embed_classes(student, NAMES[:2], (), sentences=sentences)


def test_hierarchies_as_sentences(tmp_path):
    path = tmp_path / "parents.json"
    path.write_text(json.dumps({"oak": "tree", "tree": ["plant", "object"], "ash": ["tree"]}))
    found = hierarchy_sentences(["oak", "stone"], read_hierarchy(path))
    assert found == {
        "oak": [
            "an oak, which is a tree, which is a plant",
            "an oak, which is a tree, which is an object",
        ]
    }
    with pytest.raises(ValueError, match="in a circle: a < b < a"):
        hierarchy_sentences(["a"], {"a": ["b"], "b": ["a"]})
    with pytest.raises(ValueError, match="none of the 1 classes has a parent"):
        hierarchy_sentences(["stone"], read_hierarchy(path))


@pytest.mark.parametrize(
    ("text", "says"),
    [("no", "is not JSON"), ("[]", "needs an object"), ('{"a": "b"}', "needs a list of sentences")],
)
def test_input_of_sentences_is_refused(tmp_path, text, says):
    (tmp_path / "cupl.json").write_text(text)
    with pytest.raises(ValueError, match=says):
        read_sentences(tmp_path / "cupl.json")


def test_alike_classes_and_leaks_are_found(student, source, tmp_path):
    found = alike_classes(student, ["Red Square", *NAMES, "red-square"], min_cosine=2.0)
    assert {(pair.first, pair.second) for pair in found} == {
        ("Red Square", "red square"),
        ("Red Square", "red-square"),
    }
    assert all(pair.same_spelling for pair in found)
    train = list(open_source(source))
    test = [
        {"__key__": "same", "png": train[7].image, "txt": "a"},
        {"__key__": "again", "png": png(picture(1, 5).rotate(0.0)), "txt": "a"},
        {"__key__": "new", "png": png(Image.new("RGB", (40, 40), "white")), "txt": "a"},
    ]
    write_shards(tmp_path / "test", test, samples_per_shard=8)
    seen = {leak.test_key: leak for leak in leaks(student, source, str(tmp_path / "test"))}
    assert seen["same"].train_key == train[7].key and seen["same"].same_bytes
    assert "new" not in seen or not seen["new"].same_bytes


def test_the_command_asks_more(student, source, tmp_path, capsys):
    student.save(tmp_path / "student")
    (tmp_path / "parents.json").write_text(json.dumps({"red square": "shape"}))
    asked = ["evaluate", str(tmp_path / "student"), "--on", source, "--json"]
    more = ["--tests", "calibration", "typographic", "--hierarchy", str(tmp_path / "parents.json")]
    assert main([*asked, *more, "--leaks-from", source]) == 0
    values = json.loads(capsys.readouterr().out)
    assert {"top1", "ece", "typographic/fooled"} <= values["metrics"].keys()
    assert len(values["audit"][""]["leaks"]) == 40
    assert main([*asked, "--tests", "agreement"]) == 2
    assert "--against" in json.loads(capsys.readouterr().out)["error"]
