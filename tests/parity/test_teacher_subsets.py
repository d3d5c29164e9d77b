"""Scales per teacher and dropped teachers against dense float64."""

import pytest
import torch
import torch.nn.functional as F

from distill.losses.image_text import contrastive_and_affinity
from distill.losses.teacher_subsets import teacher_shares
from distill.objective import Objective
from distill.ops import Embeddings


def embeddings(seed, dim, n=7):
    torch.manual_seed(seed)
    rows = [F.normalize(torch.randn(n, dim, dtype=torch.float64), dim=1) for _ in range(2)]
    return Embeddings(*rows, torch.tensor(12.0 + seed, dtype=torch.float64))


def dense(student, teachers, shares, scales):
    """Mean over both directions of CE(sum_k w_ik softmax(a_k T_k), softmax(S))."""
    scores = student.logit_scale * student.image @ student.text.T
    total = 0.0
    for by_row in (True, False):
        logs = (scores if by_row else scores.T).log_softmax(1)
        target = torch.zeros_like(scores)
        for k, teacher in enumerate(teachers):
            taught = scales[k] * teacher.logit_scale * teacher.image @ teacher.text.T
            target = target + shares[:, k, None] * (taught if by_row else taught.T).softmax(1)
        total = total - (target * logs).sum(1).mean() / 2
    return total


@pytest.mark.parametrize("dropping", [0.0, 0.5, 1.0])
def test_affinity_equals_the_dense_one(dropping):
    scales, weights = [0.5, 0.25, 2.0], [1.0, 3.0, 2.0]
    student = embeddings(0, 6)
    student = student._replace(
        image=student.image.requires_grad_(), text=student.text.requires_grad_()
    )
    teachers = [embeddings(k, 5 + k) for k in (1, 2, 3)]
    shares = torch.tensor(weights, dtype=torch.float64).expand(7, 3) / 6
    given = None
    if dropping:
        given = shares = teacher_shares(torch.arange(7) * 1_000_003, weights, dropping, 5)
    found = contrastive_and_affinity(
        student, teachers, teacher_weights=weights, teacher_scale=scales, teacher_shares=given
    ).affinity
    expected = dense(student, teachers, shares, scales)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    leaves = [student.image, student.text]
    for one, other in zip(
        torch.autograd.grad(found, leaves), torch.autograd.grad(expected, leaves), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_what_is_dropped_is_a_function_of_seed_sample_and_teacher():
    samples = torch.randint(0, 2**62, (4_000,), generator=torch.Generator().manual_seed(0))
    shares = teacher_shares(samples, [1.0, 1.0, 0.0, 2.0], 0.5, 3)
    torch.testing.assert_close(shares.sum(1), torch.ones(4_000, dtype=torch.float64))
    assert (shares[:, 2] == 0).all()
    order = torch.randperm(4_000, generator=torch.Generator().manual_seed(1))
    assert torch.equal(teacher_shares(samples[order], [1.0, 1.0, 0.0, 2.0], 0.5, 3), shares[order])
    assert not torch.equal(teacher_shares(samples, [1.0, 1.0, 0.0, 2.0], 0.5, 4), shares)
    # Of three teachers 1/8 of the samples would keep none; one of them then stays.
    kept = (shares > 0).double().mean(0)[[0, 1, 3]]
    torch.testing.assert_close(kept, torch.full((3,), 0.5 + 1 / 24).double(), rtol=0, atol=0.03)
    assert (teacher_shares(samples, [1.0, 1.0], 1.0, 0) > 0).sum() == 4_000


def test_settings_that_mean_nothing_are_refused():
    with pytest.raises(ValueError, match="teacher_scales must be positive"):
        Objective(affinity=1.0, teacher_scales=(1.0, 0.0))
    with pytest.raises(ValueError, match="teacher_scales has 1 numbers for 2 teachers"):
        Objective(affinity=1.0, teacher_scales=(1.0,)).build(4, [4, 4])
    with pytest.raises(ValueError, match="'mean_prob' alone"):
        Objective(affinity=1.0, affinity_teacher_dropping=0.5, targets="mean_logit")
