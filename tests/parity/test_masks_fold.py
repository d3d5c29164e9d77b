"""A masked student computes what the smaller student that it folds to computes.

Every family that masks know, small and in float64, every number and every gate drawn at random.
Differences are relative to how far apart different inputs are.
"""

import copy
from collections.abc import Callable

import pytest
import torch

from students import OpenClipSpec, StudentSpec, TextSpec, build_student, load_student
from students.inheritance import annotate
from students.inheritance.measuring import contrastive
from students.inheritance.testing import WORDS, difference, inputs_for, randomise
from students.masks import Masks, fold, mask, sizes_of, unmask
from students.masks.moments import carry_moments
from students.student import Student

TEXT = TextSpec(width=64, layers=3, heads=4, context_length=8)
SMALL = {"width": 64, "layers": 3, "patch_size": 8, "image_size": 32, "head_width": 16}
VIT = {"embed_dim": 64, "num_heads": 4, "depth": 3, "patch_size": 8}
MCI = {"embed_dims": (32, 64, 128, 256), "layers": (1, 1, 1, 2)}


def open_clip_vit() -> Student:
    text = {"width": 64, "heads": 4, "layers": 3, "context_length": 8}
    spec = OpenClipSpec(model="ViT-B-32", vision=SMALL, text=text, embed_dim=16)
    return build_student(spec, tokenizer=WORDS)


def timm_tower(image: str, size: int = 32, **options) -> Student:
    spec = StudentSpec(image=image, text=TEXT, embed_dim=16, image_size=size, image_options=options)
    return build_student(spec, tokenizer=WORDS)


SHORT = {"width": 64, "heads": 4, "layers": 3, "context_length": 8}
# What open_clip's own configuration has no words for.
FASTVIT = {"image_options": MCI}
SIGLIP = {"image_options": {**VIT, "img_size": 32}}
RN = {"width": 16, "layers": (3, 2, 2, 2), "image_size": 64, "head_width": 64}
RESNET = {"channels": (32, 32, 64, 128), "layers": (2, 3, 2, 2)}


def open_clip_model(model: str, size: int, embed_dim: int = 16, **changes) -> Student:
    spec = OpenClipSpec(model=model, embed_dim=embed_dim, text=SHORT, **changes)
    return build_student(spec, tokenizer=WORDS, image_size=size)


def with_text_of(family: str, pooler: str, projection: str) -> Student:
    """An open_clip ViT beside a text tower of transformers."""
    transformers = pytest.importorskip("transformers")
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
    "open_clip FastViT": lambda: open_clip_model("MobileCLIP-S1", 64, **FASTVIT),
    "open_clip SigLIP": lambda: open_clip_model("ViT-B-16-SigLIP", 32, 64, **SIGLIP),
    "open_clip ResNet": lambda: open_clip_model("RN50", 64, vision=RN),
    "RoBERTa": lambda: with_text_of("Roberta", "mean_pooler", "mlp"),
    "BERT": lambda: with_text_of("Bert", "cls_pooler", "linear"),
    "timm ResNet": lambda: timm_tower("resnet50", 64, **RESNET),
    "timm ViT": lambda: timm_tower("vit_base_patch16_224", **VIT, init_values=1.0),
    "SigLIP ViT": lambda: timm_tower("vit_base_patch16_siglip_224", **VIT),
    "FastViT": lambda: timm_tower("fastvit_mci0", 64, **MCI),
    "SmallConv": lambda: timm_tower("smallconv-16"),
}


def masked(student: Student, seed: int = 3) -> Masks:
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


def count(module: torch.nn.Module) -> int:
    return sum(each.numel() for each in module.parameters())


@pytest.mark.parametrize("family", list(FAMILIES))
def test_a_masked_student_is_its_folded_one(family: str, tmp_path) -> None:
    student = randomise(FAMILIES[family](), 1)
    whole = copy.deepcopy(student)
    assert sum(each.total for each in sizes_of(student)) > 0
    masks = masked(student)
    sizes = smaller(masks)
    masks.choose(sizes)
    assert sum(value < masks.sizes[name].total for name, value in sizes.items()) >= 3, sizes
    before = [
        encode(given).detach()
        for encode, given in zip(
            (student.encode_image, student.encode_text), inputs_for(whole), strict=True
        )
    ]
    assert difference(whole, student) > 0.1
    folded = fold(student, masks, sizes).student
    assert count(folded.module.visual) < 0.8 * count(whole.module.visual)
    assert count(folded.module.text) < 0.8 * count(whole.module.text)
    pixels, tokens = inputs_for(whole)
    for rows, other in zip(
        before, (folded.encode_image(pixels), folded.encode_text(tokens)), strict=True
    ):
        spread = (rows - rows.mean(0)).abs().mean()
        assert ((rows - other).abs().max() / spread).item() < 1e-5
    folded.float().save(tmp_path)
    again = load_student(tmp_path).module.state_dict()
    weights = folded.module.state_dict()
    assert weights.keys() == again.keys()
    assert all(torch.equal(value, again[key]) for key, value in weights.items())


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "FastViT"])
def test_open_masks_change_nothing_and_leave_nothing_behind(family: str) -> None:
    student = randomise(FAMILIES[family](), 1)
    whole = copy.deepcopy(student)
    masks = masked(student)
    with torch.no_grad():
        masks.alpha.fill_(3.0)
    masks.choose({name: size.total for name, size in masks.sizes.items()})
    assert difference(whole, student) < 1e-9
    unmask(student)
    assert type(student.module) is type(whole.module)
    assert student.module.state_dict().keys() == whole.module.state_dict().keys()
    assert difference(whole, student) == 0


def steps(student: Student, optimizer: torch.optim.Optimizer, seeds: range) -> None:
    """The contrastive loss on noise, a step for each seed; in training mode."""
    student.train()
    for seed in seeds:
        contrastive(student.module, inputs_for(student, seed)).backward()
        optimizer.step()
        optimizer.zero_grad()
    student.eval()


def adamw(student: Student) -> tuple[torch.optim.Optimizer, dict[str, torch.nn.Parameter]]:
    named = dict(student.module.named_parameters())
    return torch.optim.AdamW(list(named.values()), lr=1e-3), named


def test_with_adams_moments_the_next_step_is_the_one_the_masked_student_would_take() -> None:
    def trained() -> tuple:
        student = randomise(open_clip_vit(), 1)
        masks = masked(student)
        sizes = masks.rounded()
        masks.choose(sizes)
        with torch.no_grad():  # no gate in between: what is drawn is what is kept
            for place in masks.spans:
                kept = masks.gates(place, training=False)[1]
                masks.alpha[masks.spans[place]] = torch.where(kept, 60.0, -60.0).double()
        optimizer, _ = adamw(student)
        masks.draw(0)
        steps(student, optimizer, range(3))
        return student, masks, sizes, optimizer

    student, _, _, optimizer = trained()
    large, masks, sizes, large_optimizer = trained()
    folded = fold(large, masks, sizes)
    named = dict(large.module.named_parameters())
    small_optimizer, small = adamw(folded.student)
    carry_moments(folded.plan, (large_optimizer, named), (small_optimizer, small))
    assert difference(student, folded.student) < 1e-9
    before = copy.deepcopy(folded.student)
    steps(student, optimizer, range(3, 5))
    steps(folded.student, small_optimizer, range(3, 5))
    assert difference(before, folded.student) > 0.01
    assert difference(student, folded.student) < 1e-5
