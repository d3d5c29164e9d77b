"""Students known by name, with what they weigh.

open_clip's own MobileCLIP and small ViT configurations, and mixtures of a timm tower with a
smaller text tower: in the smallest MobileCLIPs five sixths of the weights are text. Any other
open_clip configuration builds by its name too; it only has no entry here.
"""

from dataclasses import dataclass

from students.spec import StudentSpec, TextSpec


@dataclass(frozen=True, kw_only=True)
class CatalogStudent:
    """How to build a student, and its size.

    Attributes:
        build: an open_clip configuration's name, or a specification.
        image_params: learned numbers of the image encoder, in its training form.
        text_params: learned numbers of the text encoder.
    """

    build: str | StudentSpec
    image_params: int
    text_params: int


def _open_clip(name: str, image_params: int, text_params: int) -> CatalogStudent:
    return CatalogStudent(build=name, image_params=image_params, text_params=text_params)


_TEXT_SMALL = TextSpec(width=384, layers=6, heads=6)

CATALOG: dict[str, CatalogStudent] = {
    "MobileCLIP-S1": _open_clip("MobileCLIP-S1", 21_541_632, 63_428_096),
    "MobileCLIP-S2": _open_clip("MobileCLIP-S2", 35_815_232, 63_428_096),
    "MobileCLIP-B": _open_clip("MobileCLIP-B", 86_349_056, 63_428_096),
    "MobileCLIP2-S0": _open_clip("MobileCLIP2-S0", 11_406_976, 63_428_096),
    "MobileCLIP2-S2": _open_clip("MobileCLIP2-S2", 35_815_232, 63_428_096),
    "MobileCLIP2-B": _open_clip("MobileCLIP2-B", 86_349_056, 63_428_096),
    "MobileCLIP2-S3": _open_clip("MobileCLIP2-S3", 125_235_648, 123_650_304),
    "MobileCLIP2-L-14": _open_clip("MobileCLIP2-L-14", 303_966_976, 123_650_304),
    "MobileCLIP2-S4": _open_clip("MobileCLIP2-S4", 321_784_832, 123_650_304),
    "ViT-S-32": _open_clip("ViT-S-32", 22_641_792, 40_444_032),
    "ViT-S-16": _open_clip("ViT-S-16", 21_813_504, 40_444_032),
    "ViT-M-32": _open_clip("ViT-M-32", 39_691_776, 63_428_096),
    "ViT-M-16": _open_clip("ViT-M-16", 38_587_392, 63_428_096),
    "mci0-text6": CatalogStudent(
        build=StudentSpec(image="fastvit_mci0", text=_TEXT_SMALL, embed_dim=512, image_size=256),
        image_params=11_406_976,
        text_params=29_846_400,
    ),
    "mobilenetv4-small-text6": CatalogStudent(
        build=StudentSpec(
            image="mobilenetv4_conv_small", text=_TEXT_SMALL, embed_dim=512, image_size=224
        ),
        image_params=3_148_896,
        text_params=29_846_400,
    ),
}
