"""Names that mean the same and pictures seen before, with rows that are known."""

import io
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from distill.evaluation import alike_classes, class_audit, leaks
from reinforced_data.shard_writer import write_shards
from reinforced_data.testing import encoded, photograph
from teachers.clip_model import ClipModel
from teachers.contract import Preprocess
from teachers.tokenizers import WordTokenizer

WORDS = ("cat", "kitten", "dog", "Dog")
# cat and kitten: 0.96; kitten and dog: 0.28; dog and Dog differ in spelling alone.
ROWS = ((1.0, 0.0), (0.96, 0.28), (0.0, 1.0), (-1.0, 0.0))


class Planted(nn.Module):
    """Text rows by the word's place; a picture's row is its pixels without their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.logit_scale = nn.Parameter(torch.tensor(2.0))

    def encode_text(self, tokens: Tensor, /) -> Tensor:
        return torch.tensor(ROWS)[tokens[:, 1]]

    def encode_image(self, images: Tensor, /) -> Tensor:
        return (images - images.mean((1, 2, 3), keepdim=True)).flatten(1)


@pytest.fixture(scope="module")
def planted() -> ClipModel:
    tokenizer = CasedWords(WORDS, context_length=4)
    pixels = Preprocess(image_size=16, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    return ClipModel(Planted(), name="planted", preprocess=pixels, tokenizer=tokenizer)


class CasedWords(WordTokenizer):
    """The place of a text in `WORDS`, case kept."""

    def __call__(self, texts: Sequence[str]) -> Tensor:
        places = [[0, WORDS.index(text), 0, 0] for text in texts]
        return torch.tensor(places)


@pytest.mark.parametrize("per_slice", [2**23, 1])
def test_names_are_alike_by_cosine_or_by_spelling(planted, monkeypatch, per_slice):
    monkeypatch.setattr(class_audit, "_PER_SLICE", per_slice)
    found = alike_classes(planted, [*WORDS, "cat"])
    assert [(x.first, x.second, x.same_spelling) for x in found] == [
        ("cat", "kitten", False),
        ("dog", "Dog", True),
    ]
    assert [x.cosine for x in found] == pytest.approx([0.96, 0.0], abs=1e-6)
    assert [x.second for x in alike_classes(planted, WORDS, min_cosine=0.97)] == ["Dog"]
    # 0.28 is reached by kitten and dog too, each pair once.
    wide = alike_classes(planted, WORDS, min_cosine=0.27)
    assert [(x.first, x.second) for x in wide] == [
        ("cat", "kitten"),
        ("kitten", "dog"),
        ("dog", "Dog"),
    ]


@pytest.mark.parametrize("per_slice", [2**23, 1])
def test_a_picture_saved_again_is_found_and_a_new_one_is_not(
    planted, tmp_path, monkeypatch, per_slice
):
    monkeypatch.setattr(class_audit, "_PER_SLICE", per_slice)
    pictures = [photograph(seed, 40, 40) for seed in range(12)]
    train = [{"__key__": f"t{i}", "png": encoded(x), "txt": "a"} for i, x in enumerate(pictures)]
    train.insert(3, {"__key__": "broken", "png": b"no picture", "txt": "a"})
    again = io.BytesIO()
    pictures[5].save(again, "JPEG", quality=85)
    test = [
        {"__key__": "broken", "png": b"no picture", "txt": "a"},
        {"__key__": "new", "png": encoded(photograph(99, 40, 40)), "txt": "a"},
        {"__key__": "again", "jpg": again.getvalue(), "txt": "a"},
        {"__key__": "same", "png": encoded(pictures[7]), "txt": "a"},
    ]
    for name, samples in (("train", train), ("test", test)):
        write_shards(tmp_path / name, samples, samples_per_shard=5)
    same, near = leaks(planted, str(tmp_path / "train"), str(tmp_path / "test"))
    assert (same.test_key, same.train_key, same.same_bytes) == ("same", "t7", True)
    assert (near.test_key, near.train_key, near.same_bytes) == ("again", "t5", False)
    first, second = (row_of(x) for x in (pictures[5], Image.open(again)))
    assert same.cosine == 1.0 and near.cosine == pytest.approx(first @ second, abs=1e-6)
    assert 0.99 <= near.cosine < 1.0


def test_a_limit_is_of_the_test_pictures_alone(planted, tmp_path):
    pictures = [encoded(photograph(seed, 40, 40)) for seed in range(6)]
    for name, order in (("train", pictures), ("test", pictures[::-1])):
        samples = [{"__key__": f"{name}{i}", "png": x, "txt": "a"} for i, x in enumerate(order)]
        write_shards(tmp_path / name, samples, samples_per_shard=4)
    found = leaks(planted, str(tmp_path / "train"), str(tmp_path / "test"), limit=2)
    same = [(leak.test_key, leak.train_key) for leak in found if leak.same_bytes]
    assert same == [("test0", "train5"), ("test1", "train4")]


def test_names_of_signs_alone_are_spelt_by_their_signs():
    signs = ["+", "-", "\N{CAT FACE}", "\N{DOG FACE}", ": )", ":)", "C 3", "c-3"]
    spelt = [class_audit._spelling(name) for name in signs]
    assert len(set(spelt[:4])) == 4
    assert spelt[4] == spelt[5] and spelt[6] == spelt[7] == "c3"


def row_of(image: Image.Image) -> np.ndarray:
    small = np.asarray(image.resize((16, 16), Image.Resampling.BICUBIC), float).ravel()
    small -= small.mean()
    return small / np.linalg.norm(small)
