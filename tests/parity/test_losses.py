"""Every distillation loss equals its equation written out, in float64, values and gradients."""

import math
from contextlib import contextmanager

import open_clip
import pytest
import torch
import torch.nn.functional as F

from distill.losses import (
    FeatureLoss,
    InteractiveLoss,
    distance_difference,
    drop_teachers,
    interactive_contrastive,
    neighbour_divergence,
    relational_loss,
)
from distill.ops import Embeddings
from distill.ops.image_text.sweeps import CPU_CROSSOVER

N = 9


def rows(dim, seed, n=N):
    g = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(n, dim, generator=g, dtype=torch.float64), dim=1)


def model(dim, seed, text_dim=None):
    text = rows(dim if text_dim is None else text_dim, seed + 100)
    return Embeddings(rows(dim, seed), text, torch.tensor(20.0).double())


def learning(dim, seed):
    return [rows(dim, seed).requires_grad_(), rows(dim, seed + 100).requires_grad_()]


def assert_same(found, expected, leaves):
    """Values and gradients agree, and the gradients are not zero."""
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    gradients = [torch.autograd.grad(v, leaves, retain_graph=True) for v in (found, expected)]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)
        assert b.abs().max() > 1e-4


@pytest.mark.parametrize("distance", ["mse", "cosine"])
@pytest.mark.parametrize("adapter", ["linear", "mlp"])
def test_feature(distance, adapter):
    torch.manual_seed(0)
    teachers = [model(5, 1), model(7, 2)]
    loss = FeatureLoss(5, [5, 7], distance=distance, adapter=adapter, weights=(1.0, 3.0)).double()
    leaves = learning(5, 3)
    found = loss(Embeddings(*leaves, torch.ones(()).double()), teachers)

    def apply(modality, k, x):
        layers = loss.adapters[modality].maps[k]
        if adapter == "linear":
            return x @ layers.weight.T
        hidden = F.gelu(x @ layers[0].weight.T + layers[0].bias)
        return hidden @ layers[2].weight.T + layers[2].bias

    expected = 0
    for modality, x in zip(("image", "text"), leaves, strict=True):
        for k, weight in ((0, 0.25), (1, 0.75)):
            a, y = apply(modality, k, x), getattr(teachers[k], modality)
            if distance == "mse":
                each = ((a - y) ** 2).sum(dim=1)
            else:
                each = 1 - (a * y).sum(dim=1) / a.norm(dim=1) / y.norm(dim=1)
            expected = expected + weight * each.mean() / 2
    assert_same(found, expected, [*leaves, *loss.parameters()])


def test_a_teacher_of_one_modality_counts_in_that_one_alone():
    torch.manual_seed(0)
    loss = FeatureLoss(5, [5, (6, 0)]).double()
    both, images = model(5, 1), model(6, 2, text_dim=0)
    leaves = learning(5, 3)
    found = loss(Embeddings(*leaves, torch.ones(()).double()), [both, images])
    mapped = leaves[0] @ loss.adapters["image"].maps[1].weight.T
    image = ((leaves[0] - both.image) ** 2).sum(1) + ((mapped - images.image) ** 2).sum(1)
    text = ((leaves[1] - both.text) ** 2).sum(1)
    assert_same(found, image.mean() / 4 + text.mean() / 2, leaves)
    # An adapter that nothing reads would stop DDP.
    found = loss(Embeddings(*leaves, torch.ones(()).double()), [both, images])
    assert all(g is not None for g in torch.autograd.grad(found, list(loss.parameters())))


def test_dropped_teachers_leave_the_mean():
    """UNIC: the hardest teacher stays, others go, and all that stay weigh the same."""
    torch.manual_seed(0)
    loss = FeatureLoss(5, [5, 7, 4], dropping=0.5).double()
    teachers = [model(5, 1), model(7, 2), model(4, 3)]
    leaves = learning(5, 4)
    found = loss(Embeddings(*leaves, torch.ones(()).double()), teachers, seed=11)
    expected = 0
    for number, (modality, x) in enumerate(zip(("image", "text"), leaves, strict=True)):
        each = torch.stack(
            [
                ((x @ loss.adapters[modality].maps[k].weight.T - getattr(t, modality)) ** 2).sum(1)
                for k, t in enumerate(teachers)
            ],
            dim=1,
        )
        draws = torch.rand(N, 3, generator=torch.Generator().manual_seed(11 + number))
        terms = [
            each[i, k]
            for i in range(N)
            for k in range(3)
            if draws[i, k] >= 0.5 or k == int(each[i].argmax())
        ]
        assert N <= len(terms) < 3 * N
        expected = expected + torch.stack(terms).mean() / 2
    assert_same(found, expected, [*leaves, *loss.parameters()])


def test_dropping_rates():
    losses = torch.rand(4_000, 3, generator=torch.Generator().manual_seed(0))
    kept = drop_teachers(losses, 0.3, 5)
    hardest = F.one_hot(losses.argmax(1), 3).bool()
    assert bool((kept[hardest] == 1).all())
    assert abs(float(kept[~hardest].mean()) - 0.7) < 0.02  # 4 standard deviations
    assert torch.equal(kept, drop_teachers(losses, 0.3, 5))
    assert not torch.equal(kept, drop_teachers(losses, 0.3, 6))
    assert torch.equal(kept[:100], drop_teachers(losses[:100], 0.3, 5))
    assert torch.equal(drop_teachers(losses, 1.0, 5), hardest.float())


def test_interactive_is_open_clips_loss_with_the_teachers_rows():
    torch.manual_seed(0)
    teachers = [model(5, 1), model(7, 2)]
    loss = InteractiveLoss(5, [5, 7]).double()
    leaves = learning(5, 3)
    found = loss(Embeddings(*leaves, torch.tensor(3.0).double()), teachers)
    clip, expected = open_clip.ClipLoss(), 0
    for k, teacher in enumerate(teachers):
        image = F.normalize(leaves[0] @ loss.image.maps[k].weight.T, dim=1)
        text = F.normalize(leaves[1] @ loss.text.maps[k].weight.T, dim=1)
        scale = loss.log_scale.exp()
        for pair in ((image, teacher.text), (teacher.image, text)):
            expected = expected + clip(*pair, scale) / 4
    assert_same(found, expected, [*leaves, *loss.parameters()])


def test_interactive_takes_equal_captions_as_positives():
    teacher, (image, text) = model(5, 1), learning(5, 3)
    ids = torch.tensor([0, 1, 2, 0, 4, 5, 6, 7, 8])
    scale = torch.tensor(9.0).double()
    found = interactive_contrastive(image, text, teacher, scale, ids)
    target = (ids[:, None] == ids[None]).double()
    target = target / target.sum(1, keepdim=True)
    expected = 0
    for scores in (image @ teacher.text.T, teacher.image @ text.T):
        for one in (scores, scores.T):
            expected = expected - (target * (9 * one).log_softmax(1)).sum(1).mean() / 4
    assert_same(found, expected, [image, text])


def test_the_interactive_scale_stays_in_bounds():
    loss = InteractiveLoss(5, [5])
    student = Embeddings(rows(5, 1).float(), rows(5, 2).float(), torch.tensor(3.0))
    for start, end in ((9.0, 100.0), (-1.0, 1.0)):
        with torch.no_grad():
            loss.log_scale.fill_(start)
        loss(student, [student])
        assert math.isclose(loss.log_scale.exp().item(), end, rel_tol=1e-5)


@pytest.mark.parametrize("block", [1, 4, 9, 1_024])
def test_neighbours(block):
    x, y = rows(5, 1).requires_grad_(), rows(7, 2)
    expected = 0
    for i in range(N):
        others = [j for j in range(N) if j != i]
        q = (25 * torch.stack([y[i] @ y[j] for j in others])).softmax(0)
        p = (25 * torch.stack([x[i] @ x[j] for j in others])).softmax(0)
        expected = expected + (q * (q / p).log()).sum() / N
    assert_same(neighbour_divergence(x, y, 25.0, block), expected, [x])


@pytest.mark.parametrize("block", [1, 4, 9, 1_024])
def test_distances(block):
    leaf, y = (3 * rows(5, 1)).requires_grad_(), rows(7, 2)
    x = F.normalize(leaf, dim=1)  # of unit rows: what changes a norm is nobody's
    pairs = [(i, j) for i in range(N) for j in range(N) if i != j]
    learned = torch.stack([(x[i] - x[j]).norm() for i, j in pairs])
    taught = torch.stack([(y[i] - y[j]).norm() for i, j in pairs])
    expected = F.smooth_l1_loss(learned / learned.mean(), taught / taught.mean())
    assert_same(distance_difference(x, y, block), expected, [leaf])


@pytest.mark.parametrize("kind", ["softmax", "distance"])
def test_relations(kind):
    """0 for a turned teacher, sound with equal rows and alone, averaged over what is there."""
    turn = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(0)).double())
    teacher = model(5, 1)
    turned = teacher._replace(image=teacher.image @ turn.Q, text=teacher.text @ turn.Q)
    assert abs(float(relational_loss(turned, [teacher], kind=kind))) < 1e-12

    leaves = learning(5, 3)
    student = Embeddings(*leaves, torch.ones(()).double())
    images = model(6, 2, text_dim=0)
    found = relational_loss(student, [teacher, images], kind=kind, weights=(1.0, 3.0))
    one = neighbour_divergence if kind == "softmax" else distance_difference
    scale = (25.0,) if kind == "softmax" else ()
    image = one(leaves[0], teacher.image, *scale) + 3 * one(leaves[0], images.image, *scale)
    assert_same(found, (image / 4 + one(leaves[1], teacher.text, *scale)) / 2, leaves)

    for twins in (rows(5, 1)[[0, 0, 1]], rows(5, 1, n=1), rows(5, 1, n=2)):
        x = twins.clone().requires_grad_()
        value = one(x, rows(7, 2, n=len(twins)), *scale)
        (gradient,) = torch.autograd.grad(value, x)
        assert torch.isfinite(value) and torch.isfinite(gradient).all()
        if len(twins) == 1:
            assert value == 0 and not gradient.any()


def test_a_large_interactive_loss_keeps_no_square():
    """From some size on it is tiled, with the same value and gradients."""
    n = math.isqrt(CPU_CROSSOVER) + 1
    image, text = rows(4, 1, n=n).requires_grad_(), rows(4, 2, n=n).requires_grad_()
    teacher = Embeddings(rows(4, 3, n=n), rows(4, 4, n=n), torch.ones(()).double())
    scale = torch.tensor(14.0).double()
    with saved_sizes() as saved:
        found = interactive_contrastive(image, text, teacher, scale)
    assert max(saved) < n * n // 8
    clip = open_clip.ClipLoss()
    expected = (clip(image, teacher.text, scale) + clip(teacher.image, text, scale)) / 2
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    gradients = [torch.autograd.grad(value, [image, text]) for value in (found, expected)]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@contextmanager
def saved_sizes():
    """Sizes of what is saved for the backward pass."""
    saved = []

    def keep(tensor):
        saved.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield saved


def test_relations_keep_no_square():
    """Nothing of n x n is saved for the backward pass."""
    n = 256
    x = rows(8, 1, n=n).requires_grad_()
    with saved_sizes() as saved:
        neighbour_divergence(x, rows(8, 2, n=n), 25.0, 64)
        distance_difference(x, rows(8, 2, n=n), 64)
    assert max(saved) < n * n // 8
