"""The configuration of a student with smaller sizes: an ordinary one, which loads again.

The sizes are those of `students.masks.sizes`, in the words of open_clip's configurations, of
timm's arguments and of a `TextSpec`.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import timm

from students.building import build_student
from students.masks.sizes import fastvit_units
from students.small_towers import PREFIX
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
    spec = OpenClipSpec(
        model=source["model"],
        vision={**source.get("vision", {}), **_open_clip_vision(student, image)},
        text={**(source["text"] or {}), **_open_clip_text(student, text)},
        embed_dim=source.get("embed_dim"),
    )
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
    part: Any = student.module.visual if tower == "image" else student.module.text
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


def _open_clip_vision(student: Student, sizes: Mapping[str, int]) -> dict[str, Any]:
    if not sizes:
        return {}
    width, heads, ratio, layers = _transformer_values(student, "image", sizes)
    return {"width": width, "head_width": width // heads, "mlp_ratio": ratio, "layers": layers}


def _open_clip_text(student: Student, sizes: Mapping[str, int]) -> dict[str, Any]:
    if not sizes:
        return {}
    width, heads, ratio, layers = _transformer_values(student, "text", sizes)
    return {"width": width, "heads": heads, "mlp_ratio": ratio, "layers": layers}


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
    part: Any = student.module.visual
    if spec.image.startswith(PREFIX):
        return replace(spec, image=f"{PREFIX}{image['width']}")
    if isinstance(part, timm.models.VisionTransformer):
        width, heads, ratio, layers = _transformer_values(student, "image", image)
        options = {"embed_dim": width, "num_heads": heads, "mlp_ratio": ratio, "depth": layers}
    else:
        options = _fastvit_options(part, image)
    return replace(spec, image_options={**spec.image_options, **options})


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
