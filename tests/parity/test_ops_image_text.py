"""image_text_loss against open_clip's own losses, in float64: values and all gradients."""

import pytest
import torch
import torch.nn.functional as F
from open_clip.loss import ClipLoss, DistillClipLoss, SigLipLoss

from distill.ops import Embeddings, image_text_loss
from distill.ops.image_text.arguments import Options, check_arguments


def rows(n, d, seed):
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return F.normalize(drawn, dim=1).requires_grad_()


def model(n=13, d=8, seed=0, scale=17.0, bias=None):
    scale = torch.tensor(scale, dtype=torch.float64, requires_grad=True)
    if bias is not None:
        bias = torch.tensor(bias, dtype=torch.float64, requires_grad=True)
    return Embeddings(rows(n, d, seed), rows(n, d, seed + 1), scale, bias)


def gradients(value, student):
    leaves = [leaf for leaf in student if leaf is not None]
    return torch.autograd.grad(value, leaves, retain_graph=True)


def assert_same(ours, theirs, student):
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    for mine, other in zip(gradients(ours, student), gradients(theirs, student), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 13, 64])
def test_contrastive_is_open_clips_clip_loss(n):
    student = model(n)
    theirs = ClipLoss()(student.image, student.text, student.logit_scale)
    assert_same(image_text_loss(student).contrastive, theirs, student)


@pytest.mark.parametrize("n", [1, 13])
def test_sigmoid_is_open_clips_siglip_loss(n):
    student = model(n, bias=-3.0)
    theirs = SigLipLoss()(student.image, student.text, student.logit_scale, student.logit_bias)
    assert_same(image_text_loss(student, kind="sigmoid").contrastive, theirs, student)


def test_affinity_is_open_clips_distillation_loss():
    student, teacher = model(), model(d=5, seed=7, scale=40.0)
    theirs = DistillClipLoss()(
        student.image,
        student.text,
        student.logit_scale,
        teacher.image.detach(),
        teacher.text.detach(),
        teacher.logit_scale.detach(),
        output_dict=True,
    )
    ours = image_text_loss(student, [teacher])
    assert_same(ours.affinity, theirs["distill_loss"], student)
    assert_same(ours.contrastive, theirs["contrastive_loss"], student)


def test_two_teachers_are_the_weighted_mean_of_single_losses():
    """Cross-entropy is linear in the target: mean of probabilities = mean of losses."""
    student = model()
    teachers = [model(d=5, seed=7, scale=40.0), model(d=11, seed=9, scale=9.0)]
    both = image_text_loss(student, teachers, teacher_weights=[3.0, 1.0]).affinity
    apart = [image_text_loss(student, [t]).affinity for t in teachers]
    assert_same(both, 0.75 * apart[0] + 0.25 * apart[1], student)


def test_mean_logit_differs_from_mean_prob_and_is_its_own_equation():
    student = model()
    teachers = [model(d=5, seed=7, scale=40.0), model(d=11, seed=9, scale=9.0)]
    ours = image_text_loss(student, teachers, targets="mean_logit").affinity
    logits = sum(t.logit_scale * t.image @ t.text.T for t in teachers) / 2
    scores = student.logit_scale * student.image @ student.text.T
    rows_loss = F.cross_entropy(scores, logits.softmax(1).detach())
    columns_loss = F.cross_entropy(scores.T, logits.T.softmax(1).detach())
    assert_same(ours, (rows_loss + columns_loss) / 2, student)
    assert abs(ours - image_text_loss(student, teachers).affinity) > 1e-3


def test_sigmoid_affinity_is_binary_cross_entropy():
    student = model(bias=-3.0)
    teachers = [model(d=5, seed=7, bias=-9.0), model(d=6, seed=8, bias=-4.0)]
    ours = image_text_loss(student, teachers, kind="sigmoid").affinity
    q = sum((t.logit_scale * t.image @ t.text.T + t.logit_bias).sigmoid() for t in teachers) / 2
    scores = student.logit_scale * student.image @ student.text.T + student.logit_bias
    theirs = F.binary_cross_entropy_with_logits(scores, q.detach(), reduction="sum") / 13
    assert_same(ours, theirs, student)


def test_affinity_has_no_gradient_at_the_teacher():
    teacher = model()
    student = Embeddings(
        *(x if x is None else x.detach().clone().requires_grad_() for x in teacher)
    )
    loss = image_text_loss(student, [teacher]).affinity
    assert all(g.abs().max() < 1e-12 for g in gradients(loss, student))


def test_equal_ids_are_positives_of_each_other():
    student = model(4)
    ids = torch.tensor([5, 6, 5, 7])
    ours = image_text_loss(student, positives=ids).contrastive
    target = torch.eye(4, dtype=torch.float64)
    target[0, 2] = target[2, 0] = 1
    target[[0, 2]] /= 2
    scores = student.logit_scale * student.image @ student.text.T
    theirs = (F.cross_entropy(scores, target) + F.cross_entropy(scores.T, target)) / 2
    assert_same(ours, theirs, student)
    distinct = image_text_loss(student, positives=torch.arange(4)).contrastive
    assert_same(distinct, image_text_loss(student).contrastive, student)


def test_label_smoothing_is_torchs():
    student = model()
    scores = student.logit_scale * student.image @ student.text.T
    labels = torch.arange(13)
    theirs = (
        F.cross_entropy(scores, labels, label_smoothing=0.1)
        + F.cross_entropy(scores.T, labels, label_smoothing=0.1)
    ) / 2
    assert_same(image_text_loss(student, label_smoothing=0.1).contrastive, theirs, student)


def test_bfloat16_is_computed_in_float32_also_under_autocast():
    student = Embeddings(*(x.detach().float() for x in model(scale=100.0)[:3]))
    exact = image_text_loss(student).contrastive
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = image_text_loss(student).contrastive
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, exact)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"positives": torch.zeros(3, dtype=torch.int64)}, "positives must be"),
        ({"teacher_weights": [1.0, 2.0]}, "teacher_weights must be"),
        ({"label_smoothing": 1.5}, "label_smoothing must be"),
        ({"kind": "sigmoid"}, "needs student.logit_bias"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        image_text_loss(model(), **arguments)


@pytest.mark.parametrize("name", ["kind", "targets", "exchange", "impl"])
def test_unknown_names_are_refused(name):
    """Below the public function: in tests its Literal types are checked before its body."""
    with pytest.raises(ValueError, match=f"{name} must be one of .*got 'other'"):
        check_arguments(model(), (), Options(**{name: "other"}))


def test_bad_values_are_named():
    student = model()
    with pytest.raises(ValueError, match=r"student.image must have unit rows; .* norm 2"):
        image_text_loss(student._replace(image=student.image * 2))
    with pytest.raises(ValueError, match=r"teachers\[0\].logit_scale must be finite"):
        image_text_loss(student, [student._replace(logit_scale=torch.tensor(torch.inf).double())])
    with pytest.raises(ValueError, match=r"teachers\[0\] has 5 rows, the student has 13"):
        image_text_loss(student, [model(5)])
