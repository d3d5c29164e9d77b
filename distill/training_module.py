"""What is trained, behind one `forward`: student and objective. DDP sees every parameter."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch.distributed as dist
from torch import Tensor, nn

from distill.objective import ObjectiveModule
from students import Student
from teachers.contract import Embeddings


@dataclass(frozen=True, kw_only=True)
class RowGradients:
    """What the whole batch's loss says to one micro-batch.

    Attributes:
        image: gradient of its image rows.
        text: gradient of its text rows.
        others: parameters outside the towers with their gradients; with the last one only.
    """

    image: Tensor
    text: Tensor
    others: Sequence[tuple[Tensor, Tensor]] = ()

    def pull(self, rows: Embeddings) -> Tensor:
        """A scalar whose gradient in every parameter is the whole batch's loss's."""
        pulled = (rows.image * self.image).sum() + (rows.text * self.text).sum()
        for parameter, gradient in self.others:
            pulled = pulled + (parameter * gradient).sum()
        return pulled


class TrainingModule(nn.Module):
    """Student and objective behind one forward: batch in, loss terms out."""

    def __init__(self, student: Student, objective: ObjectiveModule) -> None:
        """Keep both; the optimizer trains both."""
        super().__init__()
        self.student = student
        self.objective = objective

    def forward(
        self,
        images: Tensor,
        tokens: Tensor,
        teachers: Sequence[Embeddings] = (),
        caption_ids: Tensor | None = None,
        group: dist.ProcessGroup | None = None,
        pulling: RowGradients | None = None,
        seed: int = 0,
    ) -> dict[str, Tensor]:
        """Return raw terms by name and `total`; with `pulling` only what sends gradients back."""
        rows = self.student(images, tokens)
        if pulling is not None:
            return {"total": pulling.pull(rows)}
        assert caption_ids is not None
        return self.objective(rows, teachers, caption_ids, group, seed)

    def outside_towers(self) -> list[nn.Parameter]:
        """The scale, the bias and what the objective trains, such as adapters."""
        heads = [self.student.logit_scale, self.student.logit_bias]
        return [*(h for h in heads if isinstance(h, nn.Parameter)), *self.objective.parameters()]
