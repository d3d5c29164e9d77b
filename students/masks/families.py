"""Which numbers of which tower may shrink: a rule for each family that masks know.

open_clip's ViT, text and ResNet towers; timm's VisionTransformer (SigLIP's pooled one too), FastViT
and ResNet, by themselves or inside of open_clip; BERT and RoBERTa inside of open_clip; the small
convolutional towers. A tower without a rule stays as it is, with the reason.
"""

from collections.abc import Callable, Sequence
from typing import Any

import open_clip
import timm
from open_clip.hf_model import HFTextEncoder
from open_clip.timm_model import TimmModel

from students.inheritance.annotation import Annotation, TowerAxes, annotate
from students.masks.convolutional_rules import fastvit, modified_resnet, timm_resnet
from students.masks.sizes import MULTIPLE, Size, width
from students.masks.transformer_rules import bert, transformer
from students.small_towers import PREFIX, VIT_PREFIX
from students.student import Student, TowerName

# By name: transformers is an optional library.
BERTS = ("BertModel", "RobertaModel", "XLMRobertaModel")
# A rule is given the place, its axes, the smallest share, and the tower; a text says why not.
Rule = Callable[[TowerName, TowerAxes, float, Any], list[Size] | str]


def sizes_of(
    student: Student,
    annotation: Annotation | None = None,
    *,
    towers: Sequence[str] = ("image", "text"),
    smallest: float = 0.125,
) -> tuple[Size, ...]:
    """List what may shrink of a student.

    Args:
        student: with a configuration (by name or specification), not a module of one's own.
        annotation: of the student, where it is known.
        towers: which of its towers may.
        smallest: no size goes below this share of itself.

    Raises:
        ValueError: when nothing may shrink: which towers were looked at, and why not.
    """
    unknown = set(towers) - {"image", "text"}
    if unknown or not towers:
        raise ValueError(f"towers must be image, text or both, got {sorted(towers)}")
    if not 0 < smallest <= 1:
        raise ValueError(f"smallest is a share between 0 and 1, got {smallest}")
    annotation = annotation or annotate(student)
    found: list[Size] = []
    why: list[str] = []
    for tower in towers:
        made = _tower_sizes(student, annotation, tower, smallest)
        if isinstance(made, str):
            why.append(f"{tower}: {made}")
        else:
            found += made
    if not found:
        raise ValueError(
            f"{student.name} has no size that could shrink ({'; '.join(why)}). docs/masks.md lists "
            "the towers that masks know"
        )
    return tuple(found)


def unmasked_towers(student: Student, annotation: Annotation) -> dict[TowerName, str]:
    """The towers that masks would leave whole, and why."""
    asked: dict[TowerName, list[Size] | str] = {
        tower: _tower_sizes(student, annotation, tower, 1.0) for tower in annotation.towers
    }
    return {tower: made for tower, made in asked.items() if isinstance(made, str)}


def trunk(student: Student, tower: str) -> Any:
    """A tower itself, out of what open_clip wraps it in."""
    part: Any = student.module.visual if tower == "image" else student.module.text
    if isinstance(part, TimmModel):
        return part.trunk
    return part.transformer if isinstance(part, HFTextEncoder) else part


def _tower_sizes(
    student: Student, annotation: Annotation, tower: str, smallest: float
) -> list[Size] | str:
    place: TowerName = "image" if tower == "image" else "text"
    axes, source = annotation.towers[place], student.source
    if source["type"] not in ("spec", "open_clip"):
        return f"made from a {source['type']}, not from a configuration that takes smaller sizes"
    part = trunk(student, place)
    if place == "image" and source["type"] == "spec":
        image = source["spec"]["image"]
        if image.startswith(PREFIX):
            total = int(image.removeprefix(PREFIX))
            return [width(place, axes, total, smallest, "width", MULTIPLE // 4)]
        if image.startswith(VIT_PREFIX):  # its width says everything, of its MLPs too
            return [width(place, axes, part.blocks[0].attn.num_heads, smallest, "heads", 1)]
    if type(part).__name__ in BERTS:
        return bert(place, axes, smallest, part)
    rule = _RULES.get(type(part))
    return rule(place, axes, smallest, part) if rule else f"masks do not know {type(part).__name__}"


_RULES: dict[type, Rule] = {
    open_clip.transformer.VisionTransformer: transformer,
    open_clip.transformer.TextTransformer: transformer,
    open_clip.modified_resnet.ModifiedResNet: modified_resnet,
    timm.models.VisionTransformer: transformer,
    timm.models.FastVit: fastvit,
    timm.models.ResNet: timm_resnet,
}
