"""What training reads: the right rows, one of them per sample, in an order that never changes."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from reinforced_data import Batch, ViewPolicy, open_dataset, reinforce
from reinforced_data.pictures import Picture
from reinforced_data.reading.open_shard import OpenShard
from reinforced_data.reading.order import caption_id
from reinforced_data.source import decode_image, open_source
from reinforced_data.store.arrow_rows import fixed_values
from reinforced_data.store.column_rows import ImageRows
from reinforced_data.testing import TOKENIZER, TinyEncoder, sample, tiny_teacher, write_source
from reinforced_data.views import render_view, sample_view
from teachers import Preprocess

POLICY = ViewPolicy(scale=(0.4, 1.0), num_ops=1)
STUDENT = Preprocess(image_size=12, interpolation="bilinear")


def make_store(folder: Path, teachers: object = None, samples: object = 40, **options) -> str:
    write_source(folder / "source", samples, samples_per_shard=7)
    teachers = [tiny_teacher("one")] if teachers is None else teachers
    settings = {"num_views": 3, "policy": POLICY, "progress": False} | options
    reinforce(folder / "source", folder / "out", teachers=teachers, **settings)
    return str(folder / "out")


def read(path: str, num_steps: int = 8, **options) -> list[Batch]:
    settings = {
        "preprocess": STUDENT,
        "tokenizer": TOKENIZER,
        "batch_size": 10,
        "num_steps": num_steps,
        "window_shards": 2,
    }
    return list(open_dataset(path).loader(**(settings | options)))


def same(first: Batch, second: Batch) -> bool:
    tensors = [
        [b.pixels, b.tokens, b.caption_ids, *(part for t in b.teachers for part in t[:3])]
        for b in (first, second)
    ]
    return first.keys == second.keys and all(
        torch.equal(a, b) for a, b in zip(*tensors, strict=True)
    )


def test_a_batch_holds_the_rows_of_its_views_and_captions(tmp_path):
    """From scratch, for every sample: which view is it, and what do the live teachers say?"""
    sigmoid = tiny_teacher("sigmoid", embed_dim=24, module=TinyEncoder(24, seed=3, sigmoid=True))
    teachers = [tiny_teacher("one", image_size=20), sigmoid]
    path = make_store(tmp_path, teachers, codec="float32")
    images = {s.key: (Picture(s.image), s.captions[0]) for s in open_source(tmp_path / "source")}
    for batch in read(path):
        assert (len(batch.keys), batch.refused) == (10, {})
        for i, key in enumerate(batch.keys):
            image, caption = images[key]
            views = [sample_view(POLICY, 0, key, k, image.width / image.height) for k in range(3)]
            pixels = [render_view(image, view, STUDENT) for view in views]
            (k,) = [k for k in range(3) if (pixels[k] == batch.pixels[i].numpy()).all()]
            torch.testing.assert_close(batch.tokens[i], TOKENIZER([caption])[0])
            assert batch.caption_ids[i] == caption_id(caption)
            for teacher, stored in zip(teachers, batch.teachers, strict=True):
                picture = render_view(image, views[k], teacher.preprocess).copy()
                row = teacher.encode_image(
                    teacher.preprocess.normalize(torch.from_numpy(picture)[None])
                )[0]
                torch.testing.assert_close(stored.image[i], row, atol=1e-6, rtol=0)
                text = teacher.encode_text([caption])[0]
                torch.testing.assert_close(stored.text[i], text, atol=1e-6, rtol=0)
    one, two = batch.teachers
    assert one.logit_bias is None and two.logit_bias.item() == -10
    assert one.logit_scale.item() == pytest.approx(np.exp(3.0), rel=1e-6)


def test_float16_rows_are_unit_rows(tmp_path):
    exact, half = (
        read(make_store(tmp_path / codec, codec=codec), 1)[0] for codec in ("float32", "float16")
    )
    assert exact.keys == half.keys
    rows = half.teachers[0].image
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(10), atol=1e-6, rtol=0)
    assert 0 < (rows - exact.teachers[0].image).abs().max() < 1e-3


def test_all_views_are_seen_before_one_comes_again(tmp_path):
    path = make_store(tmp_path)
    seen: dict[str, set[bytes]] = {}
    for batch in read(path, 12):
        for key, pixels in zip(batch.keys, batch.pixels.numpy(), strict=True):
            seen.setdefault(key, set()).add(pixels.tobytes())
    assert len(seen) == 40
    assert all(len(views) == 3 for views in seen.values())
    first = {p.numpy().tobytes() for b in read(path, 12, views=1) for p in b.pixels}
    assert len(first) == 40


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("start_step", [0, 5])
def test_workers_and_resumption_change_nothing(tmp_path, num_workers, start_step):
    path = make_store(tmp_path)
    wanted = read(path)[start_step:]
    found = read(path, num_workers=num_workers, start_step=start_step)
    assert [b.step for b in found] == list(range(start_step, 8))
    assert [b.epoch for b in found] == [step // 4 for step in range(start_step, 8)]
    assert all(same(a, b) for a, b in zip(wanted, found, strict=True))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_ranks_share_the_batch(tmp_path, num_workers):
    path = make_store(tmp_path)
    whole = read(path, 5)
    parts = [read(path, 5, rank=r, world_size=2, num_workers=num_workers) for r in (0, 1)]
    for batch, left, right in zip(whole, *parts, strict=True):
        assert left.keys + right.keys == batch.keys
        assert torch.equal(torch.cat([left.pixels, right.pixels]), batch.pixels)
        rows = torch.cat([left.teachers[0].image, right.teachers[0].image])
        assert torch.equal(rows, batch.teachers[0].image)
        assert torch.equal(torch.cat([left.caption_ids, right.caption_ids]), batch.caption_ids)


def test_seed_changes_the_order_and_the_dataset_pickles(tmp_path):
    path = make_store(tmp_path)
    assert read(path, 1)[0].keys != read(path, 1, seed=1)[0].keys
    loader = open_dataset(path).loader(
        preprocess=STUDENT, tokenizer=TOKENIZER, batch_size=10, num_steps=4
    )
    first = loader.dataset[2]
    assert same(pickle.loads(pickle.dumps(loader.dataset))[2], first)


def data_file(path: str, kind: str) -> Path:
    (column,) = (Path(path) / "commits").glob(f"{kind}-*")
    return Path(path) / json.loads((column / "00000.json").read_text())["data"]


def test_reading_a_view_reads_one_row(tmp_path):
    """All rows but those of this batch become NaN in the files; the batch is the same."""
    path = make_store(tmp_path, samples=20, num_views=10, codec="float32")
    (before,) = read(path, 1, batch_size=5)
    kept = {row.tobytes() for row in before.teachers[0].image.numpy()}
    store = open_dataset(path).store
    (column,) = store.columns("image_embeddings")
    poisoned = 0
    for shard in range(3):
        commit = store.commit(column, shard)
        values = store.rows(column, shard)["rows"].values.buffers()[1]
        rows = np.frombuffer(values, "<f4")[: commit.rows * 160].reshape(-1, 16).copy()
        poison = np.array([row.tobytes() not in kept for row in rows])
        poisoned += int(poison.sum())
        rows[poison] = np.nan
        start = (Path(path) / commit.data).read_bytes().find(values.to_pybytes())
        with (Path(path) / commit.data).open("r+b") as file:
            file.seek(start)
            file.write(rows.tobytes())
    assert poisoned == 20 * 10 - 5
    (after,) = read(path, 1, batch_size=5)
    assert same(before, after)
    everything = torch.cat([b.teachers[0].image for b in read(path, 40, batch_size=5)])
    assert 0 < everything.isfinite().all(1).sum() < 60


def test_a_row_is_a_slice_of_the_mapped_file(tmp_path):
    dataset = open_dataset(make_store(tmp_path, codec="float16"))
    (teacher,) = dataset.teachers
    batch = dataset.store.rows(teacher.image, 0)
    row = ImageRows(teacher.image, batch, 3).encoded(4, 2)
    assert row.nbytes == 2 * teacher.embed_dim
    assert np.shares_memory(row, fixed_values(batch["rows"], np.dtype("<f2")))
    address = row.__array_interface__["data"][0]
    name = data_file(str(tmp_path / "out"), "image").name
    with open("/proc/self/maps") as maps:
        ranges = [line.split()[0].split("-") for line in maps if name in line]
    assert any(int(low, 16) <= address < int(high, 16) for low, high in ranges)


def test_only_the_image_members_are_read_from_the_source(tmp_path, monkeypatch):
    path = make_store(tmp_path)
    asked = []
    pread = os.pread

    def counting(file: int, size: int, offset: int) -> bytes:
        asked.append((offset, size))
        return pread(file, size, offset)

    monkeypatch.setattr(os, "pread", counting)
    (batch,) = read(path, 1)
    places = {s.key: (s.offset, s.size) for s in open_source(tmp_path / "source")}
    assert sorted(asked) == sorted(places[key] for key in batch.keys)


def test_teachers_are_chosen_by_name(tmp_path):
    teachers = [tiny_teacher("one"), tiny_teacher("two", embed_dim=24)]
    path = make_store(tmp_path, teachers)
    dataset = open_dataset(path)
    assert [(t.name, t.embed_dim, t.kind) for t in dataset.teachers] == [
        ("one", 16, "softmax"),
        ("two", 24, "softmax"),
    ]
    assert dataset.teachers[0].fingerprint == teachers[0].fingerprint
    (batch,) = read(path, 1, teachers=["two"])
    assert [t.image.shape for t in batch.teachers] == [(10, 24)]
    (bare,) = read(path, 1, teachers=())
    assert bare.teachers == () and torch.equal(bare.pixels, batch.pixels)
    with pytest.raises(ValueError, match=r"no teacher 'three'\. Known: one, two"):
        read(path, 1, teachers=["three"])


def test_whole_images_are_for_runs_without_teachers(tmp_path):
    path = make_store(tmp_path)
    (batch,) = read(path, 1, teachers=(), whole_image=True)
    images = {s.key: decode_image(s.image) for s in open_source(tmp_path / "source")}
    for key, pixels in zip(batch.keys, batch.pixels.numpy(), strict=True):
        np.testing.assert_array_equal(pixels, STUDENT.whole_view(images[key]))
    with pytest.raises(ValueError, match="whole_image=True needs teachers"):
        read(path, 1, whole_image=True)


def test_several_captions_take_turns(tmp_path):
    texts = {f"{i:04d}": [f"red {i % 10}", f"blue {i % 10}"] for i in range(20)}
    samples = []
    for i, captions in enumerate(texts.values()):
        content = dict(sample(i, json=json.dumps({"captions": captions})))
        del content["txt"]
        samples.append(content)
    teacher = tiny_teacher()
    path = make_store(tmp_path, [teacher], samples, codec="float32")
    chosen: dict[str, set[str]] = {}
    for batch in read(path, 16):
        for i, key in enumerate(batch.keys):
            (caption,) = [c for c in texts[key] if caption_id(c) == batch.caption_ids[i]]
            torch.testing.assert_close(batch.tokens[i], TOKENIZER([caption])[0])
            text = teacher.encode_text([caption])[0]
            torch.testing.assert_close(batch.teachers[0].text[i], text, atol=1e-6, rtol=0)
            chosen.setdefault(key, set()).add(caption)
    assert all(len(captions) == 2 for captions in chosen.values())


def test_the_store_is_read_over_another_file_system(tmp_path):
    from reinforced_data.store.storage import Storage

    path = make_store(tmp_path)
    memory = Storage("memory://reader-remote")
    for file in tmp_path.rglob("*"):
        if file.is_file():
            memory.write(str(file.relative_to(tmp_path)), file.read_bytes())
    listing = json.loads(memory.read("out/sources.json"))
    for shard in listing["shards"]:
        shard["path"] = f"memory://reader-remote/source/{Path(shard['path']).name}"
    del listing["checksum"]  # edited on purpose
    memory.write("out/sources.json", json.dumps(listing).encode())
    remote = read("memory://reader-remote/out", 3)
    assert all(same(a, b) for a, b in zip(read(path, 3), remote, strict=True))


def test_arguments_are_checked(tmp_path):
    path = make_store(tmp_path)
    for wrong, complaint in (
        ({"batch_size": 41}, "batch of 41"),
        ({"batch_size": 9, "world_size": 2}, "multiple of world_size"),
        ({"rank": 1}, "rank 1 of 1"),
        ({"views": 4}, "views must be 1 to 3"),
    ):
        with pytest.raises(ValueError, match=complaint):
            read(path, 1, **wrong)


def test_columns_of_other_samples_are_noticed(tmp_path):
    path = make_store(tmp_path)
    dataset = open_dataset(path)
    (teacher,) = dataset.teachers
    views = next(c for c in dataset.columns if c.kind == "views")
    (commit,) = (Path(path) / "commits" / views.name).glob("00000.json")
    other = json.loads((commit.parent / "00001.json").read_text())
    del other["checksum"]
    commit.write_text(json.dumps({**other, "shard": 0}))
    with pytest.raises(ValueError, match=f"column {views.name} was written for other samples"):
        open_dataset(path).open_shard(0, [teacher])
    assert isinstance(open_dataset(path).open_shard(1, [teacher]), OpenShard)


def test_batches_move_as_a_whole(tmp_path):
    (batch,) = read(make_store(tmp_path), 1)
    moved = batch.to("meta")
    assert moved.pixels.is_meta and moved.tokens.is_meta and moved.caption_ids.is_meta
    assert all(part.is_meta for part in moved.teachers[0][:3])
    assert (moved.keys, moved.step) == (batch.keys, batch.step)
