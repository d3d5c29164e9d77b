"""A student knows whose weights are whose, and comes back from disk bit for bit."""

import copy
import json
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from students import Student, StudentSpec, TextSpec, build_student, load_student, profile
from teachers.clip_model import evaluating
from teachers.tokenizers import WordTokenizer

TOKENIZER = WordTokenizer.fit(["a cat", "two dogs"], context_length=8)
TEXT = TextSpec(width=32, layers=1, heads=2, context_length=8)
TEXTS = ["a cat", "dogs", "two"]


def spec(image: str = "smallconv-4") -> StudentSpec:
    return StudentSpec(image=image, text=TEXT, embed_dim=16, image_size=32)


def small(image: str = "smallconv-4", kind: str = "softmax") -> Student:
    torch.manual_seed(0)
    return build_student(spec(image), tokenizer=TOKENIZER, kind=kind)


class Tied(nn.Module):
    """Two encoders of odd make that share their last layer, and a weight that neither uses."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 32)
        self.words = nn.EmbeddingBag(TOKENIZER.vocab_size, 16)
        self.last = nn.Linear(16, 16)
        self.also_last = self.last
        self.unused = nn.Parameter(torch.zeros(7))
        self.logit_scale = nn.Parameter(torch.tensor(2.0))

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        return self.last(self.stem(images).flatten(1))

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.also_last(self.words(tokens))


def tied() -> Student:
    return build_student(Tied(), image_size=32, tokenizer=TOKENIZER)


def assert_equal_models(one: Student, other: Student) -> None:
    size = one.preprocess.image_size
    pixels, tokens = torch.randn(3, 3, size, size), one.tokenizer(TEXTS)
    with torch.no_grad():
        for ours, theirs in zip(one.eval()(pixels, tokens), other(pixels, tokens), strict=True):
            assert ours is theirs or torch.equal(ours, theirs)
    assert one.preprocess == other.preprocess
    assert one.config == other.config


def test_each_tower_counts_its_own_weights() -> None:
    student = small()
    module = student.module
    assert student.image_params == sum(value.numel() for value in module.visual.parameters())
    assert student.text_params == sum(value.numel() for value in module.text.parameters())
    total = sum(value.numel() for value in student.parameters())
    assert student.image_params + student.text_params + 1 == total


def test_shared_and_unused_weights_are_counted_where_they_work() -> None:
    student = tied()
    last = 16 * 16 + 16
    assert student.image_params == 3 * 32 * 32 * 16 + 16 + last
    assert student.text_params == TOKENIZER.vocab_size * 16 + last


def test_asking_for_the_towers_changes_nothing() -> None:
    student = small().train()
    student.module.visual.features[1].eval()
    student.module.text.requires_grad_(False)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    assert student.text_params > 0
    assert student.module.training and not student.module.visual.features[1].training
    assert not any(value.requires_grad for value in student.text_tower.parameters())
    assert all(value.requires_grad for value in student.image_tower.parameters())
    for name, value in student.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(value.grad is None for value in student.parameters())


def test_locking_one_tower_leaves_the_other_to_learn() -> None:
    student = small()
    student.text_tower.requires_grad_(False)
    learned = {name for name, value in student.module.named_parameters() if value.requires_grad}
    assert learned and all(name.startswith(("visual.", "logit_")) for name in learned)


def test_towers_give_what_the_model_gives() -> None:
    student = small().eval()
    pixels, tokens = torch.randn(2, 3, 32, 32), TOKENIZER(TEXTS)
    assert torch.equal(student.image_tower(pixels), student.encode_image(pixels))
    assert torch.equal(student.text_tower(tokens), student.encode_text(tokens))


@pytest.mark.parametrize("image", ["smallconv-4", "test_vit", "mobilenetv4_conv_small_035"])
@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_a_specification_comes_back_bit_for_bit(image: str, kind: str, tmp_path: Path) -> None:
    student = small(image, kind).train()
    student(torch.randn(4, 3, 32, 32), TOKENIZER([*TEXTS, "a"]))  # moves the batch statistics
    student.save(tmp_path / "a" / "b")
    loaded = load_student(tmp_path / "a" / "b")
    assert not loaded.training
    assert_equal_models(student, loaded)
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == [
        "model.safetensors",
        "student.json",
    ]


def test_an_open_clip_student_comes_back_bit_for_bit(tmp_path: Path) -> None:
    student = build_student("ViT-S-32", image_size=64, tokenizer=TOKENIZER, kind="sigmoid")
    assert student.text_params < 22_000_000  # the word table, not CLIP's
    student.save(tmp_path)
    assert_equal_models(student, load_student(tmp_path))


def test_a_module_of_ones_own_comes_back_into_a_fresh_one(tmp_path: Path) -> None:
    student = tied()
    student.save(tmp_path)
    with pytest.raises(ValueError, match=r"Tied: pass one, load_student\(folder, module=...\)"):
        load_student(tmp_path)
    assert_equal_models(student, load_student(tmp_path, module=Tied()))
    with pytest.raises(ValueError, match="has no method encode_image"):
        load_student(tmp_path, module=nn.Linear(2, 2))
    smaller = Tied()
    smaller.last = smaller.also_last = nn.Linear(16, 8)
    with pytest.raises(ValueError, match="do not fit Tied"):
        load_student(tmp_path, module=smaller)


def test_saving_again_replaces_the_weights(tmp_path: Path) -> None:
    student = small()
    student.save(tmp_path)
    with torch.no_grad():
        student.module.logit_scale.fill_(3.0)
    student.save(tmp_path)
    assert load_student(tmp_path).logit_scale.item() == 3.0


def test_a_folder_that_holds_no_student_says_why(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"student.json is missing"):
        load_student(tmp_path / "nowhere")
    small().save(tmp_path)
    config = json.loads((tmp_path / "student.json").read_text())
    with pytest.raises(ValueError, match="leave out module"):
        load_student(tmp_path, module=Tied())
    (tmp_path / "student.json").write_text(json.dumps({**config, "format": 99}))
    with pytest.raises(ValueError, match="has format 99, this version reads format 1"):
        load_student(tmp_path)
    (tmp_path / "student.json").write_text("{")
    with pytest.raises(ValueError, match="is no JSON"):
        load_student(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model.safetensors is missing"):
        load_student(tmp_path)


def test_checkpointing_changes_no_gradient() -> None:
    gradients = []
    for enable in (False, True):
        student = small("test_vit")
        student.set_grad_checkpointing(enable)
        torch.manual_seed(1)
        pair = student(torch.randn(3, 3, 32, 32), TOKENIZER(TEXTS))
        (pair.image @ pair.text.T).diagonal().sum().backward()
        gradients.append([value.grad for value in student.image_tower.parameters()])
    assert student.module.visual.grad_checkpointing
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_a_tower_that_cannot_checkpoint_says_so() -> None:
    with pytest.raises(ValueError, match="SmallConv cannot checkpoint"):
        small().set_grad_checkpointing(True)
    with pytest.raises(ValueError, match=r"Tied has no set_grad_checkpointing"):
        tied().set_grad_checkpointing(True)


def test_the_inference_form_is_a_copy_that_cannot_be_saved(tmp_path: Path) -> None:
    student = small().train()
    folded = student.reparameterize()
    assert student.training and not folded.training
    assert folded.module is not student.module
    with pytest.raises(ValueError, match="save the student it came from"):
        folded.save(tmp_path)


def test_a_profile_counts_and_times_both_towers() -> None:
    student = small().train()
    before = torch.get_num_threads()
    result = profile(student, batch_size=2, repeats=5)
    image, text = (result.of(tower, "training") for tower in ("image", "text"))
    assert (image.params, text.params) == (student.image_params, student.text_params)
    assert image.bytes == 4 * student.image_params
    assert len(result.towers) == 4
    assert all(0 < row.latency_ms <= row.latency_p95_ms for row in result.towers)
    assert student.training and torch.get_num_threads() == before
    with pytest.raises(ValueError, match="at least 1"):
        profile(student, repeats=0)


def test_more_pictures_take_longer() -> None:
    student = small("smallconv-16")
    one, many = (profile(student, batch_size=n, repeats=5) for n in (1, 128))
    assert many.of("image").latency_ms > 3 * one.of("image").latency_ms
    assert many.of("image").macs == one.of("image").macs
    assert many.of("image").peak_bytes == 128 * one.of("image").peak_bytes


class Plain(torch.nn.Module):
    """Two encoders whose multiplications and activations are counted by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = torch.nn.Linear(3 * 8 * 8, 100), torch.nn.Linear(100, 6)
        self.words = torch.nn.Embedding(TOKENIZER.vocab_size, 16)
        self.attention = torch.nn.MultiheadAttention(16, 2, batch_first=True)
        self.out = torch.nn.Linear(16, 6)
        self.logit_scale = torch.nn.Parameter(torch.tensor(1.0))

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        return self.narrow(self.wide(images.flatten(1)))

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        rows = self.words(tokens)
        return self.out(self.attention(rows, rows, rows, need_weights=False)[0].mean(1))


def test_multiplications_and_activations_are_those_counted_by_hand() -> None:
    student = build_student(Plain(), image_size=8, tokenizer=TOKENIZER)
    found = profile(student, batch_size=4, repeats=1)
    assert found.of("image").macs == pytest.approx((192 * 100 + 100 * 6) / 1e6)
    length = TOKENIZER.context_length
    attention = length * (3 * 16 * 16 + 16 * 16) + 2 * length * length * 16
    assert found.of("text").macs == pytest.approx((attention + 16 * 6) / 1e6)
    # The wide rows live until the narrow ones are there.
    assert found.of("image").peak_bytes == 4 * 4 * (100 + 6)


def test_what_a_tower_keeps_of_an_evaluation_is_forgotten_when_weights_change() -> None:
    """timm's TinyViT looks its attention biases up once, in evaluation mode, and keeps them."""
    torch.manual_seed(0)
    tower = timm.models.TinyVit(
        num_classes=16, embed_dims=(16,) * 4, depths=(1,) * 4, num_heads=(1,) * 4
    )
    pixels = torch.randn(2, 3, 64, 64)
    with evaluating(tower), torch.no_grad():
        before = tower(pixels)
        for name, value in tower.named_parameters():
            if "attention_biases" in name:
                value.normal_(std=5.0)
    with evaluating(tower), torch.no_grad():
        after = tower(pixels)
    with torch.no_grad():
        wanted = copy.deepcopy(tower).train().eval()(pixels)
    assert (before - after).abs().max() > 0.1 * before.abs().max()
    torch.testing.assert_close(after, wanted)
