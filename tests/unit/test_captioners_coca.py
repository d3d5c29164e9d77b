"""The CoCa captioner: real open_clip CoCa, small and random, that really writes."""

import json

import open_clip
import pytest
import torch
from open_clip import CoCa
from PIL import Image
from safetensors.torch import save_file

from teachers import OpenClipTokenizer, Preprocess, WordTokenizer, load_teacher
from teachers.captioners.coca import CocaCaptioner, coca_captioner
from teachers.captioners.sampling import Sampling
from teachers.captioning import Captioner, CaptionRequest

WORDS = WordTokenizer([f"w{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(56)], 16)
SAMPLING = Sampling(max_tokens=10, min_tokens=2, top_p=0.95)


def config(vocab: int) -> dict:
    towers = {"context_length": 16, "vocab_size": vocab, "width": 16, "heads": 2, "layers": 1}
    return {
        "embed_dim": 16,
        "multimodal_cfg": {**towers, "attn_pooler_heads": 2},
        "text_cfg": {**towers, "embed_cls": True, "output_tokens": True},
        "vision_cfg": {
            **{"image_size": 16, "patch_size": 8, "width": 32, "head_width": 16, "layers": 1},
            **{"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
        },
    }


def coca(vocab: int = WORDS.vocab_size) -> CoCa:
    torch.manual_seed(0)
    module = CoCa(**config(vocab))
    for name, weights in module.named_parameters():
        if name != "logit_scale":
            torch.nn.init.normal_(weights, std=0.3)
    return module.eval()


def teacher(module=None, **options):
    settings = {"preprocess": Preprocess(image_size=16), "tokenizer": WORDS, "name": "tiny"}
    return load_teacher(module or coca(), **{**settings, **options})


@pytest.fixture(scope="module")
def captioner():
    return CocaCaptioner(teacher(), sampling=SAMPLING, batch_size=8)


def requests(count: int = 7) -> list[CaptionRequest]:
    colours = ("red", "green", "blue", "white", "black", "yellow", "purple")[:count]
    return [
        CaptionRequest(key=f"k{i}", image=Image.new("RGB", (20, 24), c), texts=(), seed=100 + i)
        for i, c in enumerate(colours)
    ]


def test_it_writes_several_captions_a_picture(captioner):
    assert isinstance(captioner, Captioner) and captioner.needs_image
    captions = captioner.caption(requests(), 4)
    assert [len(texts) for texts in captions] == [4] * 7
    texts = [text for row in captions for text in row]
    assert len(set(texts)) > 20  # random weights write random words
    for text in texts:
        words = text.split()
        assert SAMPLING.min_tokens <= len(words) <= SAMPLING.max_tokens
        assert set(words) <= set(WORDS.words)


def test_a_sample_depends_on_nothing_but_itself(captioner):
    together = captioner.caption(requests(), 3)
    torch.manual_seed(99)
    backwards = captioner.caption(requests()[::-1], 3)[::-1]
    alone = [captioner.caption([request], 3)[0] for request in requests()]
    fewer = captioner.caption(requests(), 1)
    assert together == backwards == alone
    assert [texts[:1] for texts in together] == fewer
    first = requests()[0]
    other = CaptionRequest(key=first.key, image=first.image, texts=(), seed=7)
    assert captioner.caption([other], 3)[0] != together[0]


def test_pictures_decide_what_is_written(captioner):
    first, second = requests()[:2]
    swapped = CaptionRequest(key="x", image=second.image, texts=(), seed=first.seed)
    assert captioner.caption([first], 4) != captioner.caption([swapped], 4)


def test_temperature_zero_writes_one(captioner):
    greedy = CocaCaptioner(captioner.teacher, sampling=Sampling(temperature=0.0, max_tokens=10))
    assert all(len(texts) <= 1 for texts in greedy.caption(requests(), 5))


def test_weights_are_shared_with_the_teacher_and_stay(captioner):
    before = {name: t.clone() for name, t in captioner.teacher.module.state_dict().items()}
    captioner.caption(requests()[:1], 1)
    after = captioner.teacher.module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_other_precisions_write_too(precision):
    captioner = CocaCaptioner(teacher(precision=precision), sampling=SAMPLING)
    assert all(len(texts) == 2 for texts in captioner.caption(requests(3), 2))


def test_the_fingerprint_is_of_weights_and_sampling(captioner):
    again = CocaCaptioner(teacher(), sampling=SAMPLING, batch_size=3)
    assert again.fingerprint == captioner.fingerprint and len(again.fingerprint) == 64
    other = coca()
    torch.nn.init.zeros_(other.text_decoder.text_projection)
    changed = [
        CocaCaptioner(teacher(), sampling=Sampling(max_tokens=9)),
        CocaCaptioner(teacher(), sampling=SAMPLING, first_sentence=False),
        CocaCaptioner(teacher(other), sampling=SAMPLING),
    ]
    assert len({captioner.fingerprint, *(c.fingerprint for c in changed)}) == 4
    assert json.loads(json.dumps(captioner.provenance))["sampling"]["max_tokens"] == 10


def test_open_clips_own_vocabulary_is_spelled_and_cut_after_a_sentence():
    tokenizer = OpenClipTokenizer("")
    whole = CocaCaptioner(
        teacher(coca(49408), tokenizer=tokenizer), sampling=SAMPLING, first_sentence=False
    )
    start, end = tokenizer.start_id, tokenizer.end_id
    assert (start, end) == (49406, 49407)
    text = "a cat on 3.5 mats . two dogs"
    ids = tokenizer([text])[0].tolist()
    assert whole._spell(ids) == "a cat on 3 . 5 mats . two dogs"
    first = CocaCaptioner(whole.teacher, sampling=SAMPLING)
    assert first._spell(tokenizer(["A cat on a mat. Two dogs"])[0].tolist()) == "a cat on a mat"
    assert first._spell([*ids[:4], 0, *ids[4:]]) == "a cat on"  # padding ends a text too
    assert len(first.caption(requests(2), 2)) == 2


def test_a_folder_and_a_ready_module(tmp_path):
    module = coca(49408)
    (tmp_path / "open_clip_config.json").write_text(json.dumps({
        "model_cfg": {**config(49408), "custom_text": True},
        "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3},
    }))  # fmt: skip
    save_file(module.state_dict(), tmp_path / "open_clip_model.safetensors")
    captioner = coca_captioner(tmp_path, sampling=SAMPLING)
    assert captioner.name == tmp_path.name
    assert len(captioner.caption(requests(2), 2)) == 2


def test_what_cannot_write_is_refused():
    clip = open_clip.CLIP(
        embed_dim=16,
        vision_cfg={"image_size": 16, "patch_size": 8, "width": 32, "head_width": 16, "layers": 1},
        text_cfg={"context_length": 8, "vocab_size": 60, "width": 16, "heads": 1, "layers": 1},
    )
    with pytest.raises(ValueError, match="tiny is a CLIP, which embeds texts but writes none"):
        coca_captioner(teacher(clip))
    small = WordTokenizer(["a"], 16)
    with pytest.raises(ValueError, match=r"tiny.*cannot spell the 60 ids"):
        coca_captioner(teacher(tokenizer=small))
    with pytest.raises(ValueError, match="tiny writes 15 tokens at most, max_tokens is 28"):
        coca_captioner(teacher())
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        coca_captioner(teacher(), sampling=SAMPLING, batch_size=0)
    with pytest.raises(ValueError, match="no teacher 'coca_ViT-L14'; did you mean 'coca_ViT-L-14'"):
        coca_captioner("coca_ViT-L14/laion2b_s13b_b90k")
