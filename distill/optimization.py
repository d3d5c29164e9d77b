"""Optimizer groups and the learning-rate schedule.

The schedule is a function of the step, not an object with state: a resumed run needs nothing but
the step.
"""

import math

import torch
from timm.optim import param_groups_weight_decay
from torch import nn

from distill.config import OptimizerConfig, ScheduleConfig


def build_optimizer(module: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW; vectors and scalars (norms, biases, logit scale) without decay."""
    groups = param_groups_weight_decay(module, config.weight_decay)
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps)


def learning_rate(step: int, peak: float, schedule: ScheduleConfig) -> float:
    """Rate of the step with index `step` (from 0): linear warm-up, then half a cosine."""
    if step < schedule.warmup_steps:
        return peak * (step + 1) / schedule.warmup_steps
    after = max(1, schedule.num_steps - schedule.warmup_steps)
    progress = min(1.0, (step - schedule.warmup_steps) / after)
    cosine = (1 + math.cos(math.pi * progress)) / 2
    return peak * (schedule.final_lr + (1 - schedule.final_lr) * cosine)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group the rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate
