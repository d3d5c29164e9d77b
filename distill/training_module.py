"""What is trained, behind one `forward`: student and objective. DDP sees every parameter."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from distill.objective_module import ObjectiveModule
from students import Student
from students.rounding import Rounding
from students.tokens.reduction import TokenReduction
from teachers.contract import Embeddings


class Taught(NamedTuple):
    """What the loss holds one text of every picture against, and what each pair weighs."""

    teachers: Sequence[Embeddings]
    caption_ids: Tensor
    row_weights: Tensor | None = None
    samples: Tensor | None = None  # a number of each sample's own, where the objective draws by it
    numbers: Tensor | None = None  # through all of the data, where the objective remembers samples
    epoch: int = 0


@dataclass(frozen=True, kw_only=True)
class RowGradients:
    """What the whole batch's loss says to one micro-batch.

    Attributes:
        image: gradient of its image rows.
        texts: gradient of its text rows, for each text that a picture has.
        others: parameters outside the towers with their gradients; with the last one only.
    """

    image: Tensor
    texts: Sequence[Tensor]
    others: Sequence[tuple[Tensor, Tensor]] = ()

    def pull(self, rows: Sequence[Embeddings]) -> Tensor:
        """A scalar whose gradient in every parameter is the whole batch's loss's."""
        pulled = (rows[0].image * self.image).sum()
        for pairs, gradient in zip(rows, self.texts, strict=True):
            pulled = pulled + (pairs.text * gradient).sum()
        for parameter, gradient in self.others:
            pulled = pulled + (parameter * gradient).sum()
        return pulled


class TrainingModule(nn.Module):
    """Student and objective behind one forward: batch in, loss terms out.

    Attributes:
        reduction: the student's, for a run that computes fewer tokens.
        rounding: the student's, for a run that learns to bear it.
    """

    def __init__(self, student: Student, objective: ObjectiveModule) -> None:
        """Keep both; the optimizer trains both."""
        super().__init__()
        self.student = student
        self.objective = objective
        self.reduction: TokenReduction | None = None
        self.rounding: Rounding | None = None

    def forward(
        self,
        images: Tensor,
        tokens: Sequence[Tensor],
        taught: Sequence[Taught] = (),
        group: dist.ProcessGroup | None = None,
        pulling: RowGradients | None = None,
        seed: int = 0,
        kept: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return raw terms by name and `total`; with `pulling` only what sends gradients back.

        Args:
            images: normalised pixels.
            tokens: one text of every picture, or several: the loss is then the sum of the losses
                with each.
            taught: for each text, what it is held against.
            group: as for `ObjectiveModule`.
            pulling: gradients of the rows that are known already.
            seed: as for `ObjectiveModule`.
            kept: indices of the patches that stay of each picture, `(n, kept)`; all when None.
        """
        rows = self.embed(images, tokens, kept)
        if pulling is not None:
            return {"total": pulling.pull(rows)}
        return self.terms(rows, taught, group, seed)

    def embed(
        self, images: Tensor, tokens: Sequence[Tensor], kept: Tensor | None = None
    ) -> tuple[Embeddings, ...]:
        """Embed every picture once and all its texts together: one `Embeddings` for each text."""
        with nullcontext() if self.reduction is None else self.reduction.rows(kept):
            rows = (self.rounding or self.student)(images, torch.cat(tuple(tokens)))
        parts = rows.text.split([len(part) for part in tokens])
        return tuple(rows._replace(text=part) for part in parts)

    def terms(
        self,
        rows: Sequence[Embeddings],
        taught: Sequence[Taught],
        group: dist.ProcessGroup | None,
        seed: int,
    ) -> dict[str, Tensor]:
        """Every term, added up over the texts."""
        found = [
            self.objective(
                pairs,
                one.teachers,
                one.caption_ids,
                group,
                seed,
                one.row_weights,
                one.samples,
                one.numbers,
                one.epoch,
            )
            for pairs, one in zip(rows, taught, strict=True)
        ]
        total = found[0]
        for terms in found[1:]:
            total = {name: value + terms[name] for name, value in total.items()}
        return total

    def outside_towers(self) -> list[nn.Parameter]:
        """The scale, the bias and what the objective trains, such as adapters."""
        heads = [self.student.logit_scale, self.student.logit_bias]
        return [*(h for h in heads if isinstance(h, nn.Parameter)), *self.objective.parameters()]
