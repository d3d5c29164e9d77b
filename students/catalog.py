"""Students known by name, with what they weigh.

open_clip's own MobileCLIP and small ViT configurations; MobileCLIP-S0, whose text tower open_clip
lacks; TinyCLIP's students as changed open_clip configurations; and timm towers made for phones
with smaller text towers: in the smallest MobileCLIPs five sixths of the weights are text. Any
other open_clip configuration builds by its name too; it only has no entry here.

Where papers count otherwise: TinyCLIP's names leave the embedding tables out (49,408 words of 512
are 25 M), and its "auto" students have ragged layers; here they are the even shape with as many
transformer weights. MobileCLIP2-S0's README gives its text tower 42.4 M, which is MobileCLIP-S0's;
it is 63.4 M.
"""

from dataclasses import dataclass

from students.spec import OpenClipSpec, StudentSpec, TextSpec


@dataclass(frozen=True, kw_only=True)
class CatalogStudent:
    """How to build a student, and its size.

    Attributes:
        build: an open_clip configuration's name, that with changes, or a specification.
        image_params: learned numbers of the image encoder, in its training form.
        text_params: learned numbers of the text encoder.
        remark: where its name or its paper counts otherwise.
    """

    build: str | OpenClipSpec | StudentSpec
    image_params: int
    text_params: int
    remark: str = ""


def _open_clip(name: str, image_params: int, text_params: int, remark: str = "") -> CatalogStudent:
    return CatalogStudent(
        build=name, image_params=image_params, text_params=text_params, remark=remark
    )


def _tinyclip(
    model: str, vision: dict, text: dict, image_params: int, text_params: int, remark: str = ""
) -> CatalogStudent:
    build = OpenClipSpec(model=model, vision=vision, text=text)
    return CatalogStudent(
        build=build,
        image_params=image_params,
        text_params=text_params,
        remark=remark or "the name leaves embedding tables out",
    )


def _timm(
    image: str, text: TextSpec, image_size: int, image_params: int, text_params: int, **pixels
) -> CatalogStudent:
    build = StudentSpec(image=image, text=text, embed_dim=512, image_size=image_size, **pixels)
    return CatalogStudent(build=build, image_params=image_params, text_params=text_params)


_TEXT_SMALL = TextSpec(width=384, layers=6, heads=6)
_TEXT_TINY = TextSpec(width=256, layers=6, heads=4)
_TEXT_MCT = TextSpec(width=512, layers=4, heads=8, architecture="mct")
_EVEN = "the name leaves embedding tables out; the paper's layers are ragged"
# Apple's first models take pixels as they are, between 0 and 1.
_AS_THEY_ARE = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "interpolation": "bilinear"}

CATALOG: dict[str, CatalogStudent] = {
    "MobileCLIP-S1": _open_clip("MobileCLIP-S1", 21_541_632, 63_428_096),
    "MobileCLIP-S2": _open_clip("MobileCLIP-S2", 35_815_232, 63_428_096),
    "MobileCLIP-B": _open_clip("MobileCLIP-B", 86_349_056, 63_428_096),
    "MobileCLIP2-S0": _open_clip(
        "MobileCLIP2-S0", 11_406_976, 63_428_096, "its README says 42.4 M of text: the MCt's"
    ),
    "MobileCLIP2-S2": _open_clip("MobileCLIP2-S2", 35_815_232, 63_428_096),
    "MobileCLIP2-B": _open_clip("MobileCLIP2-B", 86_349_056, 63_428_096),
    "MobileCLIP2-S3": _open_clip("MobileCLIP2-S3", 125_235_648, 123_650_304),
    "MobileCLIP2-L-14": _open_clip("MobileCLIP2-L-14", 303_966_976, 123_650_304),
    "MobileCLIP2-S4": _open_clip("MobileCLIP2-S4", 321_784_832, 123_650_304),
    "ViT-S-32": _open_clip("ViT-S-32", 22_641_792, 40_444_032),
    "ViT-S-16": _open_clip("ViT-S-16", 21_813_504, 40_444_032),
    "ViT-M-32": _open_clip("ViT-M-32", 39_691_776, 63_428_096),
    "ViT-M-16": _open_clip("ViT-M-16", 38_587_392, 63_428_096),
    "MobileCLIP-S0": _timm("fastvit_mci0", _TEXT_MCT, 256, 11_406_976, 42_444_288, **_AS_THEY_ARE),
    "TinyCLIP-ViT-61M-32-Text-29M": _tinyclip(
        "ViT-B-32", {"width": 640}, {"layers": 9}, 61_411_200, 53_970_944
    ),
    "TinyCLIP-ViT-40M-32-Text-19M": _tinyclip(
        "ViT-B-32", {"width": 512}, {"layers": 6}, 39_691_776, 44_513_792
    ),
    "TinyCLIP-ViT-39M-16-Text-19M": _tinyclip(
        "ViT-B-16", {"width": 512}, {"layers": 6}, 38_587_392, 44_513_792
    ),
    "TinyCLIP-ViT-8M-16-Text-3M": _tinyclip(
        "ViT-B-16",
        {"width": 256, "layers": 10},
        {"width": 256, "heads": 4, "layers": 3},
        8_276_992,
        15_169_024,
    ),
    "TinyCLIP-ResNet-30M-Text-29M": _tinyclip(
        "RN50", {"width": 56}, {"layers": 9}, 29_583_780, 54_233_088
    ),
    "TinyCLIP-ResNet-19M-Text-19M": _tinyclip(
        "RN50", {"width": 44}, {"layers": 6}, 18_596_766, 44_775_936
    ),
    "TinyCLIP-auto-ViT-63M-32-Text-31M": _tinyclip(
        "ViT-B-32",
        {"width": 640, "mlp_ratio": 4.4},
        {"mlp_ratio": 3.0},
        65_346_432,
        57_130_496,
        _EVEN,
    ),
    "TinyCLIP-auto-ViT-45M-32-Text-18M": _tinyclip(
        "ViT-B-32",
        {"width": 576, "mlp_ratio": 3.625},
        {"width": 384, "heads": 6, "mlp_ratio": 3.0},
        46_973_088,
        36_949_632,
        _EVEN,
    ),
    "TinyCLIP-auto-ViT-22M-32-Text-10M": _tinyclip(
        "ViT-B-32",
        {"width": 384, "mlp_ratio": 4.25},
        {"width": 256, "heads": 4, "mlp_ratio": 4.5},
        23_576_832,
        23_064_832,
        _EVEN,
    ),
    "mci0-text6": _timm("fastvit_mci0", _TEXT_SMALL, 256, 11_406_976, 29_846_400),
    "mobilenetv4-small-text6": _timm(
        "mobilenetv4_conv_small", _TEXT_SMALL, 224, 3_148_896, 29_846_400
    ),
    "mobilenetv4-medium-text6": _timm(
        "mobilenetv4_conv_medium", _TEXT_SMALL, 256, 9_090_384, 29_846_400
    ),
    "mobilenetv4-hybrid-medium-text6": _timm(
        "mobilenetv4_hybrid_medium", _TEXT_SMALL, 256, 10_449_520, 29_846_400
    ),
    "tinyvit-5m-text6": _timm("tiny_vit_5m_224", _TEXT_TINY, 224, 5_236_116, 17_538_304),
    "tinyvit-11m-text6": _timm("tiny_vit_11m_224", _TEXT_SMALL, 224, 10_777_860, 29_846_400),
    "tinyvit-21m-text6": _timm("tiny_vit_21m_224", _TEXT_SMALL, 224, 20_916_992, 29_846_400),
    "repvit-m0.9-text6": _timm("repvit_m0_9", _TEXT_TINY, 224, 5_113_568, 17_538_304),
    "repvit-m1.1-text6": _timm("repvit_m1_1", _TEXT_SMALL, 224, 8_302_224, 29_846_400),
    "repvit-m1.5-text6": _timm("repvit_m1_5", _TEXT_SMALL, 224, 14_143_744, 29_846_400),
    "ViTamin-S": _open_clip("ViTamin-S", 22_025_152, 40_444_032),
    "vitamin-small-text6": _timm("vitamin_small_224", _TEXT_SMALL, 224, 22_074_816, 29_846_400),
}
