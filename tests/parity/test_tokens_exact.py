"""Fewer tokens, exactly: against the tower run by hand on the subset, and against the whole one."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from students import OpenClipSpec, StudentSpec, TextSpec, build_student
from students.tokens.choosing import sample_seeds
from students.tokens.merging import merge_tokens, merged_block, per_block
from students.tokens.policy import TokenPolicy
from students.tokens.reduction import TokenReduction
from students.tokens.texts import longest
from teachers import WordTokenizer
from teachers.vision_transformers import find_vit

WORDS = WordTokenizer([f"w{chr(97 + i)}" for i in range(20)], context_length=12)
TEXT = TextSpec(width=32, layers=2, heads=2, context_length=12)
SIDE = 64


def student(kind: str, seed: int = 0):
    """open_clip's tower, timm's with a class token, and timm's that takes the mean."""
    torch.manual_seed(seed)
    if kind == "open_clip":
        vision = {"image_size": SIDE, "patch_size": 16, "width": 48, "layers": 3, "head_width": 16}
        text = {"width": 32, "heads": 2, "layers": 2}
        spec = OpenClipSpec(model="ViT-B-32", vision=vision, text=text, embed_dim=16)
        return build_student(spec, tokenizer=WORDS).eval()
    if kind == "open_clip_custom":
        vision = {"image_size": SIDE, "patch_size": 16, "width": 48, "layers": 3, "head_width": 16}
        vision |= {"qk_norm": True, "scale_heads": True, "scale_attn": True}
        spec = OpenClipSpec(
            model="ViT-B-32",
            vision=vision,
            text={"width": 32, "heads": 2, "layers": 2},
            embed_dim=16,
        )
        return build_student(spec, tokenizer=WORDS).eval()
    # Of timm's the first two resample positions by themselves, the last one does not.
    name = {"timm": "test_vit", "timm_mean": "test_vit4", "smallvit": "smallvit-32"}[kind]
    spec = StudentSpec(image=name, text=TEXT, embed_dim=16, image_size=SIDE)
    built = build_student(spec, tokenizer=WORDS).eval()
    return built


KINDS = ("open_clip", "open_clip_custom", "timm", "timm_mean", "smallvit")
POLICIES = {
    "random": TokenPolicy(image="random", image_keep=0.5),
    "grid": TokenPolicy(image="grid", image_keep=0.25),
    "block": TokenPolicy(image="block", image_keep=0.5),
    "attentive": TokenPolicy(image="attentive", image_keep=0.5),
}
SEEDS = sample_seeds(0, 1, ["a", "b", "c"])


def pixels(side: int = SIDE) -> torch.Tensor:
    return torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(1))


def by_hand(tower, kept: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """The tower's parts one after the other, sample by sample, on the patches that stay."""
    rows = []
    for picture, chosen in zip(images, kept, strict=True):
        if hasattr(tower, "conv1"):
            patches = tower.conv1(picture[None]).flatten(2).transpose(1, 2)
            patches = patches + tower.positional_embedding[1:]
            first = (tower.class_embedding + tower.positional_embedding[0])[None, None]
            tokens = tower.ln_pre(torch.cat([first, patches[:, chosen]], dim=1))
            for block in tower.transformer.resblocks:
                tokens = block(tokens)
            pooled = tower.ln_post(tokens)[:, 0] @ tower.proj
        else:
            tokens = tower._pos_embed(tower.patch_embed(picture[None]))
            prefix = tower.num_prefix_tokens
            tokens = torch.cat([tokens[:, :prefix], tokens[:, prefix:][:, chosen]], dim=1)
            tokens = tower.norm(tower.blocks(tower.norm_pre(tokens)))
            pooled = tower.forward_head(tokens)
        rows.append(pooled)
    return torch.cat(rows)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", POLICIES)
def test_a_dropped_tower_is_the_tower_on_the_subset(kind, name):
    model, images = student(kind), pixels()
    policy, scores = POLICIES[name], torch.rand(3, 7, 7)
    reduction = TokenReduction(model, [policy])
    kept = reduction.choose(policy, SEEDS, scores)
    with torch.no_grad(), reduction.active(policy), reduction.rows(kept):
        found = model.module.encode_image(images)
    with torch.no_grad():
        expected = by_hand(find_vit(model.module).tower, kept, images)
        whole = model.module.encode_image(images)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert (found - whole).abs().max() > 1e-3
    assert reduction.image_tokens(policy) == kept.shape[1] + find_vit(model.module).prefix


@pytest.mark.parametrize("kind", KINDS)
def test_all_tokens_are_no_policy_bit_for_bit(kind):
    """Attached hooks that do nothing, every patch chosen, merging nothing, and after detaching."""
    model, images = student(kind), pixels()
    with torch.no_grad():
        whole = model.encode_image(images)
        policies = [*POLICIES.values(), TokenPolicy(image="merge", image_keep=0.5)]
        reduction = TokenReduction(model, policies)
        assert torch.equal(model.encode_image(images), whole)
        for policy in (TokenPolicy(), TokenPolicy(image="random"), TokenPolicy(image="merge")):
            assert reduction.choose(policy, SEEDS) is None
            with reduction.active(policy), reduction.rows(None):
                assert torch.equal(model.encode_image(images), whole)
        every = torch.arange(find_vit(model.module).patches).expand(3, -1)
        with reduction.rows(every):
            assert torch.equal(model.encode_image(images), whole)
        reduction.detach()
        assert torch.equal(model.encode_image(images), whole)
        assert not any("forward" in vars(block) for block in find_vit(model.module).blocks)


@pytest.mark.parametrize("kind", KINDS)
def test_merging_no_token_is_the_block(kind):
    vit = find_vit(student(kind).module)
    norm = getattr(vit.blocks[0], "norm1", None) or vit.blocks[0].ln_1
    rows = torch.randn(2, 9, norm.weight.shape[0])
    with torch.no_grad():
        found, sizes = merged_block(vit.blocks[0], rows, torch.ones(2, 9), 0, vit.prefix)
        torch.testing.assert_close(found, vit.blocks[0](rows), rtol=1e-5, atol=1e-5)
    assert torch.equal(sizes, torch.ones(2, 9))


@pytest.mark.parametrize("kind", KINDS)
def test_merging_identical_tokens_changes_nothing(kind):
    """A grey picture without positions: all patches are one; proportional attention counts them."""
    model = student(kind)
    vit = find_vit(model.module)
    with torch.no_grad():
        for name in ("positional_embedding", "pos_embed"):
            if name in vit.tower._parameters:
                vit.tower._parameters[name].zero_()
        images = torch.full((3, 3, SIDE, SIDE), 0.3)
        whole = model.encode_image(images)
        policy = TokenPolicy(image="merge", image_keep=0.25)
        reduction = TokenReduction(model, [policy])
        with reduction.active(policy), reduction.rows(None):
            found = model.encode_image(images)
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-5)


def test_merging_is_the_mean_of_all_patches_in_a_token():
    """Two rounds, in float64: sums of rows times sizes and of sizes never change."""
    torch.manual_seed(0)
    rows, sizes = torch.randn(4, 18, 5, dtype=torch.float64), torch.ones(4, 18, dtype=torch.float64)
    start = rows.clone()
    for merged in (5, 4):
        rows, sizes = merge_tokens(rows, sizes, rows, merged, prefix=2)
    assert rows.shape == (4, 9, 5)
    assert torch.equal(rows[:, :2], start[:, :2])
    torch.testing.assert_close((rows * sizes[..., None]).sum(1), start.sum(1))
    assert torch.equal(sizes.sum(1), torch.full((4,), 18.0, dtype=torch.float64))


def test_the_most_alike_are_merged():
    """Pairs planted: patch 2i+1 is a copy of patch 2i for three of eight pairs."""
    torch.manual_seed(0)
    rows = torch.randn(1, 17, 32)
    for pair in (1, 4, 6):
        rows[0, 2 + 2 * pair] = rows[0, 1 + 2 * pair]
    out, sizes = merge_tokens(rows, torch.ones(1, 17), rows, 3, prefix=1)
    merged = out[0, sizes[0] == 2]
    expected = rows[0, [3, 9, 13]]
    torch.testing.assert_close(merged, expected)


def test_a_plan_of_merging_adds_up():
    for patches, blocks, keep in ((196, 12, 0.5), (49, 12, 0.1), (16, 3, 0.25), (4, 6, 0.5)):
        plan = per_block(patches, blocks, keep)
        left = patches
        for merged in plan:
            assert 0 <= merged <= left // 2
            left -= merged
        assert left == max(1, round(patches * keep))


@pytest.mark.parametrize("kind", ["open_clip", "timm_mean", "smallvit"])
@pytest.mark.parametrize("image", ["random", "merge", "resize"])
def test_gradients_are_finite_and_reach_every_parameter(kind, image):
    model = student(kind).train()
    policy = TokenPolicy(image=image, image_keep=0.5)
    reduction = TokenReduction(model, [policy])
    with reduction.active(policy), reduction.rows(reduction.choose(policy, SEEDS)):
        rows = model.encode_image(reduction.sized(pixels(), policy))
        (rows * torch.arange(16.0)).sum().backward()
    for name in model.tower_names["image"]:
        gradient = model.module.get_parameter(name).grad
        assert gradient is not None and gradient.isfinite().all(), name


@pytest.mark.parametrize("kind", ["open_clip", "timm", "timm_mean"])
def test_activation_checkpointing_merges_alike_in_both_passes(kind):
    gradients = []
    for checkpointing in (False, True):
        model = student(kind).train()
        model.set_grad_checkpointing(checkpointing)
        policy = TokenPolicy(image="merge", image_keep=0.5)
        reduction = TokenReduction(model, [policy])
        with reduction.active(policy), reduction.rows(None):
            (model.encode_image(pixels()) * torch.arange(16.0)).sum().backward()
        names = sorted(model.tower_names["image"])
        gradients.append([model.module.get_parameter(name).grad for name in names])
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, again)


@pytest.mark.parametrize("kind", ["open_clip", "timm", "smallvit"])
def test_a_smaller_picture_has_positions_that_fit(kind):
    """A tower of that size, with timm's own resampling of the positions, says the same."""
    model, policy = student(kind), TokenPolicy(image="resize", image_keep=0.25)
    reduction = TokenReduction(model, [policy])
    assert reduction.side(policy) == 32
    small = reduction.sized(pixels(), policy)
    with torch.no_grad(), reduction.active(policy), reduction.rows(None):
        found = model.module.encode_image(small)
    vit = find_vit(model.module)
    if kind != "open_clip":
        vit.tower.set_input_size((32, 32))
    else:
        from open_clip.model import resize_pos_embed

        state = {"visual.positional_embedding": vit.tower.positional_embedding.data}
        vit.tower.grid_size = (2, 2)
        resize_pos_embed(state, model.module)
        vit.tower.positional_embedding.data = state["visual.positional_embedding"]
    with torch.no_grad():
        torch.testing.assert_close(found, model.module.encode_image(small), rtol=1e-5, atol=1e-5)


def test_short_batches_of_texts_are_exact():
    """A causal tower pooled at the end token never looks at what comes after it."""
    for kind in ("open_clip", "timm"):
        model = student(kind)
        tokens = WORDS(["wa wb wc", "wd", "we wf wg wh"])
        policy = TokenPolicy(text_padding="longest")
        TokenReduction(model, [policy])
        length = longest([tokens])
        assert length == 6
        with torch.no_grad():
            whole, short = model.encode_text(tokens), model.encode_text(tokens[:, :length])
        torch.testing.assert_close(short, whole, rtol=0, atol=1e-6)


def flops(model, images, reduction, policy) -> int:
    kept = reduction.choose(policy, SEEDS)
    counter = FlopCounterMode(display=False)
    with counter, reduction.active(policy), reduction.rows(kept):
        model.encode_image(reduction.sized(images, policy)).sum().backward()
    return counter.get_total_flops()


def test_half_the_tokens_are_at_most_sixty_percent_of_the_work():
    """Counted and not timed: 196 patches and 12 blocks, as a ViT has, only narrower."""
    vision = {"image_size": 224, "patch_size": 16, "width": 96, "layers": 12, "head_width": 32}
    text = {"width": 32, "heads": 2, "layers": 1}
    model = build_student(
        OpenClipSpec(model="ViT-B-32", vision=vision, text=text, embed_dim=16), tokenizer=WORDS
    ).train()
    images, half = pixels(224), TokenPolicy(image="random", image_keep=0.5)
    whole = TokenPolicy()
    policies = [half, replace(half, image="merge", image_keep=0.25), replace(half, image="resize")]
    reduction = TokenReduction(model, policies)
    every = flops(model, images, reduction, whole)
    shares = [flops(model, images, reduction, policy) / every for policy in policies]
    assert shares[0] < 0.55 and shares[2] < 0.6 and shares[1] < 0.75, shares
    assert reduction.image_tokens(whole) == 197 and reduction.image_tokens(half) == 99
    assert reduction.image_tokens(policies[1]) == 122.375
    assert reduction.image_tokens(policies[2]) == 101


class Wrapped(nn.Module):
    """A module of the user's without parts of a known kind."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.logit_scale = inner, inner.logit_scale

    def encode_image(self, images):
        return self.inner.encode_image(images)

    def encode_text(self, tokens):
        return self.inner.encode_text(tokens)


def convolutional(**changes):
    spec = StudentSpec(image="smallconv-4", text=TEXT, embed_dim=16, image_size=32)
    return build_student(replace(spec, **changes), tokenizer=WORDS)


REFUSED = {
    "no tokens": (convolutional, {"image": "random", "image_keep": 0.5}, "resize"),
    "merge": (convolutional, {"image": "merge", "image_keep": 0.5}, "SmallConv"),
    "own module": (
        lambda: build_student(Wrapped(student("timm").module), image_size=SIDE, tokenizer=WORDS),
        {"text": "truncate", "text_length": 5},
        "Wrapped",
    ),
    "sees padding": (
        lambda: convolutional(text=replace(TEXT, architecture="mct")),
        {"text_padding": "longest"},
        "padding",
    ),
    "too long": (convolutional, {"text": "random", "text_length": 12}, "changes nothing"),
    "no change": (lambda: student("timm"), {"image": "random", "image_keep": 0.99}, "leaves all"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_tower_cannot_do_is_refused_and_says_what_it_can(case):
    make, fields, said = REFUSED[case]
    with pytest.raises(ValueError, match=said):
        TokenReduction(make(), [TokenPolicy(**fields)])


def test_convolutions_take_smaller_pictures():
    model, policy = convolutional().eval(), TokenPolicy(image="resize", image_keep=0.5)
    reduction = TokenReduction(model, [policy])
    assert reduction.side(policy) == 24 and reduction.image_tokens(policy) is None
    with torch.no_grad(), reduction.active(policy), reduction.rows(None):
        small = reduction.sized(pixels(32), policy)
        assert small.shape[-1] == 24 and model.encode_image(small).shape == (3, 16)


@pytest.mark.parametrize(
    "fields",
    [
        {"image_keep": 0.5},
        {"image": "random", "image_keep": 0.0},
        {"text": "random"},
        {"text_length": 8},
        {"text": "random", "text_length": 2},
        {"until": 0.0},
    ],
)
def test_a_policy_that_says_half_is_refused(fields):
    with pytest.raises(ValueError, match="tokens"):
        TokenPolicy(**fields)
