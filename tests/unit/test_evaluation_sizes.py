"""A tower at another size than its own, against resized tensors put through it by hand."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from distill.evaluation import Suite, at_size, evaluate, run_suite
from distill.evaluation.embedding import embed_source
from distill.evaluation.zero_shot import embed_texts
from reinforced_data.shard_writer import write_shards
from reinforced_data.testing import encoded, photograph
from students import Student, StudentSpec, TextSpec, build_student
from students.small_towers import small_tower
from teachers.clip_model import ClipModel, unit_rows
from teachers.contract import Preprocess
from teachers.tokenizers import WordTokenizer

NAMES = ("alpha", "beta", "gamma", "delta")
PICTURES = [photograph(seed, 40, 40) for seed in range(16)]


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("sizes") / "source"
    samples = [
        {"__key__": f"{i:03d}", "png": encoded(image), "cls": NAMES[i % 4]}
        for i, image in enumerate(PICTURES)
    ]
    write_shards(folder, samples, samples_per_shard=8)
    return str(folder)


def make(image: str) -> Student:
    torch.manual_seed(1)
    text = TextSpec(width=16, layers=1, heads=2, context_length=8)
    spec = StudentSpec(image=image, text=text, embed_dim=16, image_size=16)
    return build_student(spec, tokenizer=WordTokenizer(NAMES, context_length=8))


def by_hand(tower: nn.Module, pixels: Preprocess, size: int) -> Tensor:
    """Unit rows of all pictures at `size`."""
    small = [np.array(x.resize((size, size), Image.Resampling.BICUBIC)) for x in PICTURES]
    values = (np.stack(small) / 255 - pixels.mean) / pixels.std
    with torch.no_grad():
        return unit_rows(tower.eval()(torch.tensor(values).float().permute(0, 3, 1, 2)))


@pytest.mark.parametrize("size", [8, 24, 30])
def test_convolutions_run_at_any_size(source, size):
    student = make("smallconv-4").train()
    weights = {name: value.clone() for name, value in student.state_dict().items()}
    pixels = student.preprocess
    found = run_suite(student, Suite(source=source, sizes=(size, 16)), ("sizes",))
    assert student.preprocess is pixels and student.training and student.module.visual.training
    torch.testing.assert_close(dict(student.state_dict()), weights, rtol=0, atol=0)
    with at_size(student, size):
        rows = embed_source(student, source).images
    expected = by_hand(student.module.visual, pixels, size)
    torch.testing.assert_close(rows, expected, rtol=0, atol=1e-5)
    chosen = (expected @ embed_texts(student.eval(), NAMES).T).argmax(1)
    share = (chosen == torch.arange(16) % 4).double().mean()
    own = evaluate(student, source)["top1"]
    assert found == {f"size/{size}/top1": pytest.approx(float(share)), "size/16/top1": own}


def test_a_transformer_s_positions_are_resampled(source):
    """From 4x4 patches to 6x6: a tower of that size with the positions resampled is the same."""
    student = make("smallvit-16")
    tower = student.module.visual
    # Drawn small, they would hardly show.
    nn.init.normal_(tower.pos_embed)
    own = tower.pos_embed.detach().clone()
    with at_size(student, 24):
        rows = embed_source(student, source).images
    assert isinstance(tower.pos_embed, nn.Parameter) and tower.pos_embed.equal(own)
    grid = own[:, 1:].reshape(1, 4, 4, 16).permute(0, 3, 1, 2)
    grid = nn.functional.interpolate(grid, size=(6, 6), mode="bicubic", antialias=True)
    larger = small_tower("smallvit-16", 16, 24)
    fitted = torch.cat([own[:, :1], grid.flatten(2).mT], 1)
    larger.load_state_dict({**tower.state_dict(), "pos_embed": fitted})
    expected = by_hand(larger, student.preprocess, 24)
    torch.testing.assert_close(rows, expected, rtol=0, atol=1e-5)


class Flat(nn.Module):
    """A tower that knows its size: a layer over all pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.logit_scale = nn.Parameter(torch.tensor(2.0))
        self.visual = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4))
        self.words = nn.Embedding(16, 4)

    def encode_image(self, images: Tensor, /) -> Tensor:
        return self.visual(images)

    def encode_text(self, tokens: Tensor, /) -> Tensor:
        return self.words(tokens).mean(1)


def test_a_tower_that_cannot_refuses_before_anything_is_asked(source, monkeypatch):
    flat = ClipModel(
        Flat(),
        name="flat",
        preprocess=Preprocess(image_size=16),
        tokenizer=WordTokenizer(NAMES, context_length=8),
    )
    says = r"flat: its image tower \(Sequential, 16 pixels\) does not take pictures of 24 pixels"
    own = flat.preprocess
    monkeypatch.setattr("distill.evaluation.suite.embed_source", None)
    with pytest.raises(ValueError, match=says + ".*--resolutions 24"):
        run_suite(flat, Suite(source=source, sizes=(16, 24)), ("typographic", "sizes"))
    with pytest.raises(ValueError, match=r"patches are 4 pixels a side, give a multiple"):
        run_suite(make("smallvit-16"), Suite(source=source, sizes=(18,)), ("sizes",))
    with pytest.raises(ValueError, match="at least 1 pixel, got 0"), at_size(flat, 0):
        pass
    assert flat.preprocess is own


def test_an_error_leaves_the_model_as_it_was():
    student = make("smallvit-16")
    own, positions = student.preprocess, student.module.visual.pos_embed
    with pytest.raises(RuntimeError, match="inside"), at_size(student, 24):
        assert student.preprocess.image_size == 24
        raise RuntimeError("inside")
    assert student.preprocess is own and student.module.visual.pos_embed is positions
