"""Intra-modal softening, row weights and divisors against the papers' equations, in float64."""

import pytest
import torch
import torch.nn.functional as F

from distill.ops import Embeddings, IntraModal, image_text_loss


def model(n=9, d=8, seed=0, scale=17.0, bias=None):
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(2, n, d, generator=generator, dtype=torch.float64)
    rows = [part.clone().requires_grad_() for part in F.normalize(drawn, dim=2)]
    scalars = [
        None if x is None else torch.tensor(x, dtype=torch.float64).requires_grad_()
        for x in (scale, bias)
    ]
    return Embeddings(*rows, *scalars)


def scores(model):
    return model.logit_scale * model.image @ model.text.T


def assert_same(ours, theirs, student):
    leaves = [leaf for leaf in student if leaf is not None]
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad(x, leaves, retain_graph=True) for x in (ours, theirs)]
    for mine, other in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12)


def test_intra_modal_targets_are_softclips():
    student, teachers = model(), [model(d=5, seed=7, scale=4.0), model(d=6, seed=8, scale=9.0)]
    soft = IntraModal(mix=0.4, scale=6.0)
    ours = image_text_loss(student, teachers, teacher_weights=[1.0, 3.0], intra_modal=soft)
    eye = torch.eye(9, dtype=torch.float64)
    images, texts = (
        0.6 * eye + 0.1 * (6.0 * a @ a.T).softmax(1) + 0.3 * (6.0 * b @ b.T).softmax(1)
        for a, b in ([t.image for t in teachers], [t.text for t in teachers])
    )
    logits = scores(student)
    rows, columns = F.cross_entropy(logits, images), F.cross_entropy(logits.T, texts)
    assert_same(ours.contrastive, (rows + columns) / 2, student)
    plain = image_text_loss(student, teachers, teacher_weights=[1.0, 3.0])
    torch.testing.assert_close(ours.affinity, plain.affinity)


def test_intra_modal_similarities_of_strangers_are_the_hard_loss():
    """Orthogonal rows at a large scale are similar to themselves alone."""
    student = model()
    eye = torch.eye(9, dtype=torch.float64)
    teacher = Embeddings(eye, eye, torch.tensor(1e3, dtype=torch.float64))
    softened = image_text_loss(student, [teacher], intra_modal=IntraModal(mix=0.7))
    assert_same(softened.contrastive, image_text_loss(student).contrastive, student)


def test_mean_logit_softens_by_the_mean_of_similarities():
    student, teachers = model(), [model(d=5, seed=7, scale=4.0), model(d=6, seed=8, scale=9.0)]
    soft = IntraModal(mix=1.0)
    ours = image_text_loss(student, teachers, intra_modal=soft, targets="mean_logit").contrastive
    targets = [
        sum(t.logit_scale.detach() * rows(t) @ rows(t).T for t in teachers) / 2
        for rows in (lambda t: t.image.detach(), lambda t: t.text.detach())
    ]
    logits = scores(student)
    both = (
        F.cross_entropy(logits, targets[0].softmax(1)),
        F.cross_entropy(logits.T, targets[1].softmax(1)),
    )
    assert_same(ours, (both[0] + both[1]) / 2, student)


def test_row_weights_weigh_each_samples_loss():
    student, teacher = model(), model(d=5, seed=7)
    weights = torch.arange(9, dtype=torch.float64)
    ours = image_text_loss(student, [teacher], row_weights=weights)
    logits, labels = scores(student), torch.arange(9)
    each = [F.cross_entropy(m, labels, reduction="none") for m in (logits, logits.T)]
    assert_same(ours.contrastive, (weights / 36) @ (each[0] + each[1]) / 2, student)
    taught = scores(teacher).detach()
    each = [
        F.cross_entropy(m, t.softmax(1), reduction="none")
        for m, t in ((logits, taught), (logits.T, taught.T))
    ]
    ours = image_text_loss(student, [teacher], row_weights=weights)
    assert_same(ours.affinity, (weights / 36) @ (each[0] + each[1]) / 2, student)


def test_row_weights_of_the_sigmoid_weigh_pairs_by_their_mean():
    student = model(bias=-3.0)
    weights = torch.arange(9, dtype=torch.float64)
    ours = image_text_loss(student, kind="sigmoid", row_weights=weights).contrastive
    sign = 2 * torch.eye(9, dtype=torch.float64) - 1
    pairs = -F.logsigmoid(sign * (scores(student) + student.logit_bias))
    theirs = ((weights / 36) @ pairs.sum(1) + (weights / 36) @ pairs.sum(0)) / 2
    assert_same(ours, theirs, student)


@pytest.mark.parametrize("ids", [None, [0, 1, 2, 0, 4, 5, 6, 2, 0]])
def test_divisors_are_fastclips_estimator(ids):
    student = model()
    generator = torch.Generator().manual_seed(3)
    divisors = torch.randn(2, 9, generator=generator, dtype=torch.float64)
    positives = None if ids is None else torch.tensor(ids)
    ours = image_text_loss(student, positives=positives, divisors=(divisors[0], divisors[1]))
    labels = torch.arange(9) if positives is None else positives
    same = labels[:, None] == labels[None, :]
    total = 0.0
    for logits, divisor in ((scores(student), divisors[0]), (scores(student).T, divisors[1])):
        for i in range(9):
            positive = logits[i, same[i]].mean()
            total = total + (logits[i, ~same[i]] - positive - divisor[i]).exp().sum()
    assert_same(ours.contrastive, total / 18, student)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"intra_modal": IntraModal()}, "intra_modal needs .* at least one teacher"),
        ({"row_weights": torch.ones(3)}, r"row_weights must be \(9,\), got \(3,\)"),
        ({"row_weights": -torch.ones(9)}, "row_weights must be finite and >= 0"),
        ({"divisors": (torch.ones(8), torch.ones(8))}, r"divisors\[0\] must be \(9,\)"),
        (
            {"divisors": (torch.ones(9), torch.ones(9)), "label_smoothing": 0.1},
            "divisors need .* label_smoothing=0",
        ),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        image_text_loss(model(), **arguments)


def test_intra_modal_refuses_a_share_that_is_none():
    with pytest.raises(ValueError, match=r"intra_modal.mix must be in \(0, 1\], got 0"):
        IntraModal(mix=0.0)
