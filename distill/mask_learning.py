"""How masks learn: the task's gradient, and a constraint on what is left.

After CoFi (arXiv:2204.00408) and TinyCLIP: minimise the loss plus `a * gap + b * gap ** 2`, gap
being the expected share of the cost minus the share asked for, while two multipliers a and b climb.
The share asked for goes down linearly. Gates and multipliers have an Adam of their own, whose
moments are buffers: a checkpoint holds them like any module's. All of it is a function of (seed,
step) and of the gradients, the same on every process.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from distill.mask_config import MaskConfig
from students import Student
from students.inheritance.annotation import Annotation
from students.masks import Masks, mask
from students.masks.costs import Cost

_BETAS = (0.9, 0.999)
_EPS = 1e-8


class MaskLearner(nn.Module):
    """Masks in a student, their cost, and one step of learning.

    Args:
        student: gets the masks.
        masks: of the student.
        annotation: of the student, before it is masked.
        cost: of the sizes.
        config: the run's.
    """

    def __init__(
        self,
        student: Student,
        masks: Masks,
        annotation: Annotation,
        cost: Cost,
        config: MaskConfig,
    ) -> None:
        """Mask the student."""
        super().__init__()
        self.masks, self.cost, self.config = masks, cost, config
        self.full = float(cost.of({name: size.total for name, size in masks.sizes.items()}))
        length = masks.alpha.numel() + 2
        self.multipliers = nn.Buffer(torch.zeros(2))
        self.first_moment = nn.Buffer(torch.zeros(length))
        self.second_moment = nn.Buffer(torch.zeros(length))
        mask(student, masks, annotation)

    def begin(self, seed: int) -> None:
        """Draw the step's gates."""
        self.masks.draw(seed)

    def share(self) -> Tensor:
        """The expected share of the cost; differentiable."""
        return self.cost.of(self.masks.expected()) / self.full

    def learn(self, step: int, group: dist.ProcessGroup | None = None) -> None:
        """Take the gates' step number `step` (from 1), from the gradients that reached them."""
        task = self.masks.pulled()
        if group is not None:
            dist.all_reduce(task, group=group)  # as DDP averages the weights' gradients
            task /= dist.get_world_size(group)
        with torch.enable_grad():
            gap = self.share() - self.config.target(step)
            penalty = self.multipliers[0] * gap + self.multipliers[1] * gap.square()
            (pressure,) = torch.autograd.grad(penalty, [self.masks.alpha])
        with torch.no_grad():
            climb = torch.stack([gap, gap.square()]).to(task)
            update = self._adam(torch.cat([task + pressure, -climb]), step)
            self.masks.alpha -= self.config.lr * update[:-2]
            self.multipliers -= self.config.multiplier_lr * update[-2:]
        self.masks.clamp_()

    def scalars(self) -> dict[str, float]:
        """What the log says of the masks."""
        with torch.no_grad():
            found = {"masks/share": float(self.share())}
            shares = self.masks.shares()
        return found | {f"masks/{name}": float(value) for name, value in shares.items()}

    def sizes(self) -> dict[str, int]:
        """The sizes that stay: as near to the expected ones as the budget allows."""
        return self.masks.within(self.cost, self.config.keep * self.full)

    def _adam(self, gradient: Tensor, step: int) -> Tensor:
        first, second = _BETAS
        self.first_moment.lerp_(gradient, 1 - first)
        self.second_moment.lerp_(gradient.square(), 1 - second)
        mean = self.first_moment / (1 - first**step)
        return mean / ((self.second_moment / (1 - second**step)).sqrt() + _EPS)
