"""The held-out contrastive loss: by hand in float64, whole batches alone, captions once each."""

import pytest
import torch
import torch.nn.functional as F

from distill.evaluation import held_out_loss as module
from distill.evaluation.held_out_loss import held_out_loss
from students import StudentSpec, TextSpec, build_student
from teachers.contract import Embeddings
from teachers.tokenizers import WordTokenizer

COUNT, DIM = 11, 16


def student(kind):
    text = TextSpec(width=16, layers=1, heads=2, context_length=8)
    spec = StudentSpec(image="smallconv-4", text=text, embed_dim=DIM, image_size=32)
    return build_student(spec, tokenizer=WordTokenizer(("a",), context_length=8), kind=kind)


def rows(seed):
    drawn = torch.randn(COUNT, DIM, generator=torch.Generator().manual_seed(seed))
    return F.normalize(drawn.double(), dim=1)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_whole_batches_at_the_models_own_scale(kind, monkeypatch):
    monkeypatch.setattr(module, "BATCH_SIZE", 4)
    model = student(kind).double()
    images, texts = rows(1), rows(2)
    # Texts in another order, the first caption twice in the first batch.
    names = [f"text {i}" for i in range(COUNT)]
    captions = [names[0], names[0], *names[2:]]
    order = list(reversed(range(COUNT)))
    found = held_out_loss(model, images, captions, [names[i] for i in order], texts[order])
    scale = model.logit_scale.detach().exp()
    bias = 0 if model.logit_bias is None else model.logit_bias.detach()
    expected = []
    # The last three pairs are no whole batch.
    for start in (0, 4):
        own = torch.stack([texts[names.index(name)] for name in captions[start : start + 4]])
        logits = scale * images[start : start + 4] @ own.T + bias
        if kind == "softmax":
            right = torch.arange(4)
            each = (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2
        else:
            each = -F.logsigmoid((2 * torch.eye(4) - 1) * logits).sum() / 4
        expected.append(float(each))
    assert found == pytest.approx(sum(expected) / 2, abs=1e-9)


def test_the_scale_is_what_with_head_says(monkeypatch):
    """It is the one place where the logarithm is undone."""
    model, scale = student("softmax").double(), torch.tensor(3.0).double()
    monkeypatch.setattr(model, "with_head", lambda image, text: Embeddings(image, text, scale))
    names = [f"text {i}" for i in range(COUNT)]
    found = held_out_loss(model, rows(1), names, names, rows(2))
    logits, right = 3 * rows(1) @ rows(2).T, torch.arange(COUNT)
    expected = (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2
    assert found == pytest.approx(float(expected), abs=1e-9)


def test_a_small_source_is_one_batch():
    model = student("softmax").double()
    images, texts = rows(1), rows(2)
    names = [f"text {i}" for i in range(COUNT)]
    found = held_out_loss(model, images, names, names, texts)
    logits = model.logit_scale.detach().exp() * images @ texts.T
    right = torch.arange(COUNT)
    expected = (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2
    assert found == pytest.approx(float(expected), abs=1e-9)
