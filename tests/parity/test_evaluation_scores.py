"""The chunked scores equal a plain numpy computation, with duplicates and ties."""

import time

import numpy as np
import pytest
import torch

from distill.evaluation import ranking, recall_at, retrieval, worst_ranks, zero_shot
from distill.evaluation.retrieval import unique_texts


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def plain_recalls(
    queries: np.ndarray, gallery: np.ndarray, answers: list[set[int]], cuts: tuple[int, ...]
) -> list[float]:
    """Sort rows by score; of a wrong and a right one that tie, the wrong one comes first."""
    hits = np.zeros(len(cuts))
    for query, right in zip(queries, answers, strict=True):
        scores = np.round(gallery @ query, 5)
        order = sorted(range(len(gallery)), key=lambda j: (-scores[j], j in right))
        first = next(place for place, j in enumerate(order) if j in right)
        hits += [first < cut for cut in cuts]
    return list(hits / len(queries))


@pytest.fixture(params=[7, 1000, 1 << 23])
def slice_elements(request, monkeypatch):
    monkeypatch.setattr(ranking, "_ELEMENTS_PER_SLICE", request.param)


@pytest.mark.usefixtures("slice_elements")
def test_retrieval_equals_numpy_with_shared_captions_and_copied_images():
    rng = np.random.default_rng(3)
    # 60 images, of which 10 are copies; 25 texts, shared, one to three an image, some twice.
    images = unit(rng.normal(size=(60, 6)).astype(np.float32))
    images[50:] = images[:10]
    captions = [
        tuple(f"text {t}" for t in rng.integers(0, 25, size=rng.integers(1, 4))) for _ in images
    ]
    texts = unique_texts(captions)
    rows = unit(rng.normal(size=(len(texts), 6)).astype(np.float32))
    rows[1] = rows[0]

    got = retrieval(torch.tensor(images), captions, texts, torch.tensor(rows))

    own = [{texts.index(text) for text in texts_of} for texts_of in captions]
    carriers = [{i for i, texts_of in enumerate(own) if t in texts_of} for t in range(len(texts))]
    cuts = (1, 5, 10)
    expected = dict(
        zip(
            [f"{way}_r{k}" for way in ("image_to_text", "text_to_image") for k in cuts],
            plain_recalls(images, rows, own, cuts) + plain_recalls(rows, images, carriers, cuts),
            strict=True,
        )
    )
    assert got == pytest.approx(expected)
    assert 0 < got["image_to_text_r1"] < got["image_to_text_r10"] < 1


@pytest.mark.usefixtures("slice_elements")
def test_zero_shot_equals_numpy():
    rng = np.random.default_rng(4)
    images, classes = unit(rng.normal(size=(200, 8))), unit(rng.normal(size=(30, 8)))
    targets = rng.integers(0, 30, size=200)
    images = unit(images + 0.7 * classes[targets])
    names = [f"class {i}" for i in range(30)]

    got = zero_shot(torch.tensor(images), [names[t] for t in targets], names, torch.tensor(classes))

    order = np.argsort(-(images @ classes.T), axis=1)
    assert got["top1"] == pytest.approx(np.mean(order[:, 0] == targets))
    assert got["top5"] == pytest.approx(np.mean((order[:, :5] == targets[:, None]).any(1)))
    assert got["top1"] < got["top5"] < 1


def test_a_constant_encoder_finds_nothing():
    same = torch.nn.functional.normalize(torch.ones(400, 16), dim=1)
    names = [f"class {i}" for i in range(400)]
    assert zero_shot(same, names, names, same) == {"top1": 0.0, "top5": 0.0}
    scores = retrieval(same, [(name,) for name in names], names, same)
    assert set(scores.values()) == {0.0}


def test_a_perfect_encoder_finds_everything():
    rows = torch.eye(30)
    names = [f"class {i}" for i in range(30)]
    assert zero_shot(rows, names, names, rows) == {"top1": 1.0, "top5": 1.0}
    assert set(retrieval(rows, [(name,) for name in names], names, rows).values()) == {1.0}


def test_fewer_than_five_classes():
    rows = torch.eye(3)
    scores = zero_shot(rows, ["b", "c", "a"], ["a", "b", "c"], rows)
    assert scores == {"top1": 0.0, "top5": 1.0}


def test_recall_counts_ranks_below_the_cut():
    assert recall_at(torch.tensor([0, 1, 4, 5]), 5) == 0.75


def test_seven_thousand_by_seven_thousand_takes_seconds():
    generator = torch.Generator().manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(7000, 128, generator=generator), dim=1)
    right = torch.arange(7000).repeat(2, 1)
    start = time.perf_counter()
    ranks = worst_ranks(rows, rows, right)
    assert time.perf_counter() - start < 10
    assert recall_at(ranks, 1) == 1.0
