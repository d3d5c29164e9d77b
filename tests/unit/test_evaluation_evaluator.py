"""`evaluate` on real shards with a model whose embeddings are known."""

import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from distill.evaluation import TEMPLATES, evaluate, retention
from reinforced_data.shard_writer import write_shards
from teachers.clip_model import ClipModel
from teachers.contract import Preprocess
from teachers.tokenizers import WordTokenizer

NAMES = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta")


class Lookup(nn.Module):
    """Image rows by grey level / 10, text rows by the last word; dropout shows the mode."""

    def __init__(self, image_rows: Tensor, word_rows: Tensor) -> None:
        super().__init__()
        self.logit_scale = nn.Parameter(torch.tensor(2.0))
        self.image_rows, self.word_rows = image_rows, word_rows
        self.dropout = nn.Dropout(0.5)

    def encode_image(self, images: Tensor, /) -> Tensor:
        levels = (images.mean((1, 2, 3)) * 25.5).round().long()
        return self.dropout(self.image_rows[levels])

    def encode_text(self, tokens: Tensor, /) -> Tensor:
        last = tokens[torch.arange(len(tokens)), tokens.argmax(1) - 1]
        return self.dropout(self.word_rows[last])


def make_model(image_rows: Tensor, text_rows: Tensor) -> ClipModel:
    """Row i of `image_rows` is grey level 10 i; row i of `text_rows` is NAMES[i]."""
    tokenizer = WordTokenizer((*NAMES, "a", "photo", "of", "."), context_length=8)
    words = torch.zeros(tokenizer.vocab_size, text_rows.shape[1])
    words[3 : 3 + len(text_rows)] = text_rows
    preprocess = Preprocess(image_size=8, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    return ClipModel(
        Lookup(image_rows, words), name="lookup", preprocess=preprocess, tokenizer=tokenizer
    )


def png(level: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (12, 12), level).save(file, "PNG")
    return file.getvalue()


def write(folder: Path, samples: list[dict[str, bytes | str]]) -> Path:
    numbered = [{"__key__": f"{i:03d}", **sample} for i, sample in enumerate(samples)]
    write_shards(folder, numbered, samples_per_shard=3)
    return folder


def aligned() -> ClipModel:
    return make_model(torch.eye(8), torch.eye(8))


def labelled(names=NAMES) -> list[dict[str, bytes | str]]:
    return [
        {"png": png(10 * i), "txt": f"a photo of {name}", "cls": name}
        for i, name in enumerate(names)
    ]


def test_a_model_that_knows_everything(tmp_path):
    model = aligned()
    model.train()
    model.module.dropout.eval()
    done: list[int] = []
    metrics = evaluate(model, write(tmp_path / "s", labelled()), batch_size=3, on_batch=done.append)
    loss = metrics.pop("contrastive_loss")
    assert loss == pytest.approx(math.log1p(7 * math.exp(-math.exp(2))), rel=1e-5)
    assert metrics == {
        **dict.fromkeys(("top1", "top5"), 1.0),
        **{f"{way}_r{k}": 1.0 for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)},
        "samples": 8.0,
        "skipped": 0.0,
    }
    assert done == [3, 6, 8]
    # Every module is in the mode it was in, frozen parts included.
    assert model.training and model.module.training and not model.module.dropout.training


def test_scores_follow_the_embeddings(tmp_path):
    """Two of eight images are given the wrong row, so two are wrong."""
    order = torch.tensor([1, 0, 2, 3, 4, 5, 6, 7])
    metrics = evaluate(make_model(torch.eye(8)[order], torch.eye(8)), write(tmp_path, labelled()))
    assert metrics["top1"] == 0.75
    assert metrics["image_to_text_r1"] == 0.75


def test_undecodable_images_are_counted(tmp_path):
    samples = labelled()
    samples[2]["png"] = b"\x89PNG\r\n\x1a\nbroken"
    samples[5]["png"] = b"no image at all"
    metrics = evaluate(aligned(), write(tmp_path, samples), batch_size=4)
    assert (metrics["samples"], metrics["skipped"], metrics["top1"]) == (6, 2, 1.0)


def test_without_labels_zero_shot_is_left_out_unless_asked_for(tmp_path):
    source = write(tmp_path, [{"png": s["png"], "txt": s["txt"]} for s in labelled()])
    metrics = evaluate(aligned(), source)
    assert "top1" not in metrics and metrics["text_to_image_r1"] == 1.0
    with pytest.raises(ValueError, match=r"zero_shot was asked for, but no sample .* label"):
        evaluate(aligned(), source, tasks=("zero_shot",))


def test_without_captions_retrieval_is_left_out_unless_asked_for(tmp_path):
    source = write(tmp_path, [{"png": s["png"], "cls": s["cls"]} for s in labelled()])
    assert set(evaluate(aligned(), source)) == {"top1", "top5", "samples", "skipped"}
    with pytest.raises(ValueError, match="retrieval was asked for"):
        evaluate(aligned(), source, tasks=("zero_shot", "retrieval"))


def test_images_without_anything_or_nothing_at_all(tmp_path):
    with pytest.raises(ValueError, match="neither labels nor captions"):
        evaluate(aligned(), write(tmp_path / "bare", [{"png": png(0)}]))
    with pytest.raises(ValueError, match=r"no image .* \(1 skipped\)"):
        evaluate(aligned(), write(tmp_path / "broken", [{"png": b"?", "cls": "alpha"}]))


def test_given_classes_widen_the_choice_and_must_hold_the_labels(tmp_path):
    """Images of one class: trivial among themselves, not among all names."""
    rows = torch.eye(8)[[1, 0, 2, 3, 4, 5, 6, 7]]
    source = write(tmp_path, labelled(NAMES[:1]))
    assert evaluate(make_model(rows, torch.eye(8)), source)["top1"] == 1.0
    widened = evaluate(make_model(rows, torch.eye(8)), source, classes=NAMES)
    assert (widened["top1"], widened["top5"]) == (0.0, 0.0)
    with pytest.raises(ValueError, match="'alpha' is none of the 2 classes; did you mean 'alphas'"):
        evaluate(aligned(), source, classes=("alphas", "beta"))


def test_templates_average_unit_rows(tmp_path):
    """A template whose last word is another name pulls the class vector there, equally."""
    text_rows = torch.eye(8) * torch.tensor([9.0, 1, 1, 1, 1, 1, 1, 1])[:, None]
    source = write(tmp_path, labelled(NAMES[:4]))
    model = make_model(torch.eye(8), text_rows)
    plain = evaluate(model, source, tasks=("zero_shot",))
    mixed = evaluate(model, source, tasks=("zero_shot",), templates=("{}", "{} alpha"))
    # Alpha's vector stays; the others become the middle between theirs and alpha's: still nearest.
    assert plain["top1"] == mixed["top1"] == 1.0
    # Alpha three times: the middle is now nearer to alpha than to their own.
    prompts = ("{}", "{} alpha", "{} alpha", "{} alpha")
    biased = make_model(torch.eye(8), text_rows)
    rows = torch.eye(8)[:, :]
    rows[0, 1] = 1.0
    biased.module.image_rows = rows
    assert evaluate(biased, source, tasks=("zero_shot",), templates=prompts)["top1"] == 0.75


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"templates": ("a photo",)}, "needs {} where the class name goes"),
        ({"templates": ()}, "no text for the class"),
        ({"templates": "photos"}, "no set of templates 'photos'; did you mean 'photo'"),
        ({"tasks": ("zeroshot",)}, "no task 'zeroshot'; did you mean 'zero_shot'"),
        ({"tasks": ()}, "no task ''"),
    ],
)
def test_wrong_arguments(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        evaluate(aligned(), write(tmp_path, labelled()), **change)


def test_named_templates_have_a_place_for_the_name(tmp_path):
    source = write(tmp_path, labelled())
    assert evaluate(aligned(), source, templates="plain")["top1"] == 1.0
    assert all("{}" in prompt for prompts in TEMPLATES.values() for prompt in prompts)
    assert len(TEMPLATES["photo7"]) == 7


def test_a_diverged_model_is_an_error_and_not_a_full_score(tmp_path):
    rows = torch.eye(8)
    rows[3] = torch.nan
    with pytest.raises(ValueError, match="lookup gave embeddings with nan or inf for 1 of 8 imag"):
        evaluate(make_model(rows, torch.eye(8)), write(tmp_path, labelled()))


def test_limit_and_an_iterable_of_samples(tmp_path):
    from reinforced_data.source import open_source

    samples = list(open_source(write(tmp_path, labelled())))
    assert evaluate(aligned(), samples, limit=5)["samples"] == 5
    assert evaluate(aligned(), iter(samples))["samples"] == 8


def test_retention_divides_scores_and_leaves_counts_out():
    student = {"pairs/top1": 0.3, "pairs/top5": 0.2, "top1": 0.1, "pairs/samples": 9.0, "mine": 1.0}
    teacher = {"pairs/top1": 0.4, "pairs/top5": 0.0, "top1": 0.2, "pairs/samples": 9.0}
    assert retention(student, teacher) == pytest.approx(
        {"pairs/top1": 0.75, "pairs/top5": None, "top1": 0.5}
    )
    assert retention(student, None) == {}


def test_random_rows_score_about_chance(tmp_path):
    rng = np.random.default_rng(0)
    rows = torch.from_numpy(rng.normal(size=(8, 64)).astype(np.float32))
    texts = torch.from_numpy(rng.normal(size=(8, 64)).astype(np.float32))
    assert evaluate(make_model(rows, texts), write(tmp_path, labelled()))["top1"] <= 0.5
