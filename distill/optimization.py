"""Optimizers by name, and the learning-rate schedule.

torch's AdamW, timm's Lion, LAMB and Muon, bitsandbytes' 8-bit ones: none is written here. The
schedule is a function of the step, not an object with state: a resumed run needs nothing else.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import timm.optim.muon
import torch
from timm.optim import Lamb, Lion, Muon

from distill.config import ScheduleConfig
from distill.doctor.machine import multiplies_bfloat16
from distill.optimizer_config import OptimizerConfig, OptimizerName
from teachers.quantization import import_bitsandbytes

Groups = list[dict[str, Any]]
_ORTHOGONALISE = timm.optim.muon.zeropower_via_newtonschulz


def build_optimizer(groups: Groups, config: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimizer that a configuration names, over `parameter_groups`."""
    return OPTIMIZERS[config.name](groups, config)


def _adamw(groups: Groups, config: OptimizerConfig) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps)


def _lion(groups: Groups, config: OptimizerConfig) -> torch.optim.Optimizer:
    return Lion(groups, lr=config.lr, betas=config.betas)


def _lamb(groups: Groups, config: OptimizerConfig) -> torch.optim.Optimizer:
    # The trainer clips gradients itself; timm's Lamb would do it a second time.
    return Lamb(groups, lr=config.lr, betas=config.betas, eps=config.eps, max_grad_norm=None)


def _muon(groups: Groups, config: OptimizerConfig) -> torch.optim.Optimizer:
    # Steps have AdamW's size (arXiv:2502.16982), so that one rate serves matrices and the rest.
    if not multiplies_bfloat16():
        # timm orthogonalises in bfloat16, at a twentieth of float32's rate on such a processor.
        exact = partial(_ORTHOGONALISE, dtype=torch.float32)
        timm.optim.muon.zeropower_via_newtonschulz = exact
    adamw = {"nesterov": False, "eps": config.eps}
    groups = [{**group, **adamw} if group["use_fallback"] else group for group in groups]
    return Muon(groups, lr=config.lr, betas=config.betas, nesterov=True)


def _adamw8bit(groups: Groups, config: OptimizerConfig) -> torch.optim.Optimizer:
    optim = import_bitsandbytes().optim
    return optim.AdamW8bit(groups, lr=config.lr, betas=config.betas, eps=config.eps)


def _lion8bit(groups: Groups, config: OptimizerConfig) -> torch.optim.Optimizer:
    return import_bitsandbytes().optim.Lion8bit(groups, lr=config.lr, betas=config.betas)


def _paged_adamw8bit(groups: Groups, config: OptimizerConfig) -> torch.optim.Optimizer:
    if not torch.cuda.is_available():  # a CPU has no other memory to page to
        return _adamw8bit(groups, config)
    optim = import_bitsandbytes().optim
    return optim.PagedAdamW8bit(groups, lr=config.lr, betas=config.betas, eps=config.eps)


OPTIMIZERS: dict[OptimizerName, Callable[[Groups, OptimizerConfig], torch.optim.Optimizer]] = {
    "adamw": _adamw,
    "lion": _lion,
    "lamb": _lamb,
    "muon": _muon,
    "adamw8bit": _adamw8bit,
    "lion8bit": _lion8bit,
    "paged_adamw8bit": _paged_adamw8bit,
}


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of an optimizer's state; a tensor that many parameters share counts once."""
    shared = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for entries in optimizer.state.values()
        for tensor in entries.values()
        if isinstance(tensor, torch.Tensor)
    }
    return sum(shared.values())


def learning_rate(step: int, peak: float, schedule: ScheduleConfig) -> float:
    """Rate of the step with index `step` (from 0): linear warm-up, then half a cosine."""
    if step < schedule.warmup_steps:
        return peak * (step + 1) / schedule.warmup_steps
    after = max(1, schedule.num_steps - schedule.warmup_steps)
    progress = min(1.0, (step - schedule.warmup_steps) / after)
    cosine = (1 + math.cos(math.pi * progress)) / 2
    return peak * (schedule.final_lr + (1 - schedule.final_lr) * cosine)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group the rate, times its own factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)  # a run older than factors has none
