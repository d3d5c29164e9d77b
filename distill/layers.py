"""How deep in its tower a parameter sits, for rates that fall from the output to the input.

timm's towers say it themselves (`group_matcher`). Of others the gradient is asked: a parameter
belongs to the last of the tower's blocks whose input does not depend on it yet, so that no name
and no order of registration is trusted. Layer 0 is what comes before the first block; the last
layer is what comes after all. Leaves out towers without a list of blocks.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from timm.models import group_parameters
from torch import Tensor, nn

from students.student import Tower
from teachers.clip_model import evaluating


def layers_of_tower(tower: Tower, inputs: Tensor) -> dict[str, int]:
    """Layer of each parameter of a tower, by its name in `tower.module`; 0 is nearest the input.

    Args:
        tower: one encoder of a student.
        inputs: one picture or text, as the tower takes it.

    Raises:
        ValueError: the tower has neither timm's matcher nor a list of blocks.
    """
    named = {name.removeprefix("module."): value for name, value in tower.named_parameters()}
    known = _timm_layers(tower.module, named)
    if known:
        # What surrounds timm's tower projects its output.
        last = max(known.values())
        return {name: known.get(name, last) for name in named}
    blocks = _blocks(tower.module, named)
    if not blocks:
        raise ValueError(
            f"optimizer.{tower.tower}_layer_decay needs layers, and the {tower.tower} tower has "
            "neither timm's group_matcher nor an nn.ModuleList or nn.Sequential of "
            f"blocks; leave optimizer.{tower.tower}_layer_decay at 1"
        )
    return _layers_by_gradient(tower, inputs, named, blocks)


def _timm_layers(module: nn.Module, named: Mapping[str, Tensor]) -> dict[str, int]:
    """Layers by the matcher of the timm model within this tower, if there is one."""
    for path, part in module.named_modules():
        start = f"{path}." if path else ""
        if not hasattr(part, "group_matcher") or not any(n.startswith(start) for n in named):
            continue
        matcher: Callable = part.group_matcher  # type: ignore[assignment]
        found: Any = group_parameters(part, matcher(coarse=False), reverse=True)
        return {start + n: layer for n, layer in found.items() if start + n in named}
    return {}


def _blocks(module: nn.Module, named: Mapping[str, Tensor]) -> list[nn.Module]:
    """The tower's blocks: of its lists of modules with weights, the one with most weights."""
    best: list[nn.Module] = []
    most = (False, 0)
    for path, part in module.named_modules():
        if not isinstance(part, nn.ModuleList | nn.Sequential):
            continue
        size = sum(v.numel() for name, v in named.items() if name.startswith(f"{path}."))
        blocks = [block for block in part if any(True for _ in block.parameters())]
        # One block is a list too, unless there is a longer one. Of a list of lists the outer, which
        # comes first, is meant.
        if blocks and (len(blocks) > 1, size) > most:
            best, most = blocks, (len(blocks) > 1, size)
    return best


def _layers_by_gradient(
    tower: Tower, inputs: Tensor, named: Mapping[str, Tensor], blocks: Sequence[nn.Module]
) -> dict[str, int]:
    """Block i is layer i + 1; what no block's input depends on comes after the last one."""
    entered: dict[nn.Module, Tensor] = {}

    def remember(block: nn.Module, arguments: tuple, keywords: dict[str, Any]) -> None:
        values = (*arguments, *keywords.values())
        entered.setdefault(block, next(v for v in values if isinstance(v, Tensor)))

    hooks = [block.register_forward_pre_hook(remember, with_kwargs=True) for block in blocks]
    wanted = [(value, value.requires_grad) for value in tower.module.parameters()]
    layers = dict.fromkeys(named, len(blocks) + 1)
    try:
        tower.module.requires_grad_(True)
        with evaluating(tower.module), torch.enable_grad():
            tower(inputs)
            for layer, tensor in enumerate(entered.values()):
                for name in _depends_on(tensor, named):
                    layers[name] = min(layers[name], layer)
    finally:
        for hook in hooks:
            hook.remove()
        for value, learns in wanted:
            value.requires_grad_(learns)
    last = {id(value) for value in blocks[-1].parameters()}
    inside = {name for name, value in named.items() if id(value) in last}
    return {
        name: min(layer, len(blocks)) if name in inside else layer for name, layer in layers.items()
    }


def _depends_on(tensor: Tensor, named: Mapping[str, Tensor]) -> set[str]:
    """Names of what a tensor was computed from."""
    if not tensor.requires_grad:
        return set()
    gradients = torch.autograd.grad(
        tensor.sum(), list(named.values()), retain_graph=True, allow_unused=True
    )
    return {name for name, found in zip(named, gradients, strict=True) if found is not None}
