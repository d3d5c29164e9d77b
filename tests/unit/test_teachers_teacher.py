"""A teacher stays frozen, says what it is, and an ensemble keeps several apart."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from open_clip.model import CLIP
from PIL import Image
from torch import nn

from teachers import ClipModel, Ensemble, Preprocess, Teacher, WordTokenizer, load_teacher
from teachers.loading import check_tokenizer
from teachers.teacher import check_precision

WORDS = WordTokenizer(["a", "cat", "dog", "on", "the", "mat"], 8)
PREPROCESS = Preprocess(image_size=16)


def clip(seed: int = 0, **options) -> nn.Module:
    torch.manual_seed(seed)
    return CLIP(
        embed_dim=24,
        vision_cfg={"image_size": 16, "patch_size": 8, "width": 64, "head_width": 32, "layers": 2},
        text_cfg={
            "context_length": 8,
            "vocab_size": WORDS.vocab_size,
            "width": 64,
            "heads": 2,
            "layers": 2,
        },
        **options,
    )


def teacher(seed: int = 0, **options) -> Teacher:
    settings = {"name": "t", "preprocess": PREPROCESS, "tokenizer": WORDS} | options
    return Teacher(clip(seed), **settings)


def pictures(count: int = 3) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [
        Image.fromarray(rng.integers(0, 256, (20 + i, 30, 3), dtype=np.uint8)) for i in range(count)
    ]


def test_train_and_requires_grad_change_nothing():
    model = teacher()
    holder = nn.ModuleList([model, nn.Linear(2, 2)]).train()
    assert holder[1].training
    assert not any(part.training for part in model.modules())
    model.requires_grad_(True)
    assert not any(p.requires_grad for p in model.parameters())


def test_no_gradient_flows_and_none_is_kept():
    model = teacher().train()
    pixels = torch.randn(2, 3, 16, 16, requires_grad=True)
    out = model(pixels, WORDS(["a cat", "the dog"]))
    assert not out.image.requires_grad
    assert not out.text.requires_grad
    assert all(p.grad is None for p in model.parameters())
    # Not inference tensors either: a student's loss saves them for its backward pass.
    weight = torch.ones(24, requires_grad=True)
    (out.image * weight).sum().backward()
    assert weight.grad is not None


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8", "nf4"])
def test_every_precision_gives_unit_rows_in_float32(precision):
    exact, model = teacher(), teacher(precision=precision)
    image, text = model.encode_image(pictures()), model.encode_text(["a cat", "dog on the mat"])
    for rows, reference in (
        (image, exact.encode_image(pictures())),
        (text, exact.encode_text(["a cat", "dog on the mat"])),
    ):
        assert rows.dtype == torch.float32
        assert torch.allclose(rows.norm(dim=-1), torch.ones(len(rows)), atol=1e-6)
        assert (rows * reference).sum(-1).min() > 0.95
    out = model(model.to_pixels(pictures(2)), WORDS(["a", "the"]))
    assert out.logit_scale.dtype == torch.float32
    assert out.logit_scale.item() == pytest.approx(1 / 0.07, rel=1e-6)


def test_bf16_keeps_the_scalars_and_the_bias_exact():
    module = clip(init_logit_bias=-9.8765)
    module.logit_scale.data.fill_(4.7613)  # a trained SigLIP's; bfloat16 would make it 4.75
    settings = {"name": "t", "preprocess": PREPROCESS, "tokenizer": WORDS}
    model = Teacher(module, precision="bf16", **settings)
    assert model.module.visual.conv1.weight.dtype == torch.bfloat16
    assert model.kind == "sigmoid"
    out = model(torch.randn(1, 3, 16, 16), WORDS(["a"]))
    assert out.logit_bias.item() == pytest.approx(-9.8765, rel=1e-6)
    assert out.logit_scale.log().item() == pytest.approx(4.7613, rel=1e-6)


def test_fingerprint_is_of_weights_precision_pixels_and_tokens():
    base = teacher().fingerprint
    assert len(base) == 64
    assert teacher().fingerprint == base
    assert teacher(name="other", licence="MIT").fingerprint == base

    changed = clip()
    with torch.no_grad():
        changed.visual.conv1.weight.view(-1)[5] += 1e-6
    settings = {"name": "t", "preprocess": PREPROCESS, "tokenizer": WORDS}
    others = [
        Teacher(changed, **settings),
        teacher(precision="bf16"),
        teacher(precision="int8"),
        teacher(preprocess=replace(PREPROCESS, mean=(0.5, 0.4578275, 0.40821073))),
        teacher(preprocess=replace(PREPROCESS, interpolation="bilinear")),
        teacher(tokenizer=WordTokenizer([*WORDS.words[:-1], "hat"], 8)),
    ]
    prints = {base, *(other.fingerprint for other in others)}
    assert len(prints) == len(others) + 1


def test_fingerprint_does_not_move_with_use():
    model = teacher(precision="int8")
    before = model.fingerprint
    model.encode_image(pictures())
    assert model.fingerprint == before == teacher(precision="int8").fingerprint


def test_a_ready_module_is_copied_and_stays_trainable():
    student = ClipModel(clip(), name="student", preprocess=PREPROCESS, tokenizer=WORDS).train()
    before = copy.deepcopy(student.module.state_dict())
    model = load_teacher(student, precision="bf16")
    assert (model.name, model.preprocess, model.tokenizer) == ("student", PREPROCESS, WORDS)
    assert all(p.requires_grad for p in student.parameters())
    assert student.training
    assert all(torch.equal(v, before[k]) for k, v in student.module.state_dict().items())


def test_ready_modules_of_other_types_are_read_as_float32():
    model = load_teacher(clip().half(), preprocess=PREPROCESS, tokenizer=WORDS, name="half")
    assert model.module.visual.conv1.weight.dtype == torch.float32
    assert model.encode_image(pictures()).isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "pass preprocess=... and tokenizer=..."),
        ({"preprocess": PREPROCESS}, r"pass tokenizer=\.\.\. "),
    ],
)
def test_what_a_ready_module_lacks_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        load_teacher(clip(), **options)


def test_arguments_of_the_wrong_kind_are_named():
    with pytest.raises(ValueError, match="no precision 'int4'; did you mean 'int8'"):
        check_precision("int4")
    with pytest.raises(ValueError, match=r"\(function\) has no config"):
        check_tokenizer(lambda texts: texts)


def test_a_module_that_is_no_dual_encoder_is_refused():
    with pytest.raises(ValueError, match=r"Linear has no method encode_image\(\)"):
        load_teacher(nn.Linear(2, 2), preprocess=PREPROCESS, tokenizer=WORDS)
    module = clip()
    module.logit_scale.data.fill_(100.0)
    with pytest.raises(ValueError, match="Store log"):
        load_teacher(module, preprocess=PREPROCESS, tokenizer=WORDS)


def test_a_quantised_teacher_is_not_converted_twice():
    with pytest.raises(ValueError, match="in int8 already"):
        load_teacher(teacher(precision="int8"), precision="bf16")


def test_ensemble_flattens_and_keeps_order():
    a, b, c = (teacher(seed, name=name) for seed, name in enumerate("abc"))
    ensemble = Ensemble(Ensemble(a, b), c)
    assert ensemble.teachers == (a, b, c)
    assert list(ensemble) == [a, b, c]
    assert (len(ensemble), ensemble[1]) == (3, b)
    assert repr(ensemble) == "Ensemble(a, b, c)"


def test_ensemble_refuses_what_it_cannot_tell_apart():
    with pytest.raises(ValueError, match="both named 't'"):
        Ensemble(teacher(0), teacher(1))
    with pytest.raises(ValueError, match="at least one"):
        Ensemble()
    with pytest.raises(ValueError, match="takes teachers, got str"):
        Ensemble("ViT-B-16/openai")
