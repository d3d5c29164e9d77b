"""The parts of inheritance one by one: axes, blocks, grids, vocabularies, plans."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from students import StudentSpec, TextSpec, build_student
from students.inheritance import annotate, inherit, plan_inheritance
from students.inheritance.depth import choose_blocks
from students.inheritance.factors import Factors
from students.inheritance.resampling import (
    cut_positions,
    grid_of,
    recentre,
    resize_patches,
    resize_positions,
)
from students.inheritance.testing import WORDS, difference, inputs_for, student_of, text_tower
from students.inheritance.testing_families import timm_vit
from students.inheritance.vocabulary import shared_tokens
from students.small_towers import SmallConv
from teachers.tokenizers import OpenClipTokenizer, WordTokenizer


def test_factors_split_and_merge_as_views_do() -> None:
    factors = Factors()
    rows = factors.new(24)
    three, heads, width = factors.split(rows, [3, 2, 4])
    assert factors.leaves(rows) == three + heads + width
    other = factors.new(8)
    assert factors.merge(heads + width, other)
    assert factors.leaves(other) == factors.leaves(heads + width)
    # 24 = 3 x 2 x 4 cannot be viewed as 4 x 6: nothing changes.
    assert factors.split(rows, [4, 6]) is None
    assert factors.leaves(rows) == three + heads + width
    assert not factors.merge(factors.new(6), factors.new(8))
    assert factors.new(1) == ()


def test_what_a_text_tower_is_made_of() -> None:
    student = student_of(SmallConv(4, 16))
    towers = annotate(student).towers
    slots, axes = towers["text"].slots, towers["text"].axes
    query = slots["blocks.0.attn.q.weight"]
    assert query.part == (0, 3) and query.shape == (32, 32)
    assert [[axes[name].kind for name in dim] for dim in query.dims] == [
        ["heads", "head_width"],
        ["hidden"],
    ]
    assert [axes[name].size for name in query.dims[0]] == [2, 16]
    assert slots["tokens.weight"].dims == (("vocabulary",), ("hidden",))
    assert slots["position.weight"].dims == (("position",), ("hidden",))
    projection = slots["projection.weight"]
    assert projection.transposed and projection.dims == (("embed",), ("hidden",))
    assert projection.summed == {1}
    # The image tower's head reads (channels, 2, 2).
    head = towers["image"].slots["projection.weight"]
    assert [towers["image"].axes[name].size for name in head.dims[1]] == [16, 2, 2]
    assert annotate(student).unused == ("logit_scale",)


@pytest.mark.parametrize(
    ("rule", "student", "donor", "expected"),
    [
        ("uniform", 9, 12, (0, 1, 3, 4, 6, 7, 8, 10, 11)),
        ("uniform", 6, 9, (0, 2, 3, 5, 6, 8)),
        ("leading", 6, 9, (0, 1, 2, 3, 4, 5)),
        ("uniform", 1, 5, (0,)),
        ("uniform", 4, 2, (0, None, None, 1)),
    ],
)
def test_blocks(rule: str, student: int, donor: int, expected: tuple) -> None:
    assert choose_blocks(rule, ["Block"] * student, ["ResidualAttentionBlock"] * donor) == expected


def test_blocks_keep_to_their_class() -> None:
    donor = ["Down", "Conv", "Conv", "Conv", "Attention"]
    assert choose_blocks("uniform", ["Down", "Conv", "Conv"], donor) == (0, 1, 3)
    assert choose_blocks("uniform", ["Conv", "Mixer"], donor) == (1, None)
    changes = {0: 9.0, 1: 0.3, 2: 0.1, 3: 0.2, 4: 0.0}
    assert choose_blocks("similarity", ["A"] * 3, ["A"] * 5, changes) == (0, 1, 4)


def test_a_larger_patch_answers_as_the_smaller_did() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 3, 4, 4, dtype=torch.float64, generator=generator)
    patches = torch.randn(7, 3, 4, 4, dtype=torch.float64, generator=generator)
    larger = resize_patches(weight, (6, 8))
    shown = F.interpolate(patches, (6, 8), mode="bilinear")
    torch.testing.assert_close(
        torch.einsum("nchw,ochw->no", shown, larger), torch.einsum("nchw,ochw->no", patches, weight)
    )
    torch.testing.assert_close(resize_patches(weight, (4, 4)), weight)
    # Shrinking loses detail, and no smaller kernel is nearer: B^T w' = w by least squares.
    smaller = resize_patches(weight, (2, 2))
    basis = torch.eye(16, dtype=torch.float64).view(16, 1, 4, 4)
    matrix = F.interpolate(basis, (2, 2), mode="bilinear", antialias=True).flatten(1)
    best = torch.linalg.lstsq(matrix, weight.flatten(2).flatten(0, 1).T).solution
    torch.testing.assert_close(smaller.flatten(2).flatten(0, 1).T, best)


def test_a_padded_kernel_computes_the_same() -> None:
    pixels, weight = torch.randn(1, 2, 9, 9), torch.randn(3, 2, 3, 3)
    padded = recentre(weight, (7, 5))
    torch.testing.assert_close(
        F.conv2d(pixels, padded, padding=(3, 2)), F.conv2d(pixels, weight, padding=1)
    )
    assert torch.equal(recentre(padded, (3, 3)), weight)


def test_positions() -> None:
    assert [grid_of(count) for count in (49, 50, 197, 201, 5)] == [
        *((0, 7), (1, 7), (1, 14), (5, 14)),
        (1, 2),
    ]
    assert grid_of(99 * 99 + 20) is None
    table = torch.randn(17, 3)
    assert torch.equal(resize_positions(table, 17), table)
    larger = resize_positions(table, 65)
    assert torch.equal(larger[0], table[0]) and larger.shape == (65, 3)
    # No class token wanted: none taken. One wanted that the donor lacks: only the grid comes.
    assert torch.equal(resize_positions(table, 16), table[1:])
    assert torch.equal(resize_positions(table[1:], 17), table[1:])
    flat = torch.cat([table[:1], torch.full((16, 3), 2.0)])
    torch.testing.assert_close(resize_positions(flat, 50)[1:], torch.full((49, 3), 2.0))
    assert torch.equal(cut_positions(table, 5), table[:5])
    assert torch.equal(cut_positions(table, 19)[17:], table[-1:].expand(2, 3))


def test_tokens_are_paired_by_what_they_say() -> None:
    mine = WordTokenizer(("dog", "cat", "zebra"), 6)
    theirs = WordTokenizer(("a", "cat", "dog"), 9)
    # pad, start, unknown, dog, cat, zebra, end
    assert shared_tokens(mine, theirs, 7) == [0, 1, 2, 5, 4, -1, 6]
    clip = OpenClipTokenizer("ViT-B-32")
    rows = shared_tokens(mine, clip, mine.vocab_size)
    assert rows is not None
    sentence = clip(["dog cat"])[0].tolist()
    assert [rows[1], rows[3], rows[4], rows[6]] == sentence[:4]
    assert rows[0] == rows[2] == -1
    assert shared_tokens(clip, OpenClipTokenizer("ViT-B-32"), 5) == [0, 1, 2, 3, 4]


def test_a_new_word_keeps_the_students_own_start() -> None:
    donor = student_of(SmallConv(4, 16), seed=1)
    words = WordTokenizer(("cat", "zebra", "dog"), 8)
    text = text_tower()
    text.token_embedding = nn.Embedding(words.vocab_size, 32)
    student = student_of(SmallConv(4, 16), text, seed=2, tokenizer=words)
    before = student.module.text.token_embedding.weight.clone()
    report = inherit(student, donor)
    after = student.module.text.token_embedding.weight
    theirs = donor.module.text.token_embedding.weight
    assert torch.equal(after[4], before[4])
    assert torch.equal(after[3], theirs[4]) and torch.equal(after[5], theirs[5])
    assert torch.equal(after[-1], theirs[-1])
    assert report.coverage["text"]["own"] == 32
    with torch.no_grad():
        mine, others = student.encode_text(["cat dog"]), donor.encode_text(["cat dog"])
    torch.testing.assert_close(mine, others)


def test_a_selector_of_ones_own_and_one_per_tower() -> None:
    donor = student_of(SmallConv(8, 16), text_tower(width=64, heads=4), seed=1)
    student = student_of(SmallConv(4, 16), seed=2)

    def last(carriers):
        assert any(each.reads for each in carriers)
        return torch.arange(len(carriers[0].weight)).float()

    plan = plan_inheritance(student, donor, selector={"image": last, "text": "uniform"})
    image, text = plan.towers["image"], plan.towers["text"]
    assert (image.selector, text.selector) == ("last", "uniform")
    first = next(axis for axis in image.axes.values() if axis.donor_size == 8)
    assert first.indices == (4, 5, 6, 7)
    assert text.axes["hidden"].indices == tuple(range(0, 64, 2))


def test_one_tower_only() -> None:
    donor = student_of(SmallConv(8, 16), seed=1)
    student = student_of(SmallConv(4, 16), seed=2)
    before = {key: tensor.clone() for key, tensor in student.module.state_dict().items()}
    report = inherit(student, donor, towers=("text",))
    after = student.module.state_dict()
    assert list(report.towers) == ["text"] and report.scalars == ("logit_scale",)
    same = {key for key in before if torch.equal(before[key], after[key])}
    assert same >= {key for key in before if key.startswith("visual.")}
    assert difference(donor, student) > 0.1
    tokens = WORDS(["a cat", "dog"])
    with torch.no_grad():
        torch.testing.assert_close(student.encode_text(tokens), donor.encode_text(tokens))


def test_the_report_says_what_happened() -> None:
    donor = student_of(SmallConv(8, 16), text_tower(width=64, heads=4, layers=5), seed=1)
    student = student_of(SmallConv(4, 16), text_tower(layers=3), seed=2)
    text = str(plan_inheritance(student, donor))
    assert "hidden 64 -> 32" in text and "magnitude" in text and "blocks 0 2 4" in text


def test_a_scale_is_inherited_within_its_kind_of_loss() -> None:
    text = TextSpec(width=16, layers=1, heads=1, context_length=8)
    spec = StudentSpec(image="smallconv-4", text=text, embed_dim=16, image_size=16)
    kinds = ("softmax", "sigmoid")
    softmax, sigmoid = (build_student(spec, tokenizer=WORDS, kind=kind) for kind in kinds)
    assert inherit(sigmoid, softmax).scalars == ()
    assert sigmoid.logit_scale.exp().item() == pytest.approx(10)
    other = build_student(spec, tokenizer=WORDS, kind="sigmoid")
    with torch.no_grad():
        other.logit_bias.fill_(-7.0)
    assert inherit(sigmoid, other).scalars == ("logit_scale", "logit_bias")
    assert sigmoid.logit_bias.item() == -7


def test_the_table_says_what_is_of_the_donor_and_why_the_rest_is_not() -> None:
    donor = student_of(SmallConv(4, 16), text_tower(width=64, heads=4), seed=1)
    words = WordTokenizer(("a", "cat", "bird"), 8)
    student = student_of(timm_vit(), text_tower(), tokenizer=words)
    batches = [inputs_for(donor)]
    table = str(plan_inheritance(student, donor, batches=batches))
    assert "nothing in common: the donor has no" in table and "blocks -" not in table
    assert "tokens that the donor does not know" in table
    assert "hidden 64 -> 32" in table and "5 x LayerNorm gain" in table
    wider = student_of(SmallConv(8, 16), text_tower(width=64, heads=4))
    table = str(plan_inheritance(wider, donor))
    assert "units repeated" in table and "LayerNorm" not in table
