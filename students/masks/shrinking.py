"""The configuration of a student with smaller sizes: an ordinary one, which loads again.

The sizes are those of `students.masks.sizes`, in the words of open_clip's configurations, of
timm's arguments, of transformers' configurations and of a `TextSpec`.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import timm
from open_clip.hf_model import HFTextEncoder
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel

from students.building import build_student
from students.masks.convolutional_rules import fastvit_units, resnet_planes
from students.masks.families import trunk
from students.small_towers import PREFIX, VIT_PREFIX
from students.spec import OpenClipSpec, StudentSpec, TextSpec
from students.student import Student


def shrunk_student(student: Student, sizes: Mapping[str, int], name: str | None = None) -> Student:
    """Build a student like this one with other sizes; its weights are random.

    Args:
        student: the large one.
        sizes: by `Size.name`; those left out stay.
        name: of the new one.
    """
    given: dict[str, Any] = {
        "tokenizer": student.tokenizer,
        "kind": student.kind,
        "name": name or f"{student.name}-shrunk",
    }
    source = student.source
    image = {k.partition(".")[2]: v for k, v in sizes.items() if k.startswith("image.")}
    text = {k.partition(".")[2]: v for k, v in sizes.items() if k.startswith("text.")}
    if source["type"] == "spec":
        spec = StudentSpec.from_config(source["spec"])
        return build_student(_spec(spec, student, image, text), **given)
    spec = _open_clip(OpenClipSpec.from_source(source), student, image, text)
    pixels = student.preprocess
    small = build_student(
        spec, image_size=source["image_size"], mean=pixels.mean, std=pixels.std, **given
    )
    small.preprocess = pixels
    return small


def _ratio(units: int, width: int) -> float:
    """A ratio from which both libraries compute exactly so many units: int(width * ratio)."""
    ratio = units / width
    while int(width * ratio) < units:
        ratio += 1e-9
    assert int(width * ratio) == units
    return ratio


def _now(student: Student, tower: str) -> tuple[int, int, int, int]:
    """Width, heads, MLP units and blocks of a transformer as it stands."""
    part = trunk(student, tower)
    if isinstance(part, timm.models.VisionTransformer):
        first: Any = part.blocks[0]
        return part.embed_dim, first.attn.num_heads, first.mlp.fc1.out_features, len(part.blocks)
    blocks: Any = part.transformer.resblocks
    first = blocks[0]
    return (
        first.attn.embed_dim,
        first.attn.num_heads,
        first.mlp.c_fc.out_features,
        len(blocks),
    )


def _transformer_values(
    student: Student, tower: str, sizes: Mapping[str, int]
) -> tuple[int, int, float, int]:
    width, heads, units, blocks = _now(student, tower)
    kept = sizes.get("heads", heads)
    width = width // heads * kept
    return width, kept, _ratio(sizes.get("mlp", units), width), sizes.get("layers", blocks)


def _open_clip(
    spec: OpenClipSpec, student: Student, image: Mapping[str, int], text: Mapping[str, int]
) -> OpenClipSpec:
    module: Any = student.module
    if image and isinstance(module.visual, TimmModel):
        options = _timm_options(student, image)
        spec = replace(spec, image_options={**spec.image_options, **options})
    elif image and isinstance(module.visual, ModifiedResNet):
        spec = replace(spec, vision={**spec.vision, **_resnet_values(module.visual, image)})
    elif image:
        width, heads, ratio, layers = _transformer_values(student, "image", image)
        values = {"width": width, "head_width": width // heads}
        values |= {"mlp_ratio": ratio, "layers": layers}
        spec = replace(spec, vision={**spec.vision, **values})
    if text and isinstance(module.text, HFTextEncoder):
        options = _bert_options(module.text.config, text)
        return replace(spec, text_options={**spec.text_options, **options})
    if text:
        width, heads, ratio, layers = _transformer_values(student, "text", text)
        values = {"width": width, "heads": heads, "mlp_ratio": ratio, "layers": layers}
        spec = replace(spec, text={**spec.text, **values})
    return spec


def _bert_options(config: Any, sizes: Mapping[str, int]) -> dict[str, Any]:
    """A whole configuration: what the model's name stands for may be a download."""
    options = config.to_dict()
    options.pop("_name_or_path", None)
    heads = config.num_attention_heads
    kept = sizes.get("heads", heads)
    return options | {
        "hidden_size": config.hidden_size // heads * kept,
        "num_attention_heads": kept,
        "intermediate_size": sizes.get("mlp", config.intermediate_size),
        "num_hidden_layers": sizes.get("layers", config.num_hidden_layers),
    }


def _resnet_values(part: Any, sizes: Mapping[str, int]) -> dict[str, Any]:
    width, heads = 2 * part.conv1.out_channels, part.attnpool.num_heads
    values: dict[str, Any] = {"layers": _stages(part, sizes), "head_width": width * 32 // heads}
    total = math.gcd(part.conv1.out_channels, heads)
    return values | {"width": width // total * sizes.get("width", total)}


def _stages(part: Any, sizes: Mapping[str, int]) -> list[int]:
    """A ResNet's blocks by stage."""
    now = [len(getattr(part, f"layer{stage}")) for stage in range(1, 5)]
    return [sizes.get(f"layers{stage}", count) for stage, count in enumerate(now, 1)]


def _spec(
    spec: StudentSpec, student: Student, image: Mapping[str, int], text: Mapping[str, int]
) -> StudentSpec:
    if text:
        width, heads, ratio, layers = _transformer_values(student, "text", text)
        smaller: TextSpec = replace(
            spec.text, width=width, heads=heads, mlp_ratio=ratio, layers=layers
        )
        spec = replace(spec, text=smaller)
    if not image:
        return spec
    if spec.image.startswith(PREFIX):
        return replace(spec, image=f"{PREFIX}{image['width']}")
    if spec.image.startswith(VIT_PREFIX):
        channels = _transformer_values(student, "image", image)[0]
        return replace(spec, image=f"{VIT_PREFIX}{channels}")
    options = _timm_options(student, image)
    return replace(spec, image_options={**spec.image_options, **options})


def _timm_options(student: Student, sizes: Mapping[str, int]) -> dict[str, Any]:
    part = trunk(student, "image")
    if isinstance(part, timm.models.VisionTransformer):
        width, heads, ratio, layers = _transformer_values(student, "image", sizes)
        options = {"mlp_ratio": ratio, "depth": layers}
        # A hybrid's stem is as wide as it is.
        return options | ({"embed_dim": width, "num_heads": heads} if "heads" in sizes else {})
    if isinstance(part, timm.models.ResNet):
        planes = [(stage, resnet_planes(part, stage)) for stage in range(1, 5)]
        channels = [sizes.get(f"width{stage}", now) for stage, now in planes]
        return {"layers": _stages(part, sizes), "channels": channels}
    return _fastvit_options(part, sizes)


def _fastvit_options(part: Any, sizes: Mapping[str, int]) -> dict[str, Any]:
    stages = list(part.stages)
    heads = next(m.num_heads for m in stages[-1].modules() if hasattr(m, "num_heads"))
    widths = [stage.blocks[0].mlp.fc2.out_channels for stage in stages]
    units = [stage.blocks[0].mlp.fc1.out_channels for stage in stages]
    if "width" in sizes:
        total = fastvit_units(widths[0], heads)
        widths = [width // total * sizes["width"] for width in widths]
    units = [sizes.get(f"mlp{at}", count) for at, count in enumerate(units)]
    ratios = [_ratio(count, width) for count, width in zip(units, widths, strict=True)]
    return {"embed_dims": widths, "mlp_ratios": ratios}
