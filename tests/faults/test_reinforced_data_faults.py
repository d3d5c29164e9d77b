"""Bad pictures, bad teachers, bad shards: never stored, never trained on, always counted."""

import errno
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from reinforced_data import (
    ClipScore,
    ViewPolicy,
    add_scores,
    audit,
    open_dataset,
    open_source,
    reinforce,
)
from reinforced_data.store.column_rows import ImageRows
from reinforced_data.store.layout import open_store
from reinforced_data.store.storage import Storage
from reinforced_data.testing import (
    TOKENIZER,
    TinyEncoder,
    encoded,
    picture,
    sample,
    tiny_teacher,
    write_source,
)
from teachers import Preprocess

STUDENT = Preprocess(image_size=12, interpolation="bilinear")


def write(folder: Path, teachers: object, **options):
    settings = {"num_views": 2, "batch_size": 4, "progress": False} | options
    return reinforce(folder / "source", folder / "out", teachers=teachers, **settings)


def read(path: Path, num_steps: int = 4, **options) -> list:
    settings = {"batch_size": 2, "num_steps": num_steps, "preprocess": STUDENT}
    return list(open_dataset(path).loader(tokenizer=TOKENIZER, **(settings | options)))


def bad_samples() -> list:
    """Twelve samples, of which six can be trained on."""
    samples = [dict(sample(i)) for i in range(12)]
    samples[1]["png"] = samples[1]["png"][:60]
    samples[3]["png"] = b"not a picture"
    samples[4]["txt"] = "   "
    samples[6]["txt"] = b"\xff\xff"
    samples[8]["png"] = bomb()
    del samples[10]["png"]
    return samples


def bomb() -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (13000, 13000)).save(buffer, "PNG")
    return buffer.getvalue()


REASONS = {
    "undecodable": 1,
    "not-an-image": 1,
    "no-caption": 1,
    "bad-text": 1,
    "too-many-pixels": 1,
    "no-image": 1,
}


def test_bad_samples_are_null_rows_and_counts_add_up(tmp_path):
    write_source(tmp_path / "source", bad_samples())
    teacher = tiny_teacher()
    report = write(tmp_path, teacher)
    assert (report.samples, report.skipped) == (12, REASONS)
    dataset = open_dataset(tmp_path / "out")
    assert dataset.skipped == REASONS
    assert dataset.num_samples + sum(REASONS.values()) == report.samples
    assert len(list(dataset.captions())) == 6
    for column in dataset.columns:
        for shard in range(3):
            rows = dataset.store.rows(column, shard)
            assert rows.num_rows == (5, 5, 2)[shard]
            for name in rows.schema.names:
                good = rows[name].is_valid().to_pylist()
                for row, valid in enumerate(good):
                    number = 5 * shard + row
                    # Sample 4 lacks a caption only: what hangs on its picture is there.
                    null = number in {1, 3, 6, 8, 10} or (
                        number == 4 and column.kind in ("captions", "text_embeddings")
                    )
                    assert valid == (name == "key" or not null), (column.name, name, number)
    keys = {key for batch in read(tmp_path / "out", 30) for key in batch.keys}
    assert keys == {f"{i:04d}" for i in (0, 2, 5, 7, 9, 11)}


class Sick(TinyEncoder):
    """NaN for a picture that is quite red, zero for one that is quite blue."""

    def encode_image(self, images: Tensor, /) -> Tensor:
        rows = super().encode_image(images)
        mean = images.mean((2, 3))
        rows = torch.where((mean[:, 0] > mean[:, 2] + 2.5)[:, None], torch.nan, rows)
        return torch.where((mean[:, 2] > mean[:, 0] + 2.5)[:, None], 0.0, rows)

    def encode_text(self, tokens: Tensor, /) -> Tensor:
        rows = super().encode_text(tokens)
        rows[(tokens == TOKENIZER(["7"])[0, 1]).any(1)] = torch.inf
        return rows


def test_bad_embeddings_are_quarantined(tmp_path):
    samples = [dict(sample(i)) for i in range(12)]
    samples[2]["png"] = encoded(Image.new("RGB", (20, 20), (250, 10, 10)))
    samples[9]["png"] = encoded(Image.new("RGB", (20, 20), (10, 10, 250)))
    write_source(tmp_path / "source", samples)
    healthy = tiny_teacher("healthy")
    sick = tiny_teacher("sick", module=Sick())
    # Operations could cure the pictures.
    report = write(tmp_path, [healthy, sick], policy=ViewPolicy(num_ops=0))
    assert report.skipped == {"non-finite-embedding": 2, "zero-embedding": 1}
    dataset = open_dataset(tmp_path / "out")
    assert dataset.num_samples == 9
    assert open_store(tmp_path / "out").num_shards == 3
    for teacher in dataset.teachers:
        for column in (teacher.image, teacher.text):
            for shard in range(3):
                values = dataset.store.rows(column, shard)["rows"].values
                while hasattr(values, "values"):
                    values = values.values
                assert np.isfinite(values.to_numpy()).all(), "never stored, not even under a null"
    skipped = {
        skip.key
        for column in (dataset.teachers[1].image, dataset.teachers[1].text)
        for shard in range(3)
        for skip in dataset.store.commit(column, shard).skipped
    }
    assert skipped == {"0002", "0009", "0007"}
    keys = {key for batch in read(tmp_path / "out", 30) for key in batch.keys}
    assert not keys & skipped and len(keys) == 9
    alone = {k for b in read(tmp_path / "out", 30, teachers=["healthy"]) for k in b.keys}
    assert len(alone) == 12, "a sick teacher costs the others nothing"


def test_one_bad_view_is_enough(tmp_path):
    class Second(TinyEncoder):
        first = torch.empty(0)

        def encode_image(self, images: Tensor, /) -> Tensor:
            rows = super().encode_image(images)
            if not Second.first.numel():
                Second.first = images.clone()
            if torch.equal(images, Second.first):  # whenever it is tried
                rows[3] = torch.nan
            return rows

    write_source(tmp_path / "source", 5)
    report = write(tmp_path, tiny_teacher(module=Second()), codec="float16")
    assert report.skipped == {"non-finite-embedding": 1}
    store = open_store(tmp_path / "out")
    (column,) = store.columns("image_embeddings")
    rows = ImageRows(column, store.rows(column, 0), 2)
    assert rows.valid.tolist() == [True, False, True, True, True]
    assert all(
        abs(np.linalg.norm(rows.encoded(r, k)) - 1) < 1e-3 for r in (0, 2, 4) for k in (0, 1)
    )


def test_a_changed_image_is_refused_and_counted(tmp_path):
    (path,) = write_source(tmp_path / "source", 4)
    write(tmp_path, tiny_teacher())
    (before,) = read(tmp_path / "out", 1, batch_size=4)
    victim = next(s for s in open_source(path) if s.key == before.keys[1])
    data = bytearray(Path(path).read_bytes())
    data[victim.offset + victim.size - 20] ^= 1
    Path(path).write_bytes(data)
    (after,) = read(tmp_path / "out", 1, batch_size=4)
    assert after.refused == {"image-changed": 1}
    kept = [0, 2, 3]
    assert after.keys == [before.keys[i] for i in kept]
    assert torch.equal(after.pixels, before.pixels[kept])
    assert torch.equal(after.tokens, before.tokens[kept])
    assert torch.equal(after.caption_ids, before.caption_ids[kept])
    assert torch.equal(after.teachers[0].image, before.teachers[0].image[kept])
    assert torch.equal(after.teachers[0].text, before.teachers[0].text[kept])


def test_a_replaced_source_stops_training(tmp_path):
    (path,) = write_source(tmp_path / "source", 4)
    write(tmp_path, tiny_teacher())
    length = Path(path).stat().st_size
    write_source(tmp_path / "source", [sample(i, png=encoded(picture(99))) for i in range(4)])
    with Path(path).open("r+b") as file:
        file.truncate(length)
    with pytest.raises(ValueError, match="every sample of step 0 was refused"):
        read(tmp_path / "out", 1)
    Path(path).unlink()
    with pytest.raises(ValueError, match="cannot be opened"):
        read(tmp_path / "out", 1)


def test_shards_without_a_usable_sample_are_done_too(tmp_path):
    shards = write_source(tmp_path / "source", [sample(i) for i in range(5)])
    write_source(tmp_path / "null", [{"__key__": "k", "txt": "no picture"}])
    with tarfile.open(tmp_path / "empty.tar", "w"):
        pass
    source, out = (
        [*shards, tmp_path / "null" / "00000.tar", tmp_path / "empty.tar"],
        tmp_path / "out",
    )
    settings = {"num_views": 2, "progress": False}
    report = reinforce(source, out, teachers=tiny_teacher(), **settings)
    assert (report.samples, report.shards, report.skipped) == (6, 3, {"no-image": 1})
    assert {len(batch.keys) for batch in read(out, 4)} == {2}
    # They are opened again: by what joins later, by what was stopped in between, by scores.
    both = [tiny_teacher(), tiny_teacher("late", seed=2, embed_dim=12)]
    assert reinforce(source, out, teachers=both, **settings).shards == 3
    (record,) = out.glob("commits/image-*late*/00002.json")
    record.unlink()
    assert reinforce(source, out, teachers=both, **settings).shards == 3 and record.is_file()
    assert add_scores(out, "clip", ClipScore(teacher="late"), progress=False).scored == 5
    assert audit(out, teachers=both).problems == ()


def test_a_source_of_broken_shards_alone_is_an_error(tmp_path):
    (path,) = write_source(tmp_path / "source", 5)
    Path(path).write_bytes(Path(path).read_bytes()[:2048])
    with pytest.raises(ValueError, match="truncated"):
        write(tmp_path, tiny_teacher())


def test_a_lost_or_cut_data_file_is_named(tmp_path):
    write_source(tmp_path / "source", 5)
    write(tmp_path, tiny_teacher())
    (commit,) = (tmp_path / "out" / "commits").glob("image-*/00000.json")
    file = tmp_path / "out" / json.loads(commit.read_text())["data"]
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(ValueError, match="its commit says"):
        read(tmp_path / "out", 1)
    file.unlink()
    with pytest.raises(ValueError, match="missing though it was committed"):
        read(tmp_path / "out", 1)


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "no room"), PermissionError("not yours"), TimeoutError("busy")]
)
def test_a_file_that_cannot_be_read_now_is_not_called_lost(tmp_path, monkeypatch, error):
    write_source(tmp_path / "source", 5)
    write(tmp_path, tiny_teacher())

    def fails(*arguments):
        raise error

    monkeypatch.setattr(Storage, "open_buffer", fails)
    with pytest.raises(type(error)) as raised:
        read(tmp_path / "out", 1)
    assert raised.value is error


def test_newer_formats_and_edited_columns_are_refused(tmp_path):
    write_source(tmp_path / "source", 5)
    write(tmp_path, tiny_teacher())
    (file,) = (tmp_path / "out" / "columns").glob("views-*.json")
    text = file.read_text()
    file.write_text(text.replace('"seed": 0', '"seed": 1'))
    with pytest.raises(ValueError, match="does not match its fingerprint"):
        open_dataset(tmp_path / "out")
    file.write_text(text.replace('"format_version": 1', '"format_version": 2'))
    with pytest.raises(ValueError, match="reads version 1"):
        open_dataset(tmp_path / "out")
