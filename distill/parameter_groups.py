"""Which rate and which decay each parameter gets; every one that learns is in exactly one group.

Two towers, two rates, and rates that fall from a tower's output to its input, as in EVA-CLIP
(arXiv:2303.15389); no decay on norms, biases and the logit scale, as in CLIP (arXiv:2103.00020).
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from distill.layers import layers_of_tower
from distill.optimizer_config import OptimizerConfig
from distill.training_module import TrainingModule
from students import Student
from students.composing import PartialStudent
from students.student import Tower

_STUDENT = "student.module."


def parameter_groups(module: TrainingModule, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Groups for an optimizer: `params`, `weight_decay` and `lr_scale`, a factor of `config.lr`.

    Muon's have `use_fallback` besides: whether AdamW takes their steps.

    Raises:
        ValueError: a tower has no layers to let a rate fall over, or towers with different rates
            share parameters.
    """
    scales = _scales(module.student, config)
    plain = _not_decayed(module)
    multiplied = _multiplied(module) if config.name == "muon" else set()
    groups: dict[tuple[float, bool, bool], list[nn.Parameter]] = defaultdict(list)
    for name, value in module.named_parameters():
        if value.requires_grad:
            groups[scales.get(name, 1.0), name not in plain, name in multiplied].append(value)
    found = [
        {
            "params": groups[scale, decays, by_muon],
            "weight_decay": config.weight_decay if decays else 0.0,
            "lr_scale": scale,
            **({"use_fallback": not by_muon} if config.name == "muon" else {}),
        }
        for scale, decays, by_muon in sorted(groups)
    ]
    check_groups(module, found)
    return found


def check_groups(module: nn.Module, groups: Sequence[Mapping[str, Any]]) -> None:
    """See that every parameter that learns is in exactly one group, and nothing else is in any.

    Raises:
        ValueError: names the strays.
    """
    names = {id(value): name for name, value in module.named_parameters()}
    times: dict[str, int] = {n: 0 for n, value in module.named_parameters() if value.requires_grad}
    for number, group in enumerate(groups):
        for value in group["params"]:
            name = names.get(id(value), f"a tensor {tuple(value.shape)} of group {number}")
            times[name] = times.get(name, 0) + (1 if name in times else 2)
    strays = {name: count for name, count in times.items() if count != 1}
    if strays:
        listed = ", ".join(
            f"{name} ({'in none' if count == 0 else 'in too many'})"
            for name, count in strays.items()
        )
        raise ValueError(
            "every parameter that learns must be in exactly one group of the optimizer, and these "
            f"are not: {listed}"
        )


def _scales(student: Student, config: OptimizerConfig) -> dict[str, float]:
    """Factor of `config.lr` for each parameter of the towers, by its name in the run's module."""
    asked = {
        "image": (config.image_lr, config.image_layer_decay),
        "text": (config.text_lr, config.text_layer_decay),
    }
    if all(found == (None, 1.0) for found in asked.values()):
        return {}
    image, text = student.image_tower, student.text_tower
    both = student.tower_names["image"] & student.tower_names["text"]
    if both and asked["image"] != asked["text"]:
        raise ValueError(
            f"the towers of {student.name} share {', '.join(sorted(both))}, which cannot have two "
            "rates: give optimizer.image_lr and text_lr, and both layer decays, the same values"
        )
    for tower in (image, text):
        _check_has_rates(student, tower, *asked[tower.tower])
    size = student.preprocess.image_size
    pixels = torch.zeros(1, 3, size, size, device=student.device)
    tokens = student.tokenizer(["a"]).to(student.device)
    scales: dict[str, float] = {}
    for tower, inputs in ((image, pixels), (text, tokens)):
        rate, decay = asked[tower.tower]
        factor = (rate or config.lr) / config.lr
        for name, below in _layers_below_last(tower, inputs, decay).items():
            scales.setdefault(_STUDENT + name, factor * decay**below)
    return scales


def _check_has_rates(student: Student, tower: Tower, rate: float | None, decay: float) -> None:
    """Refuse a rate for what does not learn, and a decay over layers that are not there."""
    name = tower.tower
    learns = any(value.requires_grad for value in tower.parameters())
    if (rate is not None or decay != 1.0) and not learns:
        raise ValueError(
            f"optimizer.{name}_lr and optimizer.{name}_layer_decay are for a tower that learns, "
            f"and the {name} side of {student.name} is locked: leave them out"
        )
    absent = isinstance(student, PartialStudent) and getattr(student.module, name).encoder is None
    if decay != 1.0 and absent:
        raise ValueError(
            f"optimizer.{name}_layer_decay falls over an encoder's layers, and on the {name} side "
            f"of {student.name} a head learns alone: leave it out, and take optimizer.{name}_lr"
        )


def _layers_below_last(tower: Tower, inputs: torch.Tensor, decay: float) -> dict[str, int]:
    """How many layers each parameter of a tower is from the last; 0 for all without decay."""
    if decay == 1.0:
        return {name.removeprefix("module."): 0 for name, _ in tower.named_parameters()}
    layers = layers_of_tower(tower, inputs)
    last = max(layers.values())
    return {name: last - layer for name, layer in layers.items()}


def _not_decayed(module: nn.Module) -> set[str]:
    """Vectors and scalars (norms, biases, logit scale), and norms and biases of other shapes."""
    norms = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)
    of_norms = {
        f"{path}.{name}"
        for path, part in module.named_modules()
        if isinstance(part, norms)
        for name, _ in part.named_parameters(recurse=False)
    }
    found = {n for n, v in module.named_parameters() if v.ndim <= 1 or n.endswith(".bias")}
    return found | of_norms


def _multiplied(module: nn.Module) -> set[str]:
    """Weights of linear layers, convolutions and attention: not tables, positions or projections.

    A matrix that no layer owns may be either, and AdamW is wrong for neither.
    """
    layers = (nn.Linear, nn.modules.conv._ConvNd, nn.MultiheadAttention)
    return {
        f"{path}.{name}"
        for path, part in module.named_modules()
        if isinstance(part, layers)
        for name, value in part.named_parameters(recurse=False)
        if value.ndim > 1
    }
