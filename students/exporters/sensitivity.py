"""Mixed precision: the layers whose quantisation hurts the output most stay float, measured.

One layer at a time is rounded as the back ends round it (weights per output channel or block, its
input per tensor over the samples), and the output's root-mean-square distance is compared with the
spread between different inputs. Errors of different layers add up like independent noise, as
squares; the worst layers are taken out until the rest is within half of the tolerance. Small ones,
which cost next to no bytes, are taken out below that, too, if much of the error is theirs. Left
out: pairs of layers that hurt only together.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

LAYERS = (nn.Linear, nn.Conv2d, nn.Embedding, nn.MultiheadAttention)
# Layers of so small a share of a tower's numbers stay float to come within an eighth of the
# tolerance rather than a half, each if this part of what is left is its own, as squares. Two first
# convolutions, 0.1 % of the numbers, had nine tenths of a picture tower's error.
_CHEAP, _ITS_OWN = 0.01, 0.1


def layers_to_keep(
    module: nn.Module,
    inputs: Tensor,
    *,
    bits: int,
    activations: bool,
    tolerance: float,
    block: int | None = None,
    kinds: tuple[type[nn.Module], ...] = LAYERS,
) -> tuple[str, ...]:
    """Name the layers to keep float, the worst first.

    Args:
        module: a graph's module; left as it was.
        inputs: samples, at least two different.
        bits: of the weights.
        activations: whether inputs of layers are rounded (to 8 bits) too.
        tolerance: the relative error that the whole file may have.
        block: numbers along the input that share a scale; all of an output channel's when None.
        kinds: of layers that are rounded so; the others have 8 bits and a scale a channel.
    """
    errors = layer_errors(
        module, inputs, bits=bits, activations=activations, block=block, kinds=kinds
    )
    sizes = {name: _numbers(module.get_submodule(name)) for name in errors}
    cheap = _CHEAP * _numbers(module)
    left = sum(error**2 for error in errors.values())
    kept: list[str] = []
    for name in sorted(errors, key=lambda name: (-errors[name], name)):
        too_far = left > (tolerance / 2) ** 2
        spare = cheap - sum(sizes[each] for each in kept)
        worth_it = errors[name] ** 2 > _ITS_OWN * left and left > (tolerance / 8) ** 2
        if too_far or (worth_it and sizes[name] <= spare):
            kept.append(name)
            left -= errors[name] ** 2
    return tuple(kept)


def _numbers(module: nn.Module) -> int:
    return sum(value.numel() for value in module.parameters())


def layer_errors(
    module: nn.Module,
    inputs: Tensor,
    *,
    bits: int,
    activations: bool,
    block: int | None = None,
    kinds: tuple[type[nn.Module], ...] = LAYERS,
) -> dict[str, float]:
    """Return each layer's own error when it alone is rounded, relative to the spread."""
    with torch.no_grad():
        truth = module(inputs)
        spread = torch.pdist(truth).mean().item()
        errors = {}
        for name, layer in module.named_modules():
            if not isinstance(layer, LAYERS):
                continue
            how = (bits, block) if isinstance(layer, kinds) else (8, None)
            with _rounded(layer, *how, activations=activations):
                distance = (module(inputs) - truth).norm(dim=-1).square().mean().sqrt().item()
            if distance > 0:  # zero: a layer of the other tower
                errors[name] = distance / spread
    return errors


def _quantised(value: nn.Parameter) -> bool:
    return value.ndim >= 2 and value.is_floating_point()


@contextmanager
def _rounded(
    layer: nn.Module, bits: int, block: int | None, *, activations: bool
) -> Iterator[None]:
    """Round one layer's weights, and what it is given, for a while."""
    before = {
        name: value.clone()
        for name, value in layer.named_parameters(recurse=False)
        if _quantised(value)
    }
    hook = None
    if activations and not isinstance(layer, nn.Embedding):
        hook = layer.register_forward_pre_hook(
            lambda _, given: tuple(round_activations(each) for each in given)
        )
    try:
        for name, value in before.items():
            layer.get_parameter(name).copy_(round_weights(value, bits=bits, block=block))
        yield
    finally:
        for name, value in before.items():
            layer.get_parameter(name).copy_(value)
        if hook is not None:
            hook.remove()


def round_weights(weights: Tensor, *, bits: int, block: int | None = None) -> Tensor:
    """Round symmetrically, with one scale for each first index, or for each block of the second.

    Where blocks do not fit, ONNX files have 8 bits and one scale for each first index, and so it is
    here; Core ML's have fp16.
    """
    if block is not None and weights.shape[1] % block == 0:
        blocks = weights.movedim(1, -1).unflatten(-1, (-1, block))
        rounded = round_weights(blocks.flatten(0, -2), bits=bits)
        return rounded.reshape(blocks.shape).flatten(-2).movedim(-1, 1)
    most = 2 ** ((bits if block is None else 8) - 1) - 1
    largest = weights.flatten(1).abs().amax(dim=1).clamp(min=torch.finfo(weights.dtype).tiny)
    scale = (largest / most).reshape(-1, *[1] * (weights.ndim - 1))
    return (weights / scale).round().clamp(-most, most) * scale


def round_activations(given: Tensor) -> Tensor:
    """Round to 256 even steps from the least to the largest value, zero being one of them."""
    if not isinstance(given, Tensor) or not given.is_floating_point():
        return given
    low, high = given.amin().clamp(max=0), given.amax().clamp(min=0)
    step = ((high - low) / 255).clamp(min=torch.finfo(given.dtype).tiny)
    zero = (-low / step).round()
    return (((given / step).round() + zero).clamp(0, 255) - zero) * step
