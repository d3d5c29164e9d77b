"""The store on disk: what `reinforce` writes, twice, in parts, and again after a crash."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from reinforced_data import ViewPolicy, open_dataset, reinforce
from reinforced_data.pictures import Picture
from reinforced_data.source import open_source
from reinforced_data.store.column_rows import ImageRows, IndexRows, TextRows, ViewRows
from reinforced_data.store.layout import Store, open_store
from reinforced_data.store.storage import Storage
from reinforced_data.testing import TinyEncoder, sample, tiny_teacher, write_source
from reinforced_data.views import render_view, sample_view
from teachers import Teacher

POLICY = ViewPolicy(scale=(0.4, 1.0), num_ops=1)


def write(source: object, out: object, teachers: object = (), **options: object):
    settings = {"num_views": 3, "policy": POLICY, "batch_size": 4, "progress": False} | options
    return reinforce(source, out, teachers=teachers, **settings)


def contents(out: Path) -> dict[str, tuple]:
    """What two equal stores share: data hashes, rows, skip reasons; not attempts and times."""
    found = {}
    for path in sorted((out / "commits").rglob("*.json")):
        commit = json.loads(path.read_text())
        name = f"{commit['column']}/{commit['shard']}"
        found[name] = (commit["sha256"], commit["rows"], str(commit["skipped"]))
    return found


def column(store: Store, kind: str, teacher: str | None = None):
    (found,) = [
        c for c in store.columns(kind) if teacher is None or c.identity["teacher"] == teacher
    ]
    return found


def test_layout_is_design_section_3(tmp_path):
    write_source(tmp_path / "source", 12)
    report = write(tmp_path / "source", tmp_path / "out", [tiny_teacher("A teacher")])
    out = tmp_path / "out"
    assert sorted(p.name for p in out.iterdir()) == ["columns", "commits", "data", "sources.json"]
    names = sorted(p.stem for p in (out / "columns").iterdir())
    assert [n.rsplit("-", 1)[0] for n in names] == [
        "captions-original",
        "image-a-teacher",
        "index",
        "text-a-teacher",
        "views",
    ]
    for name in names:
        described = json.loads((out / "columns" / f"{name}.json").read_text())
        assert name.endswith("-" + described["fingerprint"][:8])
        for shard in range(3):
            commit = json.loads((out / "commits" / name / f"{shard:05d}.json").read_text())
            assert (out / commit["data"]).stat().st_size == commit["num_bytes"]
            assert commit["data"].startswith(f"data/{name}/{shard:05d}.")
            assert commit["rows"] == (2 if shard == 2 else 5)
            with pa.memory_map(str(out / commit["data"])) as file:
                assert pa.ipc.open_file(file).num_record_batches == 1
    assert not list(out.rglob("*.tmp"))
    data_bytes = sum(p.stat().st_size for p in (out / "data").rglob("*.arrow"))
    assert (report.samples, report.shards, report.bytes) == (12, 3, data_bytes)
    assert (report.skipped, report.failed, report.shards_already_done) == ({}, {}, 0)


def test_rows_are_what_the_teacher_says(tmp_path):
    """Each stored row, from scratch: decode, draw, render, embed."""
    write_source(tmp_path / "source", 7)
    teachers = [
        tiny_teacher("one", embed_dim=16, image_size=16),
        tiny_teacher("two", embed_dim=24, image_size=20, seed=5),
    ]
    write(tmp_path / "source", tmp_path / "out", teachers, codec="float32", seed=9)
    store = open_store(tmp_path / "out")
    samples = list(open_source(tmp_path / "source"))
    for number, found in enumerate(samples):
        shard, row = divmod(number, 5)
        index = IndexRows(store.rows(column(store, "index"), shard))
        assert (index.keys[row], index.offsets[row]) == (found.key, found.offset)
        stored = ViewRows(column(store, "views"), store.rows(column(store, "views"), shard))
        image = Picture(found.image)
        for k in range(3):
            view = sample_view(POLICY, 9, found.key, k, image.width / image.height)
            kept = tuple(op for op in view.ops if op[0] != "identity")
            assert (stored.view(row, k).crop, stored.view(row, k).ops) == (view.crop, kept)
            for teacher in teachers:
                check_rows(
                    store, shard, row, k, teacher, render_view(image, view, teacher.preprocess)
                )
        for teacher in teachers:
            text = column(store, "text_embeddings", teacher.name)
            rows = TextRows(text, store.rows(text, shard))
            wanted = teacher.encode_text([found.captions[0]])[0].numpy()
            np.testing.assert_allclose(rows.encoded(row, 0), wanted, atol=1e-6)


def check_rows(store: Store, shard: int, row: int, k: int, teacher: Teacher, pixels: np.ndarray):
    image = column(store, "image_embeddings", teacher.name)
    rows = ImageRows(image, store.rows(image, shard), 3)
    inputs = teacher.preprocess.normalize(torch.from_numpy(pixels.copy())[None])
    raw = teacher.module.encode_image(inputs)[0].detach()
    np.testing.assert_allclose(rows.encoded(row, k), (raw / raw.norm()).numpy(), atol=1e-6)
    assert rows.norm(row, k) == pytest.approx(raw.norm().item(), rel=1e-5)


def test_without_teachers_there_is_all_that_undistilled_training_needs(tmp_path):
    write_source(tmp_path / "source", 12)
    write(tmp_path / "source", tmp_path / "out")
    store = open_store(tmp_path / "out")
    assert sorted(c.kind for c in store.columns()) == ["captions", "index", "views"]
    dataset = open_dataset(tmp_path / "out")
    assert (dataset.num_samples, dataset.teachers, dataset.num_views) == (12, (), 3)
    assert sorted(dataset.captions()) == sorted(
        c for s in open_source(tmp_path / "source") for c in s.captions
    )


def test_several_captions_and_equal_captions(tmp_path):
    texts = [["a red picture", "number 1"], ["a red picture"], ["number 1", "a blue a", "red"]]
    samples = [sample(i, txt="", json=json.dumps({"captions": t})) for i, t in enumerate(texts)]
    for content in samples:
        del content["txt"]
    write_source(tmp_path / "source", samples)
    teacher = tiny_teacher()
    write(tmp_path / "source", tmp_path / "out", teacher, codec="float32")
    store = open_store(tmp_path / "out")
    text = column(store, "text_embeddings")
    rows = TextRows(text, store.rows(text, 0))
    for row, captions in enumerate(texts):
        for number, caption in enumerate(captions):
            wanted = teacher.encode_text([caption])[0].numpy()
            np.testing.assert_allclose(rows.encoded(row, number), wanted, atol=1e-6)


class Counting(TinyEncoder):
    """Remembers how much it was given at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.images, self.texts = [], []

    def encode_image(self, images: Tensor, /) -> Tensor:
        self.images.append(len(images))
        return super().encode_image(images)

    def encode_text(self, tokens: Tensor, /) -> Tensor:
        self.texts.append(len(tokens))
        return super().encode_text(tokens)


def test_batches_are_filled_across_images_and_equal_captions_are_embedded_once(tmp_path):
    samples = [sample(number, txt=f"one of text {number % 3}") for number in range(10)]
    write_source(tmp_path / "source", samples, samples_per_shard=10)
    teacher = tiny_teacher(module=Counting())
    module = teacher.module  # its own copy
    module.images.clear()
    module.texts.clear()
    write(tmp_path / "source", tmp_path / "out", teacher, batch_size=8)
    assert module.images == [8, 8, 8, 6], "thirty views of ten pictures"
    assert module.texts == [1, 3], "one to learn the width, then each different one"
    assert open_dataset(tmp_path / "out").num_samples == 10


def test_a_store_may_move_with_its_source(tmp_path):
    write_source(tmp_path / "here" / "source", 5)
    write(tmp_path / "here" / "source", tmp_path / "here" / "out")
    shutil.move(tmp_path / "here", tmp_path / "there")
    (shard,) = open_store(tmp_path / "there" / "out").sources
    assert shard == str(tmp_path / "there" / "source" / "00000.tar")
    report = write(tmp_path / "there" / "source", tmp_path / "there" / "out")
    assert report.shards_already_done == 1


def test_a_store_on_another_file_system(tmp_path):
    memory = Storage("memory://reinforced-remote")
    for shard in write_source(tmp_path / "source", 7):
        memory.write(f"source/{Path(shard).name}", Path(shard).read_bytes())
    write(tmp_path / "source", tmp_path / "local", tiny_teacher())
    write(
        "memory://reinforced-remote/source/*.tar", "memory://reinforced-remote/out", tiny_teacher()
    )
    remote = open_store("memory://reinforced-remote/out")
    assert remote.sources[0] == "memory:///reinforced-remote/source/00000.tar"
    for found in open_store(tmp_path / "local").columns():
        for shard in range(2):
            local_commit = open_store(tmp_path / "local").commit(found, shard)
            remote_commit = remote.commit(found, shard)
            assert local_commit.sha256 == remote_commit.sha256
