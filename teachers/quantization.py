"""8-bit and 4-bit teachers through bitsandbytes, on a GPU or on the CPU.

int8 is LLM.int8() (arXiv:2208.07339): rows of weights and of activations in 8 bits, activation
columns with outliers (above 6) multiplied in 16 bits. nf4 is QLoRA's 4-bit NormalFloat
(arXiv:2305.14314). Only Linear layers are quantised, after fused attention is taken apart
(teachers/split_attention.py). Convolutions, embedding tables, norms and raw projection matrices
keep their precision: a convolutional tower shrinks little, and `quantized_share` says how little.
"""

import logging
from typing import Any, Literal, TypeGuard

from open_clip.modified_resnet import AttentionPool2d
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from teachers.split_attention import split_attention

Quantization = Literal["int8", "nf4"]

# Above this an activation column is multiplied in 16 bits. Trained CLIPs have such columns, and
# one of them costs a plain int8 layer several times its rounding error.
_OUTLIER_THRESHOLD = 6.0
# bitsandbytes' fast CPU path takes whole blocks of a row only.
_NF4_BLOCK = 64
# Said at import and at every single layer; neither asks anything of the user.
_NOISE = {
    "bitsandbytes.backends.cpu.ops": "kernels-community",
    "bitsandbytes.autograd._functions": "inputs will be cast",
}


def quantize(module: nn.Module, precision: Quantization) -> nn.Module:
    """Quantise every Linear of `module` in place, on the device where it is.

    The module computes as before (float32 in, float32 out) and can no longer be trained. Move
    it to its device first: quantised layers are made for one.
    """
    split_attention(module)
    made: dict[int, nn.Module] = {}
    for owner in list(module.modules()):
        if _reads_weights_directly(owner):
            continue
        if getattr(owner, "qkv_bias_separate", None) is False:
            # timm's EVA attention reads qkv.weight to add its bias in one go, unless told so.
            setattr(owner, "qkv_bias_separate", True)  # noqa: B010 (nn.Module's types)
        for name, child in list(owner.named_children()):
            if _is_quantizable(child, precision):
                if id(child) not in made:
                    made[id(child)] = _quantized(child, precision)
                setattr(owner, name, made[id(child)])
    return module


def quantized_share(module: nn.Module) -> float:
    """Return the share of the transformer blocks' weight bytes that is quantised, from 0 to 1.

    Counted in bytes of the unquantised model, over every matrix in a transformer block (biases
    and norms aside); a module without transformer blocks has a share of 0.
    """
    layers = import_bitsandbytes().nn
    made_here = (layers.Linear8bitLt, layers.Linear4bit)
    quantized, total, seen = 0, 0, set()
    for block in (m for m in module.modules() if any(map(_is_attention, m.children()))):
        for part in block.modules():
            if id(part) in seen:  # blocks may lie inside one another
                continue
            seen.add(id(part))
            if isinstance(
                part, nn.Linear
            ):  # a quantised weight has another shape than it stands for
                weights = part.in_features * part.out_features
                quantized += weights if isinstance(part, made_here) else 0
            else:
                own = part.parameters(recurse=False)
                weights = sum(p.numel() for p in own if p.ndim >= 2)
            total += weights
    return quantized / total if total else 0.0


def _is_attention(module: nn.Module) -> bool:
    # By name, because each library has a class of its own; attention pooling is not a block.
    return type(module).__name__.endswith(("Attention", "AttentionRope"))


def _reads_weights_directly(module: nn.Module) -> bool:
    """Whether the parent computes with `child.weight`, past the child's own forward."""
    return isinstance(module, AttentionPool2d | nn.MultiheadAttention)


def _is_quantizable(module: nn.Module, precision: Quantization) -> TypeGuard[nn.Linear]:
    if not isinstance(module, nn.Linear) or is_parametrized(module):
        return False
    if not module.weight.is_floating_point():  # quantised already
        return False
    return precision == "int8" or module.in_features % 2 == 0


def _quantized(linear: nn.Linear, precision: Quantization) -> nn.Module:
    layers, size = import_bitsandbytes().nn, (linear.in_features, linear.out_features)
    device, dtype = linear.weight.device, linear.weight.dtype
    # bitsandbytes quantises when a parameter leaves the CPU, or is told to go where it is.
    weight, bias = linear.weight.detach().cpu(), linear.bias is not None
    if precision == "int8":
        layer = layers.Linear8bitLt(
            *size, bias, has_fp16_weights=False, threshold=_OUTLIER_THRESHOLD, device="meta"
        )
        packed = layers.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
    else:
        layer = layers.Linear4bit(*size, bias, quant_type="nf4", device="meta")
        packed = layers.Params4bit(weight, quant_type="nf4", module=layer)
        if linear.in_features % _NF4_BLOCK:
            layer.support_avx512bf16_for_cpu = False
    layer.weight = packed.to(device)
    layer.bias = linear.bias
    # open_clip's text towers take the type of their activations from the first weight they find;
    # under this name they look first.
    layer.int8_original_dtype = dtype
    return layer.requires_grad_(False).train(linear.training)


def import_bitsandbytes() -> Any:
    """Import bitsandbytes when it is needed: it takes seconds, and says too much."""
    for logger, text in _NOISE.items():
        log = logging.getLogger(logger)
        if not log.filters:
            log.addFilter(lambda record, text=text: text not in record.getMessage())
    import bitsandbytes

    return bitsandbytes
