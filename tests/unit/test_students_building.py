"""build_student: names, specifications and the user's own modules, and what it says when wrong."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from students import OpenClipSpec, StudentSpec, TextSpec, build_student
from students.building import open_clip_module, open_clip_preprocess
from teachers.tokenizers import WordTokenizer

TOKENIZER = WordTokenizer.fit(["a cat", "two dogs"], context_length=8)
TEXT = TextSpec(width=32, layers=1, heads=2, context_length=8)
OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)


def spec(image: str = "smallconv-4", **changes: object) -> StudentSpec:
    sizes = {"embed_dim": 16, "image_size": 32, "text": TEXT, **changes}
    return StudentSpec(image=image, **sizes)


class Own(nn.Module):
    """A minimal dual encoder of the user's own."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Conv2d(3, 16, 32)
        self.words = nn.EmbeddingBag(TOKENIZER.vocab_size, 16)
        self.logit_scale = nn.Parameter(torch.tensor(2.0))

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        return self.image(images).flatten(1)

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.words(tokens)


def build_own(module: nn.Module, **changes: object):
    return build_student(module, **{"image_size": 32, "tokenizer": TOKENIZER, **changes})


@pytest.mark.parametrize("image", ["smallconv-4", "test_vit", "mobilenetv4_conv_small_035"])
def test_a_specification_gives_unit_rows_of_its_width(image: str) -> None:
    student = build_student(spec(image), tokenizer=TOKENIZER).eval()
    pair = student(torch.randn(3, 3, 32, 32), TOKENIZER(["a cat", "dogs", "two"]))
    assert pair.image.shape == pair.text.shape == (3, 16)
    torch.testing.assert_close(pair.image.norm(dim=-1), torch.ones(3))
    torch.testing.assert_close(pair.logit_scale.item(), 1 / 0.07)
    assert pair.logit_bias is None


def test_the_sigmoid_head_starts_as_siglips() -> None:
    student = build_student(spec(), tokenizer=TOKENIZER, kind="sigmoid")
    pair = student(torch.randn(2, 3, 32, 32), TOKENIZER(["a cat", "dogs"]))
    assert student.kind == "sigmoid"
    assert pair.logit_bias is not None and pair.logit_bias.item() == -10
    torch.testing.assert_close(pair.logit_scale.item(), 10.0)


def test_text_is_causal_and_pooled_at_its_end() -> None:
    student = build_student(spec(), tokenizer=TOKENIZER).eval()
    tokens = TOKENIZER(["a cat"])
    padded = tokens.clone()
    padded[:, -1] = 2
    assert torch.equal(student.encode_text(tokens), student.encode_text(padded))


def test_pixels_can_be_overridden() -> None:
    student = build_student(spec(), tokenizer=TOKENIZER, image_size=48, mean=(0.0, 0.0, 0.0))
    assert student.preprocess.image_size == 48
    assert student.preprocess.mean == (0.0, 0.0, 0.0)
    assert student.source["spec"]["image_size"] == 48


def test_clips_own_tokenizer_is_the_default() -> None:
    student = build_student(spec(text=TextSpec(width=8, layers=1, heads=1, context_length=20)))
    assert student.tokenizer.context_length == 20
    assert student.encode_text(["a cat"]).shape == (1, 16)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("MobileCLIP2-S5", "did you mean 'MobileCLIP2-S4'"),
        ("qqqqqqqqqq", "no student 'qqqqqqqqqq'"),
        ("MobileCLIP2-S0/openai", r"no weights|has: dfndr2b"),
        ("ViT-S-32/openai", "ViT-S-32: no weights 'openai'. Known: none"),
        (spec("mobilenetv4_conv_smal"), "did you mean 'mobilenetv4_conv_small'"),
        (spec(text=TextSpec(width=8, layers=1, heads=1)), r"context_length=8\)"),
        (
            spec(text=TextSpec(width=8, layers=1, heads=1, context_length=8, vocab_size=3)),
            "vocab_size is only 3",
        ),
    ],
)
def test_a_wrong_name_or_size_says_what_to_write(what: str | StudentSpec, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_student(what, tokenizer=TOKENIZER)


def test_a_tower_that_cannot_take_the_size_says_so_at_once() -> None:
    with pytest.raises(ValueError, match=r"TwoTower.encode_image failed on a \(2, 3, 8, 8\)"):
        build_student(spec("test_vit", image_size=8), tokenizer=TOKENIZER)


@pytest.mark.parametrize(
    ("model", "mean", "interpolation", "size"),
    [
        ("MobileCLIP-S1", (0.0, 0.0, 0.0), "bilinear", 256),
        ("MobileCLIP2-S0", (0.0, 0.0, 0.0), "bilinear", 256),
        ("MobileCLIP2-B", (0.0, 0.0, 0.0), "bilinear", 224),
        ("MobileCLIP2-S3", OPENAI_MEAN, "bilinear", 256),
        ("MobileCLIP2-L-14", OPENAI_MEAN, "bicubic", 224),
        ("ViT-S-32", OPENAI_MEAN, "bicubic", 224),
        ("ViT-B-16-SigLIP", (0.5, 0.5, 0.5), "bicubic", 224),
    ],
)
def test_each_mobileclip_gets_its_own_pixels(
    model: str, mean: tuple[float, float, float], interpolation: str, size: int
) -> None:
    with torch.device("meta"):
        preprocess = open_clip_preprocess(model, open_clip_module(OpenClipSpec(model=model)))
    assert preprocess.mean == mean
    assert preprocess.std == (1.0, 1.0, 1.0) or mean != (0.0, 0.0, 0.0)
    assert preprocess.interpolation == interpolation
    assert preprocess.image_size == size
    assert preprocess.resize_mode == ("squash" if "SigLIP" in model else "shortest")


def test_a_module_of_ones_own() -> None:
    module = Own().train()
    student = build_own(module, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), name="mine")
    assert (student.name, student.kind, student.embed_dim) == ("mine", "softmax", 16)
    assert student.preprocess.mean == (0.5, 0.5, 0.5)
    assert module.training


def lacking(part: str) -> nn.Module:
    module = Own()
    delattr(module, part)
    return module


def returning(method: str, result: Callable[[torch.Tensor], object]) -> nn.Module:
    module = Own()
    setattr(module, method, result)
    return module


@pytest.mark.parametrize(
    ("module", "changes", "message"),
    [
        (nn.Linear(2, 2), {}, r"Linear has no method encode_image\(\)"),
        (lacking("logit_scale"), {}, "logit_scale must be a scalar"),
        (Own(), {"image_size": None}, r"build_student\(own, image_size=..."),
        (Own(), {"tokenizer": None}, "tokenizer=..."),
        (Own(), {"image_size": 16}, r"encode_image failed on a \(2, 3, 16, 16\)"),
        (Own(), {"kind": "sigmoid"}, "needs a scalar parameter Own.logit_bias"),
        (returning("encode_image", lambda x: x), {}, r"got \(2, 3, 32, 32\)"),
        (returning("encode_image", lambda x: [x]), {}, "got list"),
        (returning("encode_text", lambda x: x), {}, "torch.int64 rows"),
        (returning("encode_text", lambda x: torch.zeros(2, 5)), {}, "equally wide rows"),
        (
            returning("encode_text", lambda x: torch.full((2, 16), torch.nan)),
            {},
            "no finite floats",
        ),
    ],
)
def test_a_wrong_module_says_what_is_wrong(
    module: nn.Module, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build_own(module, **changes)


def test_a_student_is_not_wrapped_twice() -> None:
    student = build_own(Own())
    with pytest.raises(ValueError, match=r"pass its .module"):
        build_own(student)
