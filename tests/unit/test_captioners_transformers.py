"""Small random transformers models of every kind, saved, loaded and made to write."""

import json
import re
import sys

import pytest
import torch
import transformers as hf
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from teachers.captioners.prompts import DESCRIBE, Prompt, PromptedCaptioner, TextModel
from teachers.captioners.sampling import Sampling
from teachers.captioners.transformers_loading import load_transformers
from teachers.captioning import Captioner, CaptionRequest

SPECIAL = ("[PAD]", "[BOS]", "[EOS]", "[UNK]", "<image>")
WORDS = [f"w{i:02}" for i in range(43)] + ["user", "assistant", *re.findall(r"\w+", DESCRIBE)]
VOCAB = [*SPECIAL, *dict.fromkeys(WORDS)]
SAMPLING = Sampling(max_tokens=8, min_tokens=2, top_p=0.95)
CHAT = (
    "{% for m in messages %}user {% if m.content is string %}{{ m.content }}{% else %}"
    "{% for p in m.content %}{% if p.type == 'image' %}<image> {% else %}{{ p.text }}{% endif %}"
    "{% endfor %}{% endif %}{% endfor %}{% if add_generation_prompt %} assistant{% endif %}"
)
LANGUAGE = {
    **{"vocab_size": len(VOCAB), "hidden_size": 32, "intermediate_size": 32},
    **{"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 256},
}
VISION = {
    **{"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "image_size": 16},
    **{"num_attention_heads": 2, "patch_size": 8},
}


def tokenizer(**options) -> hf.PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(VOCAB)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="[BOS] $A", special_tokens=[("[BOS]", 1)]
    )
    names = {"bos_token": "[BOS]", "eos_token": "[EOS]", "unk_token": "[UNK]"}
    options = {**names, "additional_special_tokens": ["<image>"], "pad_token": "[PAD]", **options}
    return hf.PreTrainedTokenizerFast(tokenizer_object=backend, **options)


def save(folder, model, *parts) -> None:
    torch.manual_seed(0)
    for name, weights in model.named_parameters():
        if weights.ndim > 1 and "norm" not in name:
            torch.nn.init.normal_(weights, std=0.4)
    for part in (model, *parts):
        part.save_pretrained(folder)


def language(folder) -> None:
    chat = tokenizer(pad_token=None)
    chat.chat_template = CHAT
    save(folder, hf.LlamaForCausalLM(hf.LlamaConfig(**LANGUAGE)), chat)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")


def plain_language(folder) -> None:
    save(folder, hf.LlamaForCausalLM(hf.LlamaConfig(**LANGUAGE)), tokenizer())


def encoder_decoder(folder) -> None:
    config = hf.T5Config(
        **{"vocab_size": len(VOCAB), "d_model": 32, "d_kv": 16, "d_ff": 32, "num_layers": 1},
        **{"num_heads": 2, "decoder_start_token_id": 0, "eos_token_id": 2, "pad_token_id": 0},
    )
    save(folder, hf.T5ForConditionalGeneration(config), tokenizer())


def blip(folder) -> None:
    text = {**LANGUAGE, "encoder_hidden_size": 32, "sep_token_id": 2, "projection_dim": 16}
    config = hf.BlipConfig(text_config=text, vision_config=VISION, projection_dim=16)
    pictures = hf.BlipImageProcessor(size={"height": 16, "width": 16})
    save(folder, hf.BlipForConditionalGeneration(config), hf.BlipProcessor(pictures, tokenizer()))


def vision_encoder_decoder(folder) -> None:
    decoder = hf.GPT2Config(
        **{"vocab_size": len(VOCAB), "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64},
        **{"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
    )
    config = hf.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        hf.ViTConfig(**VISION), decoder
    )
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = 1, 0, 2
    pictures = hf.ViTImageProcessor(size={"height": 16, "width": 16})
    save(folder, hf.VisionEncoderDecoderModel(config), pictures, tokenizer())


def llava(folder) -> None:
    config = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(**VISION),
        text_config=hf.LlamaConfig(**LANGUAGE),
        **{"image_token_index": VOCAB.index("<image>"), "vision_feature_layer": -1},
    )
    square = {"height": 16, "width": 16}
    processor = hf.LlavaProcessor(
        hf.CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=square),
        tokenizer(extra_special_tokens={"image_token": "<image>"}),
        **{"patch_size": 8, "vision_feature_select_strategy": "default", "chat_template": CHAT},
        num_additional_image_tokens=1,
    )
    save(folder, hf.LlavaForConditionalGeneration(config), processor)


SEEING = {"blip": blip, "vision_encoder_decoder": vision_encoder_decoder, "llava": llava}
READING = {"chat": language, "plain": plain_language, "encoder_decoder": encoder_decoder}
COLOURS = ("red", "green", "blue", "white", "black")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}
    for name, make in {**SEEING, **READING}.items():
        made[name] = tmp_path_factory.mktemp(name)
        make(made[name])
    return made


@pytest.fixture(scope="module")
def loaded(folders):
    return {
        name: load_transformers(folder, sampling=SAMPLING, batch_size=6)
        for name, folder in folders.items()
    }


def prompts(sees: bool) -> list[Prompt]:
    texts = ["w01 w02", "w03", "w04 w05 w06 w07", "w08 w09", "w10"]
    return [
        Prompt(key=f"k{i}", text="", seed=9 + i, image=Image.new("RGB", (20, 18), c))
        if sees
        else Prompt(key=f"k{i}", text=text, seed=9 + i)
        for i, (c, text) in enumerate(zip(COLOURS, texts, strict=True))
    ]


@pytest.mark.parametrize("kind", [*SEEING, *READING])
def test_each_kind_writes_and_depends_on_each_prompt_alone(loaded, kind):
    model = loaded[kind]
    assert isinstance(model, TextModel) and model.takes_images == (kind in SEEING)
    asked = prompts(model.takes_images)
    together = model.answer(asked, 3)
    assert [len(texts) for texts in together] == [3] * 5
    words = {word for texts in together for text in texts for word in text.split()}
    assert len(words) > 10 and words <= set(VOCAB) - set(model._tokenizer.all_special_tokens)
    lengths = [len(text.split()) for texts in together for text in texts]
    assert max(lengths) <= SAMPLING.max_tokens
    torch.manual_seed(5)
    assert model.answer(asked[::-1], 3)[::-1] == together
    assert [model.answer([prompt], 3)[0] for prompt in asked] == together
    assert [texts[:1] for texts in together] == model.answer(asked, 1)


@pytest.mark.parametrize("kind", SEEING)
def test_pictures_decide(loaded, kind):
    black, white = (Image.new("RGB", (16, 16), colour) for colour in ("black", "white"))
    asked = [Prompt(key="k", text="", seed=s, image=i) for s in range(4) for i in (black, white)]
    answers = loaded[kind].answer(asked, 3)
    assert answers[::2] != answers[1::2]


@pytest.mark.parametrize("kind", READING)
def test_texts_decide(loaded, kind):
    asked = [Prompt(key="k", text=t, seed=s) for s in range(4) for t in ("w01 w01", "w30 w31")]
    answers = loaded[kind].answer(asked, 3)
    assert answers[::2] != answers[1::2]


def test_the_likeliest_answer_is_the_librarys_own(loaded, folders):
    greedy = load_transformers(folders["plain"], sampling=Sampling(temperature=0.0, max_tokens=8))
    model = hf.AutoModelForCausalLM.from_pretrained(folders["plain"])
    words = tokenizer()
    for prompt in prompts(sees=False):
        ids = words([prompt.text], return_tensors="pt")
        theirs = model.generate(**ids, do_sample=False, max_new_tokens=8, min_new_tokens=1)
        expected = words.decode(theirs[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
        assert greedy.answer([prompt], 4) == [[expected]]


def test_a_captioner_asks_what_the_model_proposes(loaded):
    for kind in SEEING:
        captioner = PromptedCaptioner(loaded[kind])
        assert isinstance(captioner, Captioner) and captioner.needs_image
        assert captioner.prompt == (DESCRIBE if kind == "llava" else "")
        asked = [
            CaptionRequest(key=p.key, image=p.image, texts=(), seed=p.seed) for p in prompts(True)
        ]
        captions = captioner.caption(asked, 2)
        assert len(captions) == 5 and all(captions)
    other = PromptedCaptioner(loaded["llava"], prompt="w01")
    assert other.fingerprint != PromptedCaptioner(loaded["llava"]).fingerprint
    assert json.loads(json.dumps(other.provenance))["prompt"] == "w01"


def test_one_that_sees_and_chats_answers_texts_too(loaded):
    answers = loaded["llava"].answer(prompts(sees=False), 2)
    assert [len(texts) for texts in answers] == [2] * 5 and all(map(any, answers))


def test_fingerprints_are_of_weights_sampling_and_template(folders, loaded, tmp_path):
    model = loaded["chat"]
    again = load_transformers(folders["chat"], sampling=SAMPLING)
    assert again.fingerprint == model.fingerprint
    model.answer(prompts(sees=False), 1)  # use leaves no trace
    assert load_transformers(folders["chat"], sampling=SAMPLING).fingerprint == model.fingerprint
    others = [
        load_transformers(folders["chat"], sampling=Sampling()),
        load_transformers(folders["chat"], sampling=SAMPLING, precision="bf16"),
        loaded["plain"],
    ]
    assert len({model.fingerprint, *(other.fingerprint for other in others)}) == 4
    assert len(others[1].answer(prompts(sees=False), 2)) == 5
    assert (model.licence, loaded["plain"].licence) == ("apache-2.0", None)
    assert model.name == folders["chat"].name


def test_wrong_use_says_what_to_do(loaded, folders, tmp_path):
    with pytest.raises(ValueError, match=r"does not look at pictures.*rewrite:"):
        PromptedCaptioner(loaded["chat"])
    with pytest.raises(ValueError, match="looks at pictures and was given a text alone"):
        loaded["blip"].answer(prompts(sees=False), 1)
    with pytest.raises(ValueError, match="takes a picture and no prompt, got 'w01'"):
        asked = Prompt(key="k", text="w01", seed=1, image=Image.new("RGB", (16, 16)))
        loaded["vision_encoder_decoder"].answer([asked], 1)
    with pytest.raises(ValueError, match="no precision for a transformers model 'fp8'"):
        load_transformers(folders["chat"], precision="fp8")
    with pytest.raises(ValueError, match="no folder /no/such: expected a local folder"):
        load_transformers("/no/such")
    with pytest.raises(ValueError, match="could not be loaded with transformers"):
        load_transformers(tmp_path)
    hf.ViTModel(hf.ViTConfig(**VISION)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="a vit model writes no texts"):
        load_transformers(tmp_path)


def test_without_transformers_the_extra_is_named(folders, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)  # how Python marks what is not there
    with pytest.raises(ValueError, match=r"pip install 'clip-distill\[caption\]'"):
        load_transformers(folders["chat"])
