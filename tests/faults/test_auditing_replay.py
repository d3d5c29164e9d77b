"""What a replay says of wrong rows that no checksum sees: each fault is planted, and named."""

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from torch import Tensor

from reinforced_data import ViewPolicy, audit, reinforce
from reinforced_data.auditing.auditing import AuditReport
from reinforced_data.auditing.files import check_files
from reinforced_data.auditing.sources import choose_rows
from reinforced_data.shard_writer import write_shards
from reinforced_data.store.layout import open_store
from reinforced_data.testing import (
    TOKENIZER,
    TinyEncoder,
    encoded,
    picture,
    rewrite_unit,
    sample,
    write_source,
)
from students import StudentSpec, TextSpec, build_student
from teachers import Preprocess, Teacher, load_teacher

LOOK = Preprocess(image_size=16)
SETTINGS = {
    "num_views": 4,
    "policy": ViewPolicy(scale=(0.3, 0.8), num_ops=1, magnitude=0.6),
    "progress": False,
}


def teacher(name: str = "first", *, look: Preprocess = LOOK, module=None, **more) -> Teacher:
    seed = {"first": 1, "second": 2}[name]
    module = module or TinyEncoder(seed=seed)
    return load_teacher(module, name=name, preprocess=look, tokenizer=TOKENIZER, **more)


def samples() -> list[dict]:
    """Two captions each, but for one sample with none and one broken picture."""
    found = []
    for i in range(24):
        words = TOKENIZER.words[i % 5], TOKENIZER.words[(3 * i) % 9]
        texts = [f"a {words[0]} picture of number {i % 10}", f"{words[1]} {i // 3}"]
        texts = json.dumps({"captions": [] if i == 20 else texts})
        found.append({"__key__": f"k{i:02d}", "png": encoded(picture(i)), "json": texts})
    found[3]["png"] = b"no image"
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    write_shards(folder / "source", samples(), samples_per_shard=8)
    reinforce(
        folder / "source", folder / "store", teachers=[teacher(), teacher("second")], **SETTINGS
    )
    return folder


@pytest.fixture
def copy(made, tmp_path) -> Path:
    shutil.copytree(made, tmp_path / "copy")
    return tmp_path / "copy"


def check(copy: Path, *teachers: Teacher, **more) -> AuditReport:
    return audit(copy / "store", teachers=teachers, progress=False, **more)


def found(report: AuditReport, cause: str, *parts: str) -> None:
    """Exactly one finding; it has this cause and says all this."""
    assert len(report.findings) == 1, report.problems
    (finding,) = report.findings
    assert finding.cause == cause, finding.text
    for part in parts:
        assert part in finding.text, finding.text


def take(order: Callable[[int], int]) -> Callable[[pa.RecordBatch], pa.RecordBatch]:
    """Rows that are not null, in another order."""

    def change(batch: pa.RecordBatch) -> pa.RecordBatch:
        valid = [i for i in range(batch.num_rows) if batch[0][i].is_valid]
        places = list(range(batch.num_rows))
        for number, place in enumerate(valid):
            places[place] = valid[order(number) % len(valid)]
        return batch.take(pa.array(places))

    return change


def rows_of(other: Path, column: str, shard: int = 1):
    """The rows of another store, which a fault writes here."""
    store = open_store(other)
    (found,) = [c for c in store.columns() if c.name.startswith(f"{column}-")]
    return lambda batch: store.rows(found, shard)


def test_a_sound_store_agrees_to_the_last_bit_but_one(made):
    report = check(made, teacher(), teacher("second"))
    assert report.ok and report.notes == () and len(report.cosines) == 4
    for agreement in report.cosines.values():
        assert agreement.error < 1e-3 < 0.1 <= agreement.tolerance < 0.11
        assert (agreement.below, agreement.cause) == (0, "")


# ---------------------------------------------------------------------------------- the source


@pytest.mark.parametrize(
    ("change", "how", "what"),
    [
        (lambda image: image.resize((12, 8)), "resized, 24 x 16 to 12 x 8", "the same pictures"),
        (lambda image: image.quantize(64).convert("RGB"), "encoded again", "the same pictures"),
        (lambda image: Image.eval(image, lambda v: 255 - v), "encoded again", "other pictures"),
        (None, "at another place", "0.00 (median)"),
    ],
)
def test_pictures_that_are_not_those_of_then(copy, change, how, what):
    content = samples()[8:16]
    if change is None:
        content = [sample(99), *content]
    else:
        for item in content:
            item["png"] = encoded(change(Image.open(io.BytesIO(item["png"]))))
    write_shards(copy / "new", content, samples_per_shard=100)
    shutil.move(copy / "new" / "00000.tar", copy / "source" / "00001.tar")
    report = check(copy, teacher())
    kinds = [finding.kind for finding in report.findings]
    assert kinds in (["changed-images"], ["changed-source", "changed-images"])
    text = report.problems[-1]
    for part in ("00001.tar", "8 of 8 sampled images", "'k08' first", how, what, "refuses"):
        assert part in text
    without = check(copy).problems[-1]
    assert how in without and "median" not in without


@pytest.mark.parametrize("column", ["views", "captions-original"])
@pytest.mark.parametrize("by", [1, -1])
def test_views_and_captions_off_by_one_need_no_teacher(copy, column, by):
    rewrite_unit(copy / "store", column, take(lambda i: i + by))
    way = "next" if by > 0 else "previous"
    found(check(copy), "shifted", f"belongs to the {way} sample", "shard 1", column)
    # The embeddings are those of then, and not to blame.
    found(check(copy, teacher()), "shifted", column)


def test_views_of_another_seed(copy, tmp_path):
    reinforce(copy / "source", tmp_path / "other", teachers=(), seed=5, **SETTINGS)
    rewrite_unit(copy / "store", "views", rows_of(tmp_path / "other", "views"))
    found(check(copy), "unexplained", "seed and policy give others")


# ------------------------------------------------------------------------------- the embeddings


@pytest.mark.parametrize("column", ["image-first", "text-first"])
@pytest.mark.parametrize(("by", "what"), [(1, "by one"), (-1, "by one"), (3, "by 3")])
def test_rows_shifted(copy, column, by, what):
    rewrite_unit(copy / "store", column, take(lambda i: i + by))
    assert check(copy).ok
    report = check(copy, teacher())
    way = "previous" if by > 0 else "next"
    found(report, "shifted", column, f"shifted {what}", way, "shards 1)")
    assert report.findings[0].units == [(report.findings[0].column, 1)]


def test_views_in_another_order(copy):
    def backwards(batch: pa.RecordBatch) -> pa.RecordBatch:
        rows = batch["rows"]
        values = rows.values.to_numpy().reshape(len(rows), 4, -1)[:, ::-1].reshape(-1)
        turned = pa.FixedSizeListArray.from_arrays(
            pa.array(values, rows.type.value_type), type=rows.type
        )
        return pa.RecordBatch.from_arrays([turned, batch["norms"]], names=["rows", "norms"])

    rewrite_unit(copy / "store", "image-first", backwards)
    found(check(copy, teacher()), "reordered", "views", "0 is 3", "1 is 2", "2 is 1", "3 is 0")


class BlueFirst(TinyEncoder):
    """Reads pictures as OpenCV does, then normalises."""

    def encode_image(self, images: Tensor, /) -> Tensor:
        mean, std = (torch.tensor(v)[:, None, None] for v in (LOOK.mean, LOOK.std))
        return super().encode_image(((images * std + mean).flip(1) - mean) / std)


class Mirrored(TinyEncoder):
    """Sees every view the wrong way round."""

    def encode_image(self, images: Tensor, /) -> Tensor:
        return super().encode_image(images.flip(3))


IMAGENET = replace(LOOK, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
HALF = replace(LOOK, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
PLAIN = replace(LOOK, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("wrong", "cause", "what"),
    [
        ({"look": HALF}, "preprocessing", "mean and std 0.5"),
        ({"look": PLAIN}, "preprocessing", "pixels in 0..1"),
        ({"module": BlueFirst(seed=1)}, "preprocessing", "blue and red swapped (BGR)"),
        (
            {"module": BlueFirst(seed=1), "look": replace(HALF, interpolation="bilinear")},
            "unexplained",
            "nothing",
        ),
        ({"module": Mirrored(seed=1)}, "augmentation", "mirrored"),
    ],
)
def test_another_preprocessing(copy, tmp_path, wrong, cause, what):
    """Rows that such a teacher wrote, under the name of the right one."""
    reinforce(copy / "source", tmp_path / "other", teachers=teacher(**wrong), **SETTINGS)
    rewrite_unit(copy / "store", "image-first", rows_of(tmp_path / "other", "image-first"))
    found(check(copy, teacher()), cause, what)


def test_small_differences_are_told_apart_with_a_narrow_tolerance(copy, tmp_path):
    """ImageNet's mean and std are nearly OpenAI's, and two filters nearly one."""
    for look, what in (
        (IMAGENET, "ImageNet's mean and std"),
        (replace(LOOK, interpolation="bilinear"), "bilinear resizing"),
        (replace(IMAGENET, interpolation="bilinear"), "ImageNet's mean and std, bilinear resizing"),
    ):
        out = tmp_path / what
        reinforce(copy / "source", out, teachers=teacher(look=look), **SETTINGS)
        rewrite_unit(copy / "store", "image-first", rows_of(out, "image-first"))
        found(check(copy, teacher(), max_error=0.002), "preprocessing", f"preprocessing: {what}.")


class Letters:
    """A tokenizer of letters, to which capitals matter; `change` is done to each text first."""

    context_length, vocab_size = 48, TOKENIZER.vocab_size

    def __init__(self, change: Callable[[str], str] = str) -> None:
        self.change = change

    def __call__(self, texts):
        tokens = torch.zeros(len(texts), self.context_length, dtype=torch.int64)
        for row, text in zip(tokens, texts, strict=True):
            letters = self.change(text).encode()[: self.context_length]
            row[: len(letters)] = torch.tensor([1 + letter % 19 for letter in letters])
        return tokens

    def config(self):
        return {"type": "letters"}


@pytest.mark.parametrize(
    ("change", "cause", "what"),
    [
        (str.lower, "preprocessing", "the texts were embedded in lower case"),
        ("a photo of a {}".format, "preprocessing", "in the template 'a photo of a ...'"),
        ("an oil painting of {}".format, "unexplained", "nothing"),
    ],
)
def test_texts_that_were_embedded_otherwise(tmp_path, change, cause, what):
    """Rows of changed texts, under the name of a teacher that reads them as they are."""
    words = ("Red", "GREEN", "Blue", "Dark", "LIGHT")
    texts = [f"{words[i % 5]} Picture {chr(65 + i)} {chr(90 - i) * (i % 4)}" for i in range(16)]
    write_source(tmp_path / "source", [sample(i, txt=text) for i, text in enumerate(texts)])

    def reads(tokenizer: Letters) -> Teacher:
        module = TinyEncoder(seed=1)
        return load_teacher(module, name="first", preprocess=LOOK, tokenizer=tokenizer)

    for folder, tokenizer in (("store", Letters()), ("other", Letters(change))):
        reinforce(tmp_path / "source", tmp_path / folder, teachers=reads(tokenizer), **SETTINGS)
    rewrite_unit(tmp_path / "store", "text-first", rows_of(tmp_path / "other", "text-first"))
    found(check(tmp_path, reads(Letters())), cause, what)


def test_whole_pictures_in_place_of_views(copy, tmp_path):
    policy = ViewPolicy(scale=(1.0, 1.0), ratio=(1.5, 1.5), num_ops=0)
    wrong = {**SETTINGS, "policy": policy}
    reinforce(copy / "source", tmp_path / "other", teachers=teacher(), **wrong)
    rewrite_unit(copy / "store", "image-first", rows_of(tmp_path / "other", "image-first"))
    found(check(copy, teacher()), "augmentation", "the whole picture was embedded")


def test_swapped_teachers(copy):
    first = rows_of(copy / "store", "image-first")(None)
    second = rows_of(copy / "store", "image-second")(None)
    kept = [pa.RecordBatch.from_pydict(b.to_pydict(), schema=b.schema) for b in (first, second)]
    rewrite_unit(copy / "store", "image-first", lambda _: kept[1])
    found(check(copy, teacher()), "swapped", "its rows are those of the column image-second")
    rewrite_unit(copy / "store", "image-second", lambda _: kept[0])
    found(check(copy, teacher()), "swapped", "in the column image-second", "were swapped")
    both = check(copy, teacher(), teacher("second"))
    assert [finding.cause for finding in both.findings] == ["swapped", "swapped"]


def test_random_rows_are_said_to_be_unexplained(copy):
    def random_rows(batch: pa.RecordBatch) -> pa.RecordBatch:
        kind = batch["rows"].type
        values = np.random.default_rng(0).integers(-127, 128, (8, kind.list_size), np.int8)
        rows = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), type=kind)
        return pa.RecordBatch.from_arrays([rows, batch["norms"]], names=["rows", "norms"])

    rewrite_unit(copy / "store", "image-first", random_rows)
    found(check(copy, teacher()), "unexplained", "shards 1)")


# ----------------------------------------------------------------------------------- precision


def test_another_precision_is_noted_and_no_problem(made):
    report = check(made, teacher(precision="bf16"))
    assert report.ok and report.problems == ()
    (note,) = report.notes
    assert "precision was fp32, is bf16" in note and "as it should be" in note
    assert all(0 < agreement.error < 0.1 for agreement in report.cosines.values())


def test_the_teacher_of_another_look_names_the_look_of_then(made):
    report = check(made, teacher(look=HALF))
    found(
        report, "preprocessing", "mean was [0.48145466", "is [0.5, 0.5, 0.5]", "the one it records"
    )


@pytest.fixture(scope="module")
def larger(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("larger")
    write_source(folder, 300, samples_per_shard=150)
    return folder


@pytest.mark.parametrize("codec", ["float32", "bfloat16", "int8", "int4", "pq64"])
def test_each_codec_has_the_tolerance_it_needs(larger, tmp_path, codec):
    """Exact rows pass, those of bf16 weights pass, shifted ones do not."""
    wide = TinyEncoder(64, seed=1)
    settings = {"codec": codec, "num_views": 1, "progress": False}
    reinforce(larger, tmp_path / "store", teachers=teacher(module=wide), **settings)
    exact = check(tmp_path, teacher(module=wide))
    assert exact.ok, exact.problems
    assert check(tmp_path, teacher(module=wide, precision="bf16")).ok
    rewrite_unit(tmp_path / "store", "image-first", take(lambda i: i + 1))
    found(check(tmp_path, teacher(module=wide)), "shifted", "image-first")


def test_an_untrained_tower_s_rows_are_alike_and_told_apart(tmp_path):
    """Every cosine is above 0.99: a bound on cosines would see nothing."""
    torch.manual_seed(0)
    spec = StudentSpec(
        image="smallconv-4",
        text=TextSpec(width=16, layers=1, heads=2, context_length=8),
        embed_dim=16,
        image_size=16,
    )
    narrow = load_teacher(build_student(spec, tokenizer=TOKENIZER, name="narrow"))
    write_shards(tmp_path / "source", samples(), samples_per_shard=8)
    reinforce(tmp_path / "source", tmp_path / "store", teachers=narrow, codec="float32", **SETTINGS)
    assert check(tmp_path, narrow).ok
    rewrite_unit(tmp_path / "store", "image-narrow", take(lambda i: i + 1))
    report = check(tmp_path, narrow)
    found(report, "shifted", "image-narrow")
    (agreement,) = [a for a in report.cosines.values() if a.below]
    assert agreement.minimum > 0.99 and agreement.error > 0.5


# ------------------------------------------------------------------------------------ the draw


def test_samples_are_drawn_by_seed_over_all_shards(made):
    found = check_files(open_store(made / "store"))
    draws = [choose_rows(found, {0, 1, 2}, 6, seed) for seed in range(8)]
    assert draws == [choose_rows(found, {0, 1, 2}, 6, seed) for seed in range(8)]
    assert len({str(draw) for draw in draws}) == 8
    assert {shard for draw in draws for shard in draw} == {0, 1, 2}
    assert all(sum(map(len, draw.values())) == 6 for draw in draws)
    report = check(made, teacher(), replay=6)
    assert {agreement.samples for agreement in report.cosines.values()} <= {5, 6}
