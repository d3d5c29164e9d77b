"""What a report says a student finds and confuses, of a model whose rows are known."""

import io
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from test_evaluation_evaluator import NAMES, make_model, png, write

from distill import retrieval_cases as retrieval_cases_module
from distill import run_pictures
from distill.evaluation import evaluate
from distill.evaluation.confusions import confusions
from distill.report import ImageToTextCase, RetrievalCase
from distill.retrieval_cases import retrieval_cases


def rows(*given):
    return torch.tensor([[*row, *[0.0] * (8 - len(row))] for row in given])


def sample(level, label=None, text=None):
    found = {"png": png(10 * level)}
    return found | ({"cls": label} if label else {}) | ({"txt": text} if text else {})


def confusing():
    """Level 0 is alpha's row, 1 beta's, 2 gamma's; delta's texts lean to alpha."""
    texts = rows((1.0,), (0.6, 0.8), (0.0, 0.0, 1.0), (0.28, 0.0, 0.0, 0.96))
    return make_model(rows((1.0,), (0.6, 0.8), (0.0, 0.0, 1.0)), texts)


# label -> the levels of its pictures
SEEN = {"alpha": (0, 1, 1, 0), "beta": (1, 0), "gamma": (2, 1), "delta": (0,)}


@pytest.fixture
def labelled(tmp_path):
    return write(tmp_path / "s", [sample(i, name) for name in SEEN for i in SEEN[name]])


def test_confusions_are_counted_and_ordered(labelled):
    found = confusions(confusing(), labelled)
    assert [pair[:4] for pair in found.pairs] == [
        ("alpha", "beta", 2, 4),
        # Of equally frequent ones the largest share of its class, then the nearest texts.
        ("delta", "alpha", 1, 1),
        ("beta", "alpha", 1, 2),
        ("gamma", "beta", 1, 2),
    ]
    assert [pair.cosine for pair in found.pairs] == pytest.approx([0.6, 0.28, 0.6, 0.0], abs=1e-6)
    assert found.classes == ["alpha", "beta", "delta", "gamma"] and found.labelled == 9
    assert found.shares == [[0.5, 0.5, 0, 0], [0.5, 0.5, 0, 0], [1, 0, 0, 0], [0, 0.5, 0, 0.5]]
    assert evaluate(confusing(), labelled)["top1"] == pytest.approx(1 - 5 / 9)
    few = confusions(confusing(), labelled, most=2)
    assert (few.pairs, few.classes) == (found.pairs[:2], ["alpha", "beta"])
    assert few.shares == [[0.5, 0.5], [0.5, 0.5]]


def test_of_single_samples_those_of_the_nearest_texts_come_first(tmp_path):
    seen = {"alpha": 2, "beta": 0, "gamma": 2}
    found = confusions(confusing(), write(tmp_path / "s", [sample(seen[n], n) for n in seen]))
    assert [pair[:4] for pair in found.pairs] == [("beta", "alpha", 1, 1), ("alpha", "gamma", 1, 1)]
    assert [pair.cosine for pair in found.pairs] == pytest.approx([0.6, 0.0], abs=1e-6)


def test_a_constant_model_confuses_everything(labelled):
    """As the score beside it says: ties count against the model."""
    model = make_model(torch.ones(8, 8), torch.ones(8, 8))
    found = confusions(model, labelled)
    assert sum(pair.count for pair in found.pairs) == found.labelled
    assert evaluate(model, labelled)["top1"] == 0.0


def test_nothing_is_confused_where_nothing_is_labelled_or_wrong(tmp_path, labelled):
    eye = make_model(torch.eye(8), torch.eye(8))
    bare = write(tmp_path / "bare", [sample(0, text="alpha")])
    assert confusions(eye, bare).labelled == 0
    right = write(tmp_path / "right", [sample(i, NAMES[i]) for i in range(3)])
    assert confusions(eye, right).pairs == [] and confusions(eye, right).labelled == 3


PICTURES = rows((1.0,), (0.6, 0.8), (0.0, 0.6, 0.8), (0.0, 0.8, 0.6))
CAPTIONS = ("alpha", "alpha", "beta", "gamma")


@pytest.fixture
def captioned(tmp_path):
    return write(tmp_path / "s", [sample(i, text=text) for i, text in enumerate(CAPTIONS)])


def level(picture):
    return Image.open(io.BytesIO(picture)).convert("L").getpixel((0, 0)) // 10


def test_texts_find_pictures(captioned):
    """Cosines: alpha 1, .6, 0, 0; beta 0, .8, .6, .8; gamma 0, 0, .8, .6."""
    cases = retrieval_cases(make_model(PICTURES, torch.eye(8)), str(captioned))
    found = [case for case in cases if isinstance(case, RetrievalCase)]
    # The right one first; equal captions are one query.
    assert [(case.query_text, case.rank, case.among) for case in found] == [
        ("alpha", 1, 4),
        ("beta", 3, 4),
        ("gamma", 2, 4),
    ]
    shown = {case.query_text: case.images for case in found}
    assert [level(picture) for picture, _, _ in shown["beta"]] == [1, 3, 2, 0]
    assert [text for _, text, _ in shown["beta"]] == ["alpha", "gamma", "beta", "alpha"]
    assert [hit for *_, hit in shown["beta"]] == [False, False, True, False]
    assert [level(picture) for picture, _, _ in shown["gamma"]][:2] == [2, 3]
    assert [hit for *_, hit in shown["alpha"]] == [True, True, False, False]
    assert {case.model for case in cases} == {"lookup"}


def test_pictures_find_texts(captioned):
    cases = retrieval_cases(make_model(PICTURES, torch.eye(8)), str(captioned))
    found = [case for case in cases if isinstance(case, ImageToTextCase)]
    assert [(level(case.image), case.rank, case.among) for case in found] == [
        (0, 1, 3),
        (1, 2, 3),
        (2, 2, 3),
        (3, 2, 3),
    ]
    assert found[1].texts == [("beta", False), ("alpha", True), ("gamma", False)]
    assert [text for text, _ in found[2].texts] == ["gamma", "beta", "alpha"]
    assert found[3].caption == "gamma" and found[3].texts[1] == ("gamma", True)


def test_the_scores_beside_agree(captioned):
    model = make_model(PICTURES, torch.eye(8))
    scores, cases = evaluate(model, captioned), retrieval_cases(model, str(captioned))
    for kind, way in ((RetrievalCase, "text_to_image"), (ImageToTextCase, "image_to_text")):
        first = [case.rank == 1 for case in cases if isinstance(case, kind)]
        assert scores[f"{way}_r1"] == pytest.approx(sum(first) / len(first))


def test_a_constant_model_finds_nothing(captioned):
    model = make_model(torch.ones(8, 8), torch.ones(8, 8))
    cases = retrieval_cases(model, str(captioned))
    ranks = {case.query_text: case.rank for case in cases if isinstance(case, RetrievalCase)}
    assert ranks == {"alpha": 3, "beta": 4, "gamma": 4}
    assert all(not case.images[0][2] for case in cases if isinstance(case, RetrievalCase))
    assert {case.rank for case in cases if isinstance(case, ImageToTextCase)} == {3}


def test_right_and_wrong_are_three_each_over_the_split(tmp_path):
    right = [sample(i, text=name) for i, name in enumerate(NAMES)]
    wrong = [sample(i + 1, text=f"photo {name}") for i, name in enumerate(NAMES[:4])]
    source = write(tmp_path / "s", [*right, *wrong])
    cases = retrieval_cases(make_model(torch.eye(8), torch.eye(8)), str(source))
    kinds = Counter((type(case), case.rank == 1) for case in cases)
    assert kinds[ImageToTextCase, True] == kinds[ImageToTextCase, False] == 3
    assert kinds[RetrievalCase, True] == kinds[RetrievalCase, False] == 3
    assert len({case.query_text for case in cases if isinstance(case, RetrievalCase)}) == 6


def test_pictures_are_kept_encoded_and_embedded_in_batches(tmp_path, monkeypatch):
    """A split's first thousand photographs, decoded, would not fit."""
    monkeypatch.setattr(retrieval_cases_module, "_SEARCHED", 600)
    source = write(tmp_path / "s", [sample(i % 8, text=NAMES[i % 8]) for i in range(700)])
    model, sizes = make_model(torch.eye(8), torch.eye(8)), []
    whole = model.encode_image
    monkeypatch.setattr(model, "encode_image", lambda x: sizes.append(len(x)) or whole(x))
    cases = retrieval_cases(model, str(source))
    assert sum(sizes) == 600 and max(sizes) <= 256
    assert {case.among for case in cases if isinstance(case, RetrievalCase)} == {600}
    kept = retrieval_cases_module._captioned(str(source))
    assert {type(pair.image) for pair in kept} == {bytes}


@pytest.mark.parametrize(
    ("count", "chosen"), [(5, [0, 1, 3]), (3, [0, 1, 2]), (2, [0, 1]), (0, []), (7, [0, 2, 4])]
)
def test_queries_are_spread_over_all_there_are(count, chosen):
    assert retrieval_cases_module.evenly(range(count), 3) == chosen


def test_pictures_without_a_caption_or_that_cannot_be_read_are_not_searched(tmp_path):
    model = make_model(PICTURES, torch.eye(8))
    bare = write(tmp_path / "bare", [sample(0, "alpha"), sample(1, "beta")])
    assert retrieval_cases(model, str(bare)) == []
    broken = {"png": b"no picture", "txt": "beta"}
    mixed = write(tmp_path / "mixed", [sample(0, text="alpha"), broken, sample(1, "beta")])
    assert {case.among for case in retrieval_cases(model, str(mixed))} == {1}


def test_a_student_that_cannot_be_loaded_leaves_the_pictures_out(tmp_path, labelled):
    config = {"evaluate_on": {"val": str(labelled)}}
    found = run_pictures.search(tmp_path, config, None)
    assert not found.cases and "no student in" in found.missing["Retrieval, with pictures"]


def test_templates_by_name_and_a_split_without_texts(tmp_path, monkeypatch, labelled):
    """`--templates photo` names a set; the trainer takes it, so the report must."""
    monkeypatch.setattr(run_pictures, "load_student", lambda run: confusing())
    config = {"evaluate_on": {"val": str(labelled)}, "templates": ["photo"]}
    found = run_pictures.search(tmp_path, config, None)
    assert "have no texts" in found.missing["Retrieval, with pictures"]
    assert found.confusions or "Confusions" in found.missing
