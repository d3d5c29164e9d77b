"""Every way in: folders in open_clip's format, pretrained names, hub ids, and their errors.

A CLIP-like teacher (byte-pair tokenizer) and a SigLIP-like one (a locally trained SentencePiece
style tokenizer, timm tower, sigmoid head) are saved the way open_clip saves them.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import open_clip
import pytest
import torch
from open_clip.pretrained import _PRETRAINED
from open_clip.push_to_hf_hub import save_config_for_hf, save_for_hf
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from teachers import (
    Ensemble,
    HuggingFaceTokenizer,
    OpenClipTokenizer,
    load_teacher,
    load_tokenizer,
)

CAPTIONS = ["a cat on the mat", "two dogs, one ball", "the old red barn", "Rain over the sea"] * 4
TEXTS = ["A cat on   the mat", "zebra", "", "the old red barn and " * 20]
CLIP_CONFIG = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 64, "head_width": 32, "layers": 2},
    "text_cfg": {
        "context_length": 20,
        "vocab_size": 49408,
        "width": 32,
        "heads": 2,
        "layers": 2,
    },
}
SIGLIP_CONFIG = {
    "embed_dim": 96,
    "init_logit_bias": -10.0,
    "custom_text": True,
    "vision_cfg": {
        "image_size": 160,
        "timm_model_name": "test_vit3",
        "timm_model_pretrained": False,
        "timm_pool": "map",
        "timm_proj": "none",
    },
    "text_cfg": {
        "context_length": 12,
        "vocab_size": 96,
        "hf_tokenizer_name": "tiny/tokenizer-not-on-any-hub",
        "tokenizer_kwargs": {"clean": "canonicalize"},
        "width": 64,
        "heads": 2,
        "layers": 2,
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
    },
}
SQUASH = {
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
    "interpolation": "bilinear",
    "resize_mode": "squash",
}


def sentence_piece() -> PreTrainedTokenizerFast:
    """Train a unigram tokenizer with SentencePiece's word marks and T5's end token."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=96, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(CAPTIONS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


def build(config: dict, seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    settings = {k: v for k, v in config.items() if k != "custom_text"}
    cls = open_clip.CustomTextCLIP if config.get("custom_text") else open_clip.CLIP
    return cls(**settings).eval()


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory) -> Path:
    """Saved as open_clip saves, without tokenizer files: its byte-pair tokenizer is meant."""
    folder = tmp_path_factory.mktemp("teachers") / "clip-tiny"
    folder.mkdir()
    module = build(CLIP_CONFIG, 0)
    open_clip.model.set_model_preprocess_cfg(module, {"size": 32, **PREPROCESS_DEFAULTS})
    save_file(module.state_dict(), folder / "open_clip_model.safetensors")
    save_config_for_hf(module, folder / "open_clip_config.json", CLIP_CONFIG)
    return folder


PREPROCESS_DEFAULTS = {
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}


@pytest.fixture(scope="module")
def siglip_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("teachers") / "siglip-tiny"
    module = build(SIGLIP_CONFIG, 1)
    open_clip.model.set_model_preprocess_cfg(module, {"size": 160, **SQUASH})
    save_for_hf(module, sentence_piece(), SIGLIP_CONFIG, str(folder), safe_serialization=True)
    return folder


def picture(width: int, height: int) -> Image.Image:
    return Image.effect_mandelbrot((width, height), (-2, -1.5, 1, 1.5), 20).convert("RGB")


@pytest.mark.parametrize("which", ["clip_folder", "siglip_folder"])
def test_a_folder_gives_what_open_clip_gives(which, request):
    folder = request.getfixturevalue(which)
    spec = f"local-dir:{folder}"
    module, transform = open_clip.create_model_from_pretrained(spec)
    module.eval()
    teacher = load_teacher(folder)
    images = [picture(90, 60), picture(40, 70)]
    with torch.no_grad():
        pixels = torch.stack([transform(image) for image in images])
        tokens = open_clip.get_tokenizer(spec)(TEXTS)
        image = module.encode_image(pixels, normalize=True)
        text = module.encode_text(tokens, normalize=True)
    assert torch.equal(teacher.tokenizer(TEXTS), tokens)
    assert (teacher.encode_image(images) - image).abs().max() < 1e-5
    assert (teacher.encode_text(TEXTS) - text).abs().max() < 1e-6
    assert teacher.logit_scale.item() == module.logit_scale.item()
    assert teacher.context_length == tokens.shape[1]
    assert load_teacher(spec).fingerprint == load_teacher(str(folder)).fingerprint


def test_an_ensemble_keeps_siglip_beside_clip(clip_folder, siglip_folder):
    ensemble = Ensemble(load_teacher(clip_folder), load_teacher(siglip_folder))
    clip, siglip = ensemble
    assert (clip.name, clip.kind, siglip.name, siglip.kind) == (
        "clip-tiny",
        "softmax",
        "siglip-tiny",
        "sigmoid",
    )
    assert (clip.preprocess.image_size, siglip.preprocess.image_size) == (32, 160)
    assert (clip.preprocess.resize_mode, siglip.preprocess.resize_mode) == ("shortest", "squash")
    assert (clip.preprocess.interpolation, siglip.preprocess.interpolation) == (
        "bicubic",
        "bilinear",
    )
    assert siglip.preprocess.mean == (0.5, 0.5, 0.5)
    images, texts = [picture(90, 60)], ["a cat"]
    out = [t(t.to_pixels(images), t.tokenizer(texts)) for t in ensemble]
    assert [o.image.shape for o in out] == [(1, 32), (1, 96)]
    assert out[0].logit_bias is None
    assert out[1].logit_bias.item() == pytest.approx(-10)


def test_a_folder_may_move_without_becoming_another_teacher(siglip_folder, tmp_path):
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for path in siglip_folder.iterdir():
        (moved / path.name).write_bytes(path.read_bytes())
    assert load_teacher(moved).fingerprint == load_teacher(siglip_folder).fingerprint


def test_hugging_face_tokenizers_travel_by_content(siglip_folder):
    tokenizer = load_teacher(siglip_folder).tokenizer
    assert isinstance(tokenizer, HuggingFaceTokenizer)
    again = load_tokenizer(json.loads(json.dumps(tokenizer.config())))
    assert torch.equal(again(TEXTS), tokenizer(TEXTS))
    assert again.vocab_size == tokenizer.vocab_size > 20
    assert again([]).shape == (0, 12)
    assert len({tuple(row.tolist()) for row in again(TEXTS)}) == len(TEXTS)


def test_byte_pair_tokenizers_need_no_folder(clip_folder):
    tokenizer = load_teacher(clip_folder).tokenizer
    assert isinstance(tokenizer, OpenClipTokenizer)
    assert str(clip_folder) not in json.dumps(tokenizer.config())
    assert torch.equal(load_tokenizer(tokenizer.config())(TEXTS), tokenizer(TEXTS))


@pytest.fixture
def registered(tmp_path):
    """A tiny model entered into open_clip's own tables, weights on disk instead of the hub."""
    name = "tiny-registered-clip"
    (tmp_path / f"{name}.json").write_text(json.dumps(CLIP_CONFIG))
    open_clip.add_model_config(tmp_path / f"{name}.json")
    module = build(CLIP_CONFIG, 2)
    torch.save(module.state_dict(), tmp_path / "weights.pt")
    record = {"file": str(tmp_path / "weights.pt"), **SQUASH}
    _PRETRAINED[name] = {"quick": record | {"quick_gelu": True}, "plain": record}
    yield name, module
    del _PRETRAINED[name]
    open_clip.factory._MODEL_CONFIG_PATHS.pop()
    del open_clip.factory._MODEL_CONFIGS[name]


def test_a_tag_brings_weights_pixels_and_tokenizer(registered):
    name, module = registered
    teacher = load_teacher(f"{name}/plain")
    assert teacher.name == f"{name}/plain"
    assert teacher.licence is None
    image = picture(50, 80)
    pixels = image_transform_v2(PreprocessCfg(size=32, **SQUASH), is_train=False)(image)
    with torch.no_grad():
        expected = module.encode_image(pixels[None], normalize=True)
    assert (teacher.encode_image([image]) - expected).abs().max() < 1e-6
    assert teacher.tokenizer(["a cat"]).shape == (1, 20)
    assert load_teacher(f"{name}/plain", name="mine").name == "mine"


def test_weights_trained_with_quick_gelu_get_it(registered):
    """ViT-B-16/openai is such a pair: open_clip alone warns and computes with plain GELU."""
    name, _ = registered
    pixels = torch.randn(2, 3, 32, 32)
    quick, plain = load_teacher(f"{name}/quick"), load_teacher(f"{name}/plain")
    assert isinstance(
        quick.module.visual.transformer.resblocks[0].mlp.gelu, open_clip.transformer.QuickGELU
    )
    assert not torch.allclose(quick.encode_image(pixels), plain.encode_image(pixels), atol=1e-6)


def test_weights_that_are_a_program_are_not_run(registered, tmp_path):
    name, _ = registered

    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"state_dict": Evil()}, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match="plain are a pickle that wants more than tensors"):
        load_teacher(f"{name}/plain")
    assert not (tmp_path / "ran").exists()


HUB_SCRIPT = """
from teachers import load_teacher
teacher = load_teacher("hf-hub:tiny/siglip")
print(teacher.name, teacher.kind, teacher.preprocess.resize_mode)
print(teacher.encode_text(["a cat"]).shape)
"""


@pytest.mark.slow
def test_hub_ids_load_from_the_cache_without_a_network(siglip_folder, tmp_path):
    """The hub client reads its settings at import, hence the process of its own."""
    repository = tmp_path / "hub" / "models--tiny--siglip"
    snapshot = repository / "snapshots" / ("0" * 40)
    shutil.copytree(siglip_folder, snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    # What the client notes down when the hub has no such file: transformers asks for it.
    (repository / ".no_exist" / ("0" * 40)).mkdir(parents=True)
    (repository / ".no_exist" / ("0" * 40) / "config.json").touch()
    config = json.loads((snapshot / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = "tiny/siglip"
    (snapshot / "open_clip_config.json").write_text(json.dumps(config))
    done = subprocess.run(
        [sys.executable, "-c", HUB_SCRIPT],
        env={**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "tiny/siglip sigmoid squash\ntorch.Size([1, 96])"
