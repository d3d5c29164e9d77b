"""For tests: a small student of every family that masks know, and masks drawn at random."""

from collections.abc import Callable
from typing import Any

import torch

from students.building import build_student
from students.inheritance.annotation import annotate
from students.inheritance.testing import WORDS
from students.masks.families import sizes_of
from students.masks.masking import mask
from students.masks.masks import Masks
from students.spec import OpenClipSpec, StudentSpec, TextSpec
from students.student import Student

TEXT = TextSpec(width=64, layers=3, heads=4, context_length=8)
SMALL = {"width": 64, "layers": 3, "patch_size": 8, "image_size": 32, "head_width": 16}
VIT = {"embed_dim": 64, "num_heads": 4, "depth": 3, "patch_size": 8}
MCI = {"embed_dims": (32, 64, 128, 256), "layers": (1, 1, 1, 2)}


def open_clip_vit() -> Student:
    """Both towers in open_clip's own words."""
    text = {"width": 64, "heads": 4, "layers": 3, "context_length": 8}
    spec = OpenClipSpec(model="ViT-B-32", vision=SMALL, text=text, embed_dim=16)
    return build_student(spec, tokenizer=WORDS)


def timm_tower(image: str, size: int = 32, **options: Any) -> Student:
    """One of timm's image towers in a `StudentSpec`."""
    spec = StudentSpec(image=image, text=TEXT, embed_dim=16, image_size=size, image_options=options)
    return build_student(spec, tokenizer=WORDS)


SHORT = {"width": 64, "heads": 4, "layers": 3, "context_length": 8}
# Its stem has 768 channels whatever one asks for.
MCI_B = {"depth": 3, "mlp_ratio": 1.0, "img_size": 32}
# What open_clip's own configuration has no words for.
SIGLIP = {**VIT, "img_size": 32}
RN = {"width": 16, "layers": (3, 2, 2, 2), "image_size": 64, "head_width": 64}
RESNET = {"channels": (32, 32, 64, 128), "layers": (2, 3, 2, 2)}


def open_clip_model(model: str, size: int, embed_dim: int = 16, **changes: Any) -> Student:
    """An open_clip model with other sizes."""
    spec = OpenClipSpec(model=model, embed_dim=embed_dim, text=SHORT, **changes)
    return build_student(spec, tokenizer=WORDS, image_size=size)


def with_text_of(family: str, pooler: str, projection: str) -> Student:
    """An open_clip ViT beside a text tower of transformers."""
    import transformers

    config = getattr(transformers, f"{family}Config")(
        vocab_size=WORDS.vocab_size,
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=16,
        pad_token_id=0,
    )
    text = {"hf_pooler_type": pooler, "hf_proj_type": projection}
    spec = OpenClipSpec(
        model="roberta-ViT-B-32",
        vision=SMALL,
        text=text,
        text_options=config.to_dict(),
        embed_dim=16,
    )
    return build_student(spec, tokenizer=WORDS)


FAMILIES: dict[str, Callable[[], Student]] = {
    "open_clip ViT": open_clip_vit,
    "open_clip FastViT": lambda: open_clip_model("MobileCLIP-S1", 64, image_options=MCI),
    "open_clip SigLIP": lambda: open_clip_model("ViT-B-16-SigLIP", 32, 64, image_options=SIGLIP),
    "open_clip ResNet": lambda: open_clip_model("RN50", 64, vision=RN),
    "RoBERTa": lambda: with_text_of("Roberta", "mean_pooler", "mlp"),
    "BERT": lambda: with_text_of("Bert", "cls_pooler", "linear"),
    "XLM-RoBERTa": lambda: with_text_of("XLMRoberta", "mean_pooler", "mlp"),
    "timm ResNet": lambda: timm_tower("resnet50", 64, **RESNET),
    "MobileCLIP-B": lambda: open_clip_model("MobileCLIP-B", 32, image_options=MCI_B),
    "timm ViT": lambda: timm_tower("vit_base_patch16_224", **VIT, init_values=1.0),
    "SigLIP ViT": lambda: timm_tower("vit_base_patch16_siglip_224", **VIT),
    "FastViT": lambda: timm_tower("fastvit_mci0", 64, **MCI),
    "SmallViT": lambda: timm_tower("smallvit-64"),
    "SmallConv": lambda: timm_tower("smallconv-16"),
}


def masked(student: Student, seed: int = 3) -> Masks:
    """Put masks in a student, their numbers drawn at random; float64, evaluation mode."""
    annotation = annotate(student)
    masks = Masks(sizes_of(student, annotation), annotation).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        masks.alpha.copy_(1.5 * torch.randn(masks.alpha.shape, generator=generator))
    mask(student, masks, annotation)
    student.eval()
    return masks


def smaller(masks: Masks) -> dict[str, int]:
    """Every size at about six tenths."""
    return {
        name: max(size.least, int(0.6 * size.total / size.step) * size.step)
        for name, size in masks.sizes.items()
    }
