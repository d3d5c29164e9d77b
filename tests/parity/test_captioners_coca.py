"""CoCa one token at a time against open_clip's own whole-prefix forward, and its `generate`."""

import pytest
import torch
import transformers
from open_clip import CoCa, coca_model

from teachers.captioners.coca_decoding import CocaDecoder
from teachers.split_attention import split_attention

VOCAB, START, END = 60, 58, 59


def tiny_coca(**text) -> CoCa:
    torch.manual_seed(0)
    module = CoCa(
        embed_dim=16,
        multimodal_cfg={
            **{"context_length": 12, "vocab_size": VOCAB, "width": 16, "heads": 2, "layers": 2},
            "attn_pooler_heads": 2,
        },
        text_cfg={
            **{"context_length": 12, "vocab_size": VOCAB, "width": 16, "heads": 2, "layers": 2},
            **{"embed_cls": True, "output_tokens": True},
            **text,
        },
        vision_cfg={
            **{"image_size": 16, "patch_size": 8, "width": 32, "head_width": 16, "layers": 1},
            **{"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
        },
    )
    for weights in module.parameters():  # what open_clip leaves at zero or uninitialised
        torch.nn.init.normal_(weights, std=0.3)
    return module.double().eval()


@pytest.mark.parametrize("text", [{}, {"ls_init_value": 0.5}], ids=["plain", "layer scale"])
@pytest.mark.parametrize("split", [False, True])
@torch.no_grad()
def test_every_logit_is_that_of_the_whole_prefix(text, split):
    module = tiny_coca(**text)
    pixels = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    tokens = torch.randint(1, VOCAB, (6, 11))
    rows = pixels.repeat_interleave(2, 0)
    expected = module(rows, tokens, output_labels=False)["logits"]
    if split:
        split_attention(module)
    decoder = CocaDecoder(module)
    writing = decoder.begin(pixels, each=2)
    for step in range(tokens.shape[1]):
        logits = decoder.step(writing, tokens[:, step])
        torch.testing.assert_close(logits, expected[:, step], rtol=1e-11, atol=1e-11)


@torch.no_grad()
def test_the_likeliest_text_is_what_open_clip_generates(monkeypatch):
    """open_clip 3.3's `generate` looks for names that transformers 5 moved; given them, it runs."""
    for name in ("LogitsProcessorList", "MinLengthLogitsProcessor", "StoppingCriteriaList"):
        monkeypatch.setattr(coca_model, name, getattr(transformers, name), raising=False)
    for name in ("RepetitionPenaltyLogitsProcessor", "MaxLengthCriteria", "TopKLogitsWarper"):
        monkeypatch.setattr(coca_model, name, getattr(transformers, name), raising=False)
    kinds = {"top_k": transformers.TopKLogitsWarper}
    monkeypatch.setattr(coca_model, "GENERATION_TYPES", kinds)
    monkeypatch.setattr(coca_model, "_has_transformers", True)
    module = tiny_coca()
    pixels = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    options = {"generation_type": "top_k", "top_k": 1, "seq_len": 10, "min_seq_len": 5}
    theirs = module.generate(pixels, sot_token_id=START, eos_token_id=END, **options)
    decoder = CocaDecoder(module)
    writing, rows = decoder.begin(pixels, each=1), torch.full((4, 1), START)
    for _ in range(theirs.shape[1] - 1):
        logits = decoder.step(writing, rows[:, -1])
        if rows.shape[1] < 5:
            logits[:, END] = float("-inf")
        rows = torch.cat([rows, logits.argmax(1, keepdim=True)], 1)
    for ours, row in zip(rows.tolist(), theirs.tolist(), strict=True):
        ended = next(i for i, token in enumerate(row) if i and token in (0, END))
        assert ours[:ended] == row[:ended] and ended > 4
