"""Teachers that give NaN and infinity: tried once more, then left out by name, never stored."""

import json
import tarfile

import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from distill.cli import main
from reinforced_data import ViewPolicy, audit, open_dataset, reinforce
from reinforced_data.testing import (
    TOKENIZER,
    TinyEncoder,
    encoded,
    sample,
    tiny_teacher,
    write_source,
)
from teachers import Preprocess, Teacher, load_teacher

SETTINGS = {"num_views": 2, "policy": ViewPolicy(num_ops=0), "batch_size": 4, "progress": False}


def hashes(out) -> dict[str, tuple]:
    commits = [json.loads(path.read_text()) for path in sorted((out / "commits").rglob("*.json"))]
    return {f"{c['column']}/{c['shard']}": (c["sha256"], str(c["skipped"])) for c in commits}


class BadMoment(TinyEncoder):
    """NaN in one row of every third batch of pictures and of texts, but not a second time."""

    def __init__(self, **options) -> None:
        super().__init__(**options)
        self.calls = 0

    def _spoil(self, rows: Tensor) -> Tensor:
        self.calls += 1
        if self.calls % 3 == 1:
            rows[len(rows) // 2] = torch.nan
        return rows

    def encode_image(self, images: Tensor, /) -> Tensor:
        return self._spoil(super().encode_image(images))

    def encode_text(self, tokens: Tensor, /) -> Tensor:
        return self._spoil(super().encode_text(tokens))


def test_a_bad_moment_leaves_no_trace(tmp_path):
    write_source(tmp_path / "source", 12)
    for name, module in (("calm", TinyEncoder()), ("bad", BadMoment())):
        report = reinforce(
            tmp_path / "source", tmp_path / name, teachers=tiny_teacher(module=module), **SETTINGS
        )
        assert report.skipped == {}
    assert hashes(tmp_path / "bad") == hashes(tmp_path / "calm")


class BlinkingVit(nn.Module):
    """A ViT whose second batch has a row that is not finite, but not a second time."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.visual = timm.create_model("test_vit", img_size=16, patch_size=8, num_classes=16)
        self.text, self.calls = nn.Embedding(TOKENIZER.vocab_size, 16), 0
        self.logit_scale = nn.Parameter(torch.tensor(3.0))

    def encode_image(self, images: Tensor, /) -> Tensor:
        rows = self.visual(images)
        self.calls += 1
        return torch.cat([rows[:1] * torch.nan, rows[1:]]) if self.calls == 2 else rows

    def encode_text(self, tokens: Tensor, /) -> Tensor:
        return self.text(tokens).mean(1)


def test_a_bad_moment_of_a_teacher_whose_attention_is_kept(tmp_path):
    write_source(tmp_path / "source", 12)
    with tarfile.open(tmp_path / "source" / "99999.tar", "w"):
        pass
    for name, calls in (("calm", 9), ("bad", 0)):
        module = BlinkingVit()
        module.calls = calls
        teacher = tiny_teacher("vit", module=module)
        report = reinforce(
            tmp_path / "source", tmp_path / name, teachers=teacher, attention="vit", **SETTINGS
        )
        assert report.skipped == {} and report.quarantined == {}
    assert hashes(tmp_path / "bad") == hashes(tmp_path / "calm")


class Narrow(TinyEncoder):
    """Overflows in bf16 for some of the pictures, and for all texts while its weights are bf16."""

    def encode_image(self, images: Tensor, /) -> Tensor:
        rows = super().encode_image(images)
        if images.dtype == torch.bfloat16:
            rows[::2] = torch.inf
        return rows

    def encode_text(self, tokens: Tensor, /) -> Tensor:
        rows = super().encode_text(tokens)
        return rows * torch.inf if self.text.dtype == torch.bfloat16 else rows


def test_what_is_too_large_for_bf16_is_done_in_float32(tmp_path):
    write_source(tmp_path / "source", 12)
    teacher = narrow(Narrow())
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    report = reinforce(tmp_path / "source", tmp_path / "out", teachers=teacher, **SETTINGS)
    assert (report.samples, report.skipped) == (12, {})
    after = teacher.state_dict()
    assert {n: t.dtype for n, t in after.items()} == {n: t.dtype for n, t in before.items()}
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert before["module.image"].dtype == torch.bfloat16
    healthy = narrow(TinyEncoder())  # the same weights without the fault
    assert healthy.fingerprint == teacher.fingerprint
    assert audit(tmp_path / "out", teachers=healthy, max_error=0.01).problems == ()


def narrow(module: TinyEncoder) -> Teacher:
    look = Preprocess(image_size=16, interpolation="bilinear")
    return load_teacher(
        module, name="narrow", precision="bf16", preprocess=look, tokenizer=TOKENIZER
    )


class Allergic(TinyEncoder):
    """Infinity for what is quite red, whatever the precision."""

    def encode_image(self, images: Tensor, /) -> Tensor:
        rows = super().encode_image(images)
        mean = images.mean((2, 3))
        return torch.where((mean[:, 0] > mean[:, 2] + 2.5)[:, None], torch.inf, rows)


def allergic_world(folder) -> None:
    samples = [dict(sample(i)) for i in range(12)]
    for number in (2, 9):
        samples[number]["png"] = encoded(Image.new("RGB", (20, 20), (250, 10, 10)))
    write_source(folder / "source", samples)


def test_the_run_goes_on_and_says_who_is_left_out(tmp_path):
    allergic_world(tmp_path)
    teacher = tiny_teacher("allergic", module=Allergic())
    report = reinforce(tmp_path / "source", tmp_path / "out", teachers=teacher, **SETTINGS)
    assert (report.samples, report.shards) == (12, 3)
    assert report.skipped == {"non-finite-embedding": 2}
    (first, second) = report.examples["non-finite-embedding"]
    assert first.startswith("'0002' in 00000.tar (image-allergic-")
    assert second.startswith("'0009' in 00001.tar (image-allergic-")
    assert open_dataset(tmp_path / "out").num_samples == 10 == report.samples - 2
    assert audit(tmp_path / "out").problems == ()


def test_the_command_ends_with_3_and_names_them(tmp_path, monkeypatch, capsys):
    allergic_world(tmp_path)
    teacher = tiny_teacher("allergic", module=Allergic())
    monkeypatch.setattr("distill.model_loading.load_frozen", lambda *_: teacher)
    source, out = str(tmp_path / "source"), str(tmp_path / "out")
    asked = [source, out, "--teachers", "allergic", "--num-views", "2", "--policy.num-ops", "0"]
    for _ in range(2):  # the same when there is nothing left to do
        assert main(["reinforce", *asked]) == 3
        said = " ".join(capsys.readouterr().out.split())
        assert "left out: 2 x non-finite-embedding: '0002' in 00000.tar (image-allergic-" in said
        assert "'0009' in 00001.tar" in said


@pytest.mark.parametrize("tower", ["encode_image", "encode_text"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, 0.0])
def test_a_teacher_that_gives_nothing_usable_is_stopped(tmp_path, tower, value):
    class Dead(TinyEncoder):
        pass

    width = 16
    setattr(Dead, tower, lambda self, batch, /: torch.full((len(batch), width), value))
    write_source(tmp_path / "source", 12)
    healthy = tiny_teacher("healthy")
    with pytest.raises(ValueError, match=r"'dead' gave nothing usable .*00000\.tar: all \d+ rows"):
        reinforce(
            tmp_path / "source",
            tmp_path / "out",
            teachers=[healthy, tiny_teacher("dead", module=Dead())],
            **SETTINGS,
        )
    report = reinforce(tmp_path / "source", tmp_path / "out", teachers=healthy, **SETTINGS)
    assert report.skipped == {} and report.shards == 3
