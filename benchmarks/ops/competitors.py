"""Who is compared: functions from student, teachers and a bias to one loss, autograd underneath.

Each competitor is a maker: it gets the case and returns the loss function, or the reason why it
cannot be measured here. The loss is contrastive + affinity, teachers weighted equally. Where a
library has no distillation, its row says so.
"""

from collections.abc import Callable
from dataclasses import dataclass

import rivals
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from distill.ops import Embeddings, image_text_loss

Loss = Callable[[Embeddings, list[Embeddings]], Tensor]


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is computed: loss, rows, width, dtype and device."""

    loss: str
    rows: int
    width: int
    dtype: str
    device: str

    @property
    def teachers(self) -> int:
        """How many teachers of width 768 the loss has."""
        return {"1 teacher": 1, "2 teachers": 2}.get(self.loss, 0)

    @property
    def kind(self) -> str:
        """Softmax or sigmoid."""
        return "sigmoid" if self.loss == "sigmoid" else "softmax"


def ours(impl: str) -> Callable[[Case], Loss | str]:
    """One of our implementations."""

    def make(case: Case) -> Loss | str:
        if impl == "triton" and case.device != "cuda":
            return "needs an NVIDIA GPU"

        def loss(student: Embeddings, teachers: list[Embeddings]) -> Tensor:
            terms = image_text_loss(student, teachers, kind=case.kind, impl=impl)
            return terms.contrastive + terms.affinity

        return loss

    return make


def naive(case: Case) -> Loss | str:
    """The idiom: cross-entropy, and a KL divergence per teacher and direction."""

    def loss(student: Embeddings, teachers: list[Embeddings]) -> Tensor:
        scores = student.logit_scale * student.image.float() @ student.text.float().T
        labels = torch.arange(len(scores), device=scores.device)
        total = (F.cross_entropy(scores, labels) + F.cross_entropy(scores.T, labels)) / 2
        for teacher in teachers:
            with torch.no_grad():
                taught = teacher.logit_scale * teacher.image.float() @ teacher.text.float().T
            for s, t in ((scores, taught), (scores.T, taught.T)):
                divergence = F.kl_div(
                    F.log_softmax(s, 1), F.log_softmax(t, 1), log_target=True, reduction="batchmean"
                )
                total = total + divergence / 2 / len(teachers)
        return total

    return "open_clip is the idiom" if case.kind == "sigmoid" else loss


def open_clip(case: Case) -> Loss | str:
    """open_clip's own losses in eager mode."""
    from open_clip.loss import ClipLoss, DistillClipLoss, SigLipLoss

    if case.teachers > 1:
        return "DistillClipLoss takes one teacher"
    if case.teachers:

        def distill(student: Embeddings, teachers: list[Embeddings]) -> Tensor:
            return sum(DistillClipLoss()(*student[:3], *teachers[0][:3]))

        return distill
    if case.kind == "sigmoid":
        return lambda student, teachers: SigLipLoss()(*student)
    return lambda student, teachers: ClipLoss()(*student[:3])


def compiled_open_clip(case: Case) -> Loss | str:
    """`torch.compile` of open_clip's own; compiled before the clock starts."""
    eager = open_clip(case)
    return eager if isinstance(eager, str) else torch.compile(eager)


def chunked(case: Case) -> Loss | str:
    """The strong baseline in plain PyTorch: strips of rows, each recomputed in backward.

    A strip gives its rows' terms and its part of every column's log-sum-exp; the teachers' column
    log-sum-exps take a pass of their own, without gradient.
    """
    if case.kind == "sigmoid":
        return _chunked_sigmoid
    return _chunked_softmax


def _chunked_softmax(student: Embeddings, teachers: list[Embeddings], strip: int = 1024) -> Tensor:
    n, text = len(student.image), student.text
    tops = range(0, n, strip)
    with torch.no_grad():
        columns = [
            torch.stack([_logits(t, slice(i, i + strip)).logsumexp(0) for i in tops]).logsumexp(0)
            for t in teachers
        ]

    def part(image: Tensor, text: Tensor, scale: Tensor, top: int) -> tuple[Tensor, Tensor]:
        rows = slice(top, top + strip)
        scores = scale * _product(image[rows], text)
        own = scores.diagonal(top).sum()
        by_row = scores.logsumexp(1)
        total = by_row.sum() - 2 * own
        for teacher, column in zip(teachers, columns, strict=True):
            with torch.no_grad():
                taught = _logits(teacher, rows)
                target = taught.softmax(1) + (taught - column).exp()
            total = total + (by_row.sum() - (target * scores).sum()) / len(teachers)
        return total, scores.logsumexp(0)

    parts = [
        checkpoint(part, student.image, text, student.logit_scale, top, use_reentrant=False)
        for top in tops
    ]
    lse = torch.stack([column for _, column in parts]).logsumexp(0).sum()
    total = sum(value for value, _ in parts) + lse * (2 if teachers else 1)
    return total / 2 / n


def _chunked_sigmoid(student: Embeddings, teachers: list[Embeddings], strip: int = 1024) -> Tensor:
    n, text = len(student.image), student.text

    def part(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, top: int) -> Tensor:
        scores = scale * _product(image[top : top + strip], text) + bias
        return -F.logsigmoid(-scores).sum() - scores.diagonal(top).sum()

    student_part = (student.image, text, student.logit_scale, student.logit_bias)
    parts = [checkpoint(part, *student_part, i, use_reentrant=False) for i in range(0, n, strip)]
    return sum(parts) / n


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Multiplied in the rows' own dtype, as under autocast; what follows is float32 at least."""
    return (a @ b.T).to(torch.promote_types(a.dtype, torch.float32))


def _logits(model: Embeddings, rows: slice) -> Tensor:
    return model.logit_scale * _product(model.image[rows], model.text)


def rival(run: Loss, loss: str) -> Callable[[Case], Loss | str]:
    """A package of `rivals.py`: CUDA only, one loss only, not a dependency of ours."""

    def make(case: Case) -> Loss | str:
        if case.device != "cuda":
            return "needs an NVIDIA GPU"
        if not rivals.installed(run.__name__):
            return f"{run.__name__} is not installed"
        return run if case.loss == loss else f"has the {loss} loss only"

    return make


COMPETITORS: dict[str, Callable[[Case], Loss | str]] = {
    "ours, tiled": ours("tiled"),
    "ours, triton": ours("triton"),
    "naive autograd": naive,
    "open_clip": open_clip,
    "open_clip, compiled": compiled_open_clip,
    "chunk + checkpoint": chunked,
    "inf-cl": rival(rivals.inf_cl, "hard"),
    "siglip-kernel": rival(rivals.siglip_kernel, "sigmoid"),
}
