"""Attention taken apart computes the same; 8-bit and 4-bit teachers stay close to float32.

Random towers map different inputs to nearly the same row, so a constant would pass a cosine.
The weights are therefore spread out, and errors are also measured after removing the mean row,
relative to how far different inputs lie apart.
"""

import copy

import open_clip
import pytest
import torch
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.transformer import Attention as OpenClipAttention
from open_clip.transformer import AttentionalPooler
from torch import nn

from teachers import Preprocess, Teacher, WordTokenizer
from teachers.quantization import quantize, quantized_share
from teachers.split_attention import SplitAttention, can_split, split_attention

WORDS = WordTokenizer([f"w{i}" for i in range(61)], 16)
TEXT = {"context_length": 16, "vocab_size": WORDS.vocab_size, "width": 256, "heads": 4, "layers": 3}
VIT = {"image_size": 32, "patch_size": 8, "width": 256, "head_width": 64, "layers": 3}
TIMM = {
    "timm_model_name": "vit_tiny_patch16_224",
    "timm_model_pretrained": False,
    "timm_pool": "map",
    "timm_proj": "none",
}


def clip() -> nn.Module:
    return CLIP(embed_dim=64, vision_cfg=VIT, text_cfg=TEXT)


def siglip() -> nn.Module:
    text = TEXT | {"no_causal_mask": True, "proj_bias": True, "pool_type": "last"}
    module = CustomTextCLIP(embed_dim=192, vision_cfg=TIMM, text_cfg=text, init_logit_bias=-10.0)
    module.visual.set_input_size(32)
    return module


def custom_blocks() -> nn.Module:
    options = {"block_type": "custom", "qk_norm": True, "scale_attn_inner": True}
    return CLIP(embed_dim=64, vision_cfg=VIT | options, text_cfg=TEXT | options)


def eva() -> nn.Module:
    timm = {"timm_model_name": "eva02_tiny_patch14_224", "timm_proj": "linear"}
    module = CustomTextCLIP(
        embed_dim=64, vision_cfg=TIMM | timm | {"timm_pool": "avg"}, text_cfg=TEXT
    )
    module.visual.set_input_size(28)
    return module


def resnet() -> nn.Module:
    vision = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 16, "head_width": 32}
    return CLIP(embed_dim=64, vision_cfg=vision, text_cfg=TEXT)


BUILDERS = {f.__name__: f for f in (clip, siglip, custom_blocks, eva, resnet)}


def spread(build) -> nn.Module:
    """Build with weights that send different inputs to different places."""
    torch.manual_seed(0)
    module = build().eval()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith("token_embedding.weight"):
                parameter.mul_(10)
            elif parameter.ndim >= 2 and "blocks" in name:
                parameter.mul_(1.25)
            elif parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return module


def inputs(module: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    trunk = getattr(module.visual, "trunk", None)
    size = trunk.patch_embed.img_size[0] if trunk else 32
    colours = torch.randn(24, 3, 1, 1, generator=generator)
    pixels = colours + torch.randn(24, 3, size, size, generator=generator)
    tokens = torch.randint(3, WORDS.vocab_size - 1, (24, 16), generator=generator)
    tokens[:, -1] = WORDS.vocab_size - 1
    return pixels, tokens


def centred_error(rows: torch.Tensor, reference: torch.Tensor) -> float:
    """The error after removing each side's mean row, relative to the reference's spread."""
    moved = (rows - rows.mean(0)) - (reference - reference.mean(0))
    return (moved.norm() / (reference - reference.mean(0)).norm()).item()


@pytest.mark.parametrize("name", BUILDERS)
def test_splitting_changes_nothing(name):
    module = spread(BUILDERS[name])
    pixels, tokens = inputs(module)
    with torch.no_grad():
        before = module.encode_image(pixels), module.encode_text(tokens)
        fused = sum(map(can_split, module.modules()))
        assert split_attention(module) == fused > 0
        assert not any(map(can_split, module.modules()))
        after = module.encode_image(pixels), module.encode_text(tokens)
    for a, b in zip(after, before, strict=True):
        assert (a - b).abs().max() <= 1e-6 * b.abs().max() + 1e-6


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("mask", ["none", "causal", "bool", "per_head"])
@pytest.mark.parametrize("bias", [True, False])
def test_multihead_attention_masks_and_layouts(batch_first, mask, bias):
    torch.manual_seed(0)
    fused = nn.MultiheadAttention(24, 3, bias=bias, batch_first=batch_first).eval()
    x = torch.randn(2, 5, 24)
    x = x if batch_first else x.transpose(0, 1)
    masks = {
        "none": None,
        "causal": torch.full((5, 5), float("-inf")).triu(1),
        "bool": torch.ones(5, 5, dtype=torch.bool).triu(1),
        "per_head": torch.randn(6, 5, 5),
    }
    with torch.no_grad():
        expected, _ = fused(x, x, x, attn_mask=masks[mask], need_weights=False)
        got, weights = SplitAttention(fused)(x, x, x, attn_mask=masks[mask], need_weights=False)
    assert weights is None
    assert (got - expected).abs().max() < 1e-6


def test_cross_attention_with_other_widths_and_padding():
    torch.manual_seed(0)
    fused = nn.MultiheadAttention(24, 3, kdim=10, vdim=14, batch_first=True).eval()
    q, k, v = torch.randn(2, 4, 24), torch.randn(2, 6, 10), torch.randn(2, 6, 14)
    padding = torch.tensor([[False] * 6, [False] * 4 + [True] * 2])
    with torch.no_grad():
        expected, _ = fused(q, k, v, key_padding_mask=padding, need_weights=False)
        got, _ = SplitAttention(fused)(q, k, v, key_padding_mask=padding)
    assert (got - expected).abs().max() < 1e-6


def test_poolers_and_torch_encoder_layers_take_the_split_attention():
    torch.manual_seed(0)
    pooler = AttentionalPooler(32, 24, n_head=4, n_queries=3).eval()
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True).eval()
    for module, x in ((pooler, torch.randn(2, 7, 24)), (layer, torch.randn(2, 7, 32))):
        with torch.no_grad():
            expected = module(x)
            assert split_attention(module) == 1
            assert (module(x) - expected).abs().max() < 1e-6


def test_what_cannot_be_split_exactly_is_left_alone():
    assert not can_split(nn.MultiheadAttention(8, 2, add_bias_kv=True))
    assert not can_split(nn.MultiheadAttention(8, 2, add_zero_attn=True))
    assert not can_split(OpenClipAttention(8, 2, scaled_cosine=True))
    with pytest.raises(ValueError, match="need_weights=False"):
        SplitAttention(nn.MultiheadAttention(8, 2))(torch.randn(1, 2, 8), need_weights=True)


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize(("precision", "worst_centred"), [("int8", 0.05), ("nf4", 0.4)])
def test_quantised_embeddings_stay_close(name, precision, worst_centred):
    module = spread(BUILDERS[name])
    pixels, tokens = inputs(module)
    size = pixels.shape[-1]
    parts = {"preprocess": Preprocess(image_size=size), "tokenizer": WORDS}
    exact = Teacher(copy.deepcopy(module), name="exact", **parts)
    small = Teacher(module, name="small", precision=precision, **parts)
    assert quantized_share(exact.module) == 0
    assert quantized_share(small.module) >= 0.95
    pairs = (
        (small.encode_image(pixels), exact.encode_image(pixels)),
        (small.encode_text(tokens), exact.encode_text(tokens)),
    )
    # The residual tower has nothing to quantise and starts from zeroed norms: text only.
    for rows, reference in pairs[name == "resnet" :]:
        constant = nn.functional.normalize(reference.mean(0), dim=-1)
        print(name, precision, (rows * reference).sum(-1).min(), centred_error(rows, reference))
        assert (rows * reference).sum(-1).min() >= (0.999 if precision == "int8" else 0.9)
        assert centred_error(rows, reference) < worst_centred
        assert (reference @ constant).min() < 0.95  # the inputs do lie apart
        assert rows.dtype == torch.float32
    assert small.logit_scale.dtype == torch.float32
    assert torch.equal(small.logit_scale, exact.logit_scale)


@pytest.mark.parametrize("name", BUILDERS)
def test_bf16_embeddings_stay_close(name):
    """Also through LayerNormFp32 and BatchNorm, whose parameters stay in float32."""
    module = spread(BUILDERS[name])
    pixels, tokens = inputs(module)
    parts = {"preprocess": Preprocess(image_size=pixels.shape[-1]), "tokenizer": WORDS}
    exact = Teacher(copy.deepcopy(module), name="exact", **parts)
    small = Teacher(module, name="small", precision="bf16", **parts)
    for rows, reference in (
        (small.encode_image(pixels), exact.encode_image(pixels)),
        (small.encode_text(tokens), exact.encode_text(tokens)),
    ):
        assert (rows * reference).sum(-1).min() >= 0.999
        assert not torch.equal(rows, reference)


def test_outlier_channels_do_not_break_int8():
    """Trained CLIPs have a few huge activations; plain row-wise int8 loses the rest to them."""
    module = spread(clip)
    with torch.no_grad():
        for block in module.visual.transformer.resblocks:
            block.ln_1.bias[7] += 80
    pixels, _ = inputs(module)
    with torch.no_grad():
        expected = nn.functional.normalize(module.encode_image(pixels), dim=-1)
        got = nn.functional.normalize(quantize(module, "int8").encode_image(pixels), dim=-1)
    assert (got * expected).sum(-1).min() >= 0.999
    assert centred_error(got, expected) < 0.06  # 0.29 without the 16-bit columns


def test_share_counts_fused_weights_as_unquantised():
    """Quantising only what is a Linear from the start leaves a third of each block out."""
    module = spread(clip)
    naive = copy.deepcopy(module)
    for block in naive.visual.transformer.resblocks:
        quantize(block.mlp, "int8")
    for block in naive.transformer.resblocks:
        quantize(block.mlp, "int8")
    assert quantized_share(naive) == pytest.approx(2 / 3, abs=0.01)
    assert quantized_share(quantize(module, "int8")) == 1


def test_convolutional_towers_keep_their_convolutions():
    module = open_clip.create_model("MobileCLIP2-S0").eval()
    before = sum(p.numel() for p in module.parameters() if p.ndim == 4)
    quantize(module.visual, "int8")
    assert sum(p.numel() for p in module.parameters() if p.ndim == 4) == before
    assert module.visual(torch.randn(1, 3, 64, 64)).isfinite().all()


def test_bitsandbytes_stays_quiet(caplog):
    module = spread(clip)
    pixels, _ = inputs(module)
    with caplog.at_level("INFO"):
        quantize(module, "int8").encode_image(pixels)
    assert not [r for r in caplog.records if r.name.startswith("bitsandbytes")]
