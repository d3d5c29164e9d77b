"""Teachers of one modality: from timm and transformers into a store, and as SAIL's student out."""

import json

import pytest
import timm
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from distill.cli import main
from distill.locked_students import check_is
from reinforced_data import ViewPolicy, audit, open_dataset, reinforce
from reinforced_data.testing import WORDS, write_source
from students import load_student
from teachers import Ensemble, load_teacher


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A tiny timm model and a tiny Llama in folders, and a store of both."""
    folder = tmp_path_factory.mktemp("unimodal")
    torch.manual_seed(0)
    vision = timm.create_model("test_efficientnet", num_classes=7)
    timm.models.save_for_hf(vision, folder / "vision", safe_serialization=True)
    words = ["[PAD]", "[UNK]", *WORDS, *map(str, range(30))]
    tokenizer = Tokenizer(WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    fast.save_pretrained(folder / "language")
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "language")
    specs = f"timm/local-dir:{folder / 'vision'}", f"hf-text:{folder / 'language'}"
    reinforce(
        write_source(folder / "source", 20),
        folder / "store",
        teachers=Ensemble(*map(load_teacher, specs)),
        num_views=2,
        policy=ViewPolicy(num_ops=1),
        codec="float32",
        progress=False,
    )
    return folder, specs


def test_rows_are_pooled_features_and_means_of_hidden_states(world):
    folder, specs = world
    image, text = map(load_teacher, specs)
    assert (image.name, text.name) == ("timm/vision", "hf-text:language")
    vision = timm.create_model(f"local-dir:{folder / 'vision'}", pretrained=True, num_classes=0)
    size = image.preprocess.image_size
    pixels = torch.rand(2, 3, size, size)
    expected = torch.nn.functional.normalize(vision.eval()(pixels), dim=-1)
    torch.testing.assert_close(image.encode_image(pixels), expected)
    llama = LlamaForCausalLM.from_pretrained(folder / "language").eval()
    for words in (["red", "picture"], ["a", "dark", "picture", "of", "number"]):
        ids = text.tokenizer([" ".join(words)])[:, : len(words)]
        assert (ids > 1).all()
        with torch.no_grad():
            states = llama(ids, output_hidden_states=True).hidden_states[-1]
        mean = torch.nn.functional.normalize(states.mean(1), dim=-1)
        torch.testing.assert_close(text.encode_text([" ".join(words)]), mean, rtol=1e-5, atol=1e-6)


def test_what_a_teacher_lacks_is_said(world):
    image, text = map(load_teacher, world[1])
    with pytest.raises(ValueError, match="no tokenizer"):
        image.encode_text(["a"])
    with pytest.raises(ValueError, match="no image encoder"):
        text.encode_image(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="no image encoder 'vit_tinny_patch16_224'"):
        load_teacher("timm/vit_tinny_patch16_224")


def test_a_store_has_one_column_of_each(world):
    folder, specs = world
    dataset = open_dataset(folder / "store")
    image, text = dataset.teachers
    assert image.widths[1] == 0 and text.widths == (0, 24)
    assert image.text is None and text.image is None and text.logit_scale is None
    kinds = [c.kind for c in dataset.columns if "embeddings" in c.kind]
    assert sorted(kinds) == ["image_embeddings", "text_embeddings"]
    loader = dataset.loader(preprocess=None, tokenizer=None, batch_size=5, num_steps=1)
    (batch,) = loader
    assert batch.pixels.numel() == 0 and batch.tokens.shape == (5, 0)
    seen, read = batch.teachers
    assert seen.image.shape == (5, image.embed_dim) and seen.text.shape == (5, 0)
    live = load_teacher(specs[1])
    captions = dict(zip([f"{n:04d}" for n in range(20)], dataset.captions(), strict=True))
    expected = live.encode_text([captions[key] for key in batch.keys])
    torch.testing.assert_close(read.text, expected)
    report = audit(folder / "store", teachers=[load_teacher(spec) for spec in specs])
    assert report.ok, report


def test_a_plan_of_each_costs_the_one_tower_and_the_one_column(world, capsys):
    folder, specs = world
    command = ["plan", folder / "source", "--teachers", *specs, "--num-views", 2, "--json"]
    command += ["--probe-samples", 12, "--tower-seconds", 0.01, "--codec", "float32"]
    assert main([str(part) for part in command]) == 0
    plan = json.loads(capsys.readouterr().out)
    image, text = plan["measured"]["towers"]
    assert image["image_seconds"] > 0 == image["text_seconds"]
    assert text["text_seconds"] > 0 == text["image_seconds"]
    rows = {c["kind"]: c["per_sample"] for c in plan["measured"]["columns"]}
    written = open_dataset(folder / "store").teachers
    assert rows["image_embeddings"] > 4 * 2 * written[0].embed_dim  # two views, four bytes
    assert rows["text_embeddings"] > 4 * written[1].embed_dim


def test_sail_from_the_command_line(world, tmp_path, capsys):
    """Two heads, no encoder in training; the saved student is encoders and heads."""
    folder, (image, text) = world
    command = ["train", "sail", "--data.store", folder / "store", "--out", tmp_path / "run"]
    command += ["--lock.stored-image", image, "--lock.stored-text", text]
    command += ["--lock.embed-dim", 16, "--data.batch-size", 8, "--data.num-workers", 0]
    command += ["--schedule.num-steps", 4, "--schedule.warmup-steps", 1, "--json"]
    command += ["--evaluate-on", "held", folder / "source"]
    assert main([str(part) for part in command]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["steps"] == 4 and "held/text_to_image_r1" in result["metrics"]
    student = load_student(tmp_path / "run")
    assert student.kind == "sigmoid" and student.embed_dim == 16
    frozen = load_teacher(image)
    pixels = torch.rand(2, 3, *(2 * [frozen.preprocess.image_size]))
    head = student.module.image.head
    with torch.no_grad():
        expected = torch.nn.functional.normalize(head(frozen.encode_image(pixels)), dim=-1)
        torch.testing.assert_close(student.encode_image(pixels), expected)
        assert student.encode_text(["a red picture"]).shape == (1, 16)


def test_another_teacher_than_the_stored_one_is_refused(world):
    folder, (image, _) = world
    stored = open_dataset(folder / "store").teachers[0]
    other = load_teacher(image)
    check_is(other, stored, image)
    with torch.no_grad():
        next(other.module.parameters()).add_(1)
    other.fingerprint = ""
    with pytest.raises(ValueError, match="is not the teacher whose rows"):
        check_is(other, stored, image)
