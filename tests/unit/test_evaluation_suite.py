"""What else a model is asked: on real shards, with answers known from elsewhere."""

import json
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from distill.evaluation import TESTS, Suite, evaluate, linear_probe, run_suite
from distill.evaluation.calibration import calibration, expected_calibration_error
from distill.evaluation.probing import fit_probe, held_out_tenth
from distill.evaluation.prompt_files import hierarchy_sentences, read_hierarchy, read_sentences
from distill.evaluation.stress import CORRUPTIONS
from distill.evaluation.zero_shot import embed_classes
from reinforced_data.shard_writer import write_shards
from reinforced_data.source import open_source
from reinforced_data.testing import encoded, photograph
from students import Student, StudentSpec, TextSpec, build_student
from teachers.clip_model import ClipModel, unit_rows
from teachers.contract import Preprocess
from teachers.tokenizers import WordTokenizer

NAMES = ("red square", "green disc", "blue bar", "grey sky")


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
            "png": encoded(picture(i % 4, i)),
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


def test_the_penalty_is_chosen_on_all_classes_of_shards_where_they_take_turns():
    held_out = held_out_tenth(1000)
    assert held_out.sum() == 100 and torch.equal(held_out, held_out_tenth(1000))
    assert len({*(held_out.nonzero() % 10).flatten().tolist()}) == 10


def test_the_whole_suite_and_what_it_needs(student, source):
    suite = Suite(
        source=source,
        severities=(1, 5),
        resolutions=(8,),
        sizes=(16, 24),
        teacher=student,
        probe_train=source,
        limit=20,
    )
    found = run_suite(student, suite, tuple(TESTS))
    # A model agrees with itself, and a size of its own changes nothing.
    assert found["agreement"] == 1.0 and found["kept_right"] == 1.0
    assert found["size/16/top1"] == evaluate(student, source, limit=20)["top1"]
    assert {f"corrupted/{name}/top1" for name in CORRUPTIONS} <= found.keys()
    each = [found[f"corrupted/{name}/top1"] for name in CORRUPTIONS]
    assert found["corrupted/top1"] == pytest.approx(np.mean(each))
    assert {"resolution/8/top1", "size/24/top1", "ece", "probe_top1"} <= found.keys()
    assert all(0 <= value <= 1 for value in found.values())
    with pytest.raises(ValueError, match="no test 'corruption'; did you mean 'corruptions'"):
        run_suite(student, suite, ("corruption",))
    lacking = (("agreement", "--against"), ("probe", "--probe-train"), ("sizes", "--sizes"))
    for name, needs in lacking:
        with pytest.raises(ValueError, match=f"the test '{name}' needs .*{needs}"):
            run_suite(student, Suite(source=source), (name,))


def test_class_names_are_embedded_once_for_all_tests(student, source, monkeypatch):
    read: list[str] = []
    embed = student.encode_text
    monkeypatch.setattr(student, "encode_text", lambda texts: read.extend(texts) or embed(texts))
    suite = Suite(source=source, templates=("a {}", "the {}"), resolutions=(8,), sizes=(16, 24))
    tests = ("corruptions", "typographic", "resolutions", "sizes", "calibration")
    together = run_suite(student, suite, tests)
    assert sorted(read) == sorted(f"{word} {name}" for word in ("a", "the") for name in NAMES)
    alone = [run_suite(student, suite, (name,)) for name in tests]
    assert together == {name: score for found in alone for name, score in found.items()}


class Reader(nn.Module):
    """Knows a flat picture's class by its grey; of dark ones it reads what is written on them.

    Two classes, told apart by how wide they are written. `grey` is the level where the second
    begins, `dark` the level below which letters are believed.
    """

    def __init__(self, grey: float, dark: float = 0.0) -> None:
        super().__init__()
        self.logit_scale = nn.Parameter(torch.tensor(2.0))
        self.grey, self.dark = grey, dark

    def encode_image(self, images: Tensor, /) -> Tensor:
        flat = images.mean(1)
        # Letters cover less than half of the picture.
        level = flat.flatten(1).median(1).values * 255
        columns = (flat > 0.5).any(1).sum(1)
        wide = (columns > images.shape[-1] / 2).long()
        return torch.eye(2)[torch.where(level < self.dark, wide, (level >= self.grey).long())]

    def encode_text(self, tokens: Tensor, /) -> Tensor:
        return torch.eye(2)[tokens[:, 1] - FIRST_WORD]


# After pad, start and unknown.
FIRST_WORD = 3
WRITTEN = WordTokenizer(("i", "wwww"), context_length=4)


def reader(grey: float, dark: float = 0.0) -> ClipModel:
    pixels = Preprocess(image_size=48, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    return ClipModel(Reader(grey, dark), name="reader", preprocess=pixels, tokenizer=WRITTEN)


@pytest.fixture(scope="module")
def greys(tmp_path_factory) -> str:
    """Ten flat pictures, 10 to 100 light; the first five are "i"."""
    folder = tmp_path_factory.mktemp("greys") / "source"
    samples = [
        {
            "__key__": f"{i:03d}",
            "png": encoded(Image.new("RGB", (48, 48), (10 * (i + 1),) * 3)),
            "cls": "i" if i < 5 else "wwww",
        }
        for i in range(10)
    ]
    write_shards(folder, samples, samples_per_shard=4)
    return str(folder)


def test_a_model_is_fooled_as_often_as_it_reads(greys):
    """Three of ten pictures are below 35; of those the letters are believed, and they are wrong."""
    found = run_suite(reader(55, dark=35), Suite(source=greys), ("typographic",))
    assert found == pytest.approx({"typographic/top1": 0.7, "typographic/fooled": 0.3})
    blind = run_suite(reader(55), Suite(source=greys), ("typographic",))
    assert blind == {"typographic/top1": 1.0, "typographic/fooled": 0.0}


def test_both_scores_of_the_attack_are_of_the_same_samples(tmp_path):
    """Every other picture has no label; of the first six, 10, 30 and 50 have, and two are fooled.

    Where the limit counted labelled pictures alone, 70, 90 and 110 would be asked, too.
    """
    samples = [
        {
            "__key__": f"{i:03d}",
            "png": encoded(Image.new("RGB", (48, 48), (10 * (i + 1),) * 3)),
            **({"txt": "a grey"} if i % 2 else {"cls": "i" if i < 5 else "wwww"}),
        }
        for i in range(12)
    ]
    write_shards(tmp_path / "half", samples, samples_per_shard=4)
    suite = Suite(source=str(tmp_path / "half"), classes=("i", "wwww"), limit=6)
    found = run_suite(reader(55, dark=35), suite, ("typographic",))
    assert found == pytest.approx({"typographic/top1": 1 / 3, "typographic/fooled": 2 / 3})


def test_agreement_counts_samples_and_what_was_kept(greys):
    """The student begins "wwww" at 35, not at 55: it differs in 40 and 50, both "i".

    The teacher begins at 75: wrong in 60 and 70, where the student is right.
    """
    suite = Suite(source=greys, teacher=reader(75))
    found = run_suite(reader(35), suite, ("agreement",))
    # They differ in 40, 50, 60 and 70; of the teacher's eight right answers 40 and 50 were lost.
    assert found == pytest.approx({"agreement": 0.6, "kept_right": 6 / 8})


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
