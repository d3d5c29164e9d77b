"""What a run says of learned masks: how much may stay, and how long its masks learn."""

from dataclasses import dataclass, replace
from typing import Literal

from distill.lock_config import LockConfig


@dataclass(frozen=True, kw_only=True)
class MaskConfig:
    """Learned masks (TinyCLIP's "auto"): a student finds its own sizes, then goes on smaller.

    Attributes:
        keep: share of the cost that stays, of `towers` together, embeddings counted; 1 is no
            masks.
        cost: learned numbers, or milliseconds a picture and a text as measured on this machine
            before the first step (a linear model; OUT/stages/1-masks/cost.json).
        steps: of the schedule's steps, how many are taken with masks; the rest without.
        warmup_steps: over so many the share goes from 1 to `keep`.
        towers: which may shrink.
        smallest: no width, MLP or depth goes below this share of itself.
        lr: of the gates; TinyCLIP's.
        multiplier_lr: of the two Lagrange multipliers.
    """

    keep: float = 1.0
    cost: Literal["parameters", "latency"] = "parameters"
    steps: int = 3_000
    warmup_steps: int = 1_000
    towers: tuple[Literal["image", "text"], ...] = ("image", "text")
    smallest: float = 0.125
    lr: float = 0.02
    multiplier_lr: float = 0.02

    def __post_init__(self) -> None:
        """Refuse what cannot be reached."""
        if not 0 < self.keep <= 1:
            raise ValueError(f"masks.keep is a share above 0 and up to 1, got {self.keep}")
        if self.steps < 1 or not 0 <= self.warmup_steps <= self.steps:
            raise ValueError(
                "masks needs steps >= 1 and 0 <= warmup_steps <= steps, got "
                f"steps={self.steps}, warmup_steps={self.warmup_steps}"
            )
        if min(self.lr, self.multiplier_lr) <= 0:
            raise ValueError(
                f"masks.lr and masks.multiplier_lr must be above 0, got {self.lr} and "
                f"{self.multiplier_lr}"
            )

    @property
    def on(self) -> bool:
        """Whether there are masks at all."""
        return self.keep < 1

    def target(self, step: int) -> float:
        """The share that step number `step` (from 1) asks for."""
        done = min(1.0, step / self.warmup_steps) if self.warmup_steps else 1.0
        return 1 + (self.keep - 1) * done

    def of_length(self, before: int, now: int) -> "MaskConfig":
        """Return masks that take the same share of a schedule of another length."""
        steps = max(1, self.steps * now // before)
        return replace(
            self, steps=steps, warmup_steps=min(steps, self.warmup_steps * now // before)
        )

    def check(self, num_steps: int, stages: tuple[str, ...], lock: LockConfig) -> None:
        """Refuse what the rest of a run does not allow.

        Raises:
            ValueError: what clashes, and which of the two to change.
        """
        if not self.on:
            return
        if self.steps >= num_steps:
            raise ValueError(
                f"masks.steps={self.steps} leaves none of schedule.num_steps={num_steps} for the "
                "smaller student: lower the one or raise the other"
            )
        if stages:
            raise ValueError(
                "masks.keep and student.stages are two ways to shrink: give one of the two"
            )
        if lock.sides or lock.tower in self.towers:
            raise ValueError(
                "lock keeps a tower as it is and masks would shrink it: name the other tower alone "
                "in masks.towers, and lock with lock.tower, not from the store"
            )
