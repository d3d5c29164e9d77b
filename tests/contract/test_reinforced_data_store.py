"""The store on disk: what `reinforce` writes, twice, in parts, and again after a crash."""

import json
import multiprocessing
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from reinforced_data import ViewPolicy, open_dataset, reinforce
from reinforced_data.column_rows import ImageRows, IndexRows, TextRows, ViewRows
from reinforced_data.commits import Skipped, write_unit
from reinforced_data.layout import Store, open_store
from reinforced_data.reinforce import shard_order
from reinforced_data.source import decode_image, open_source
from reinforced_data.storage import Storage
from reinforced_data.testing import sample, tiny_teacher, write_source
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
        image = decode_image(found.image)
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


def test_the_same_command_does_nothing_twice(tmp_path):
    write_source(tmp_path / "source", 12)
    teacher = tiny_teacher()
    write(tmp_path / "source", tmp_path / "out", teacher)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*") if p.is_file()}
    report = write(tmp_path / "source", tmp_path / "out", teacher)
    assert report.shards_already_done == report.shards == 3
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*") if p.is_file()} == before


def test_a_redone_shard_is_an_equal_shard(tmp_path):
    write_source(tmp_path / "source", 12)
    teacher = tiny_teacher()
    write(tmp_path / "source", tmp_path / "out", teacher)
    wanted = contents(tmp_path / "out")
    assert len(wanted) == 15
    for kind in ("image", "text", "views", "index", "captions"):
        (commit,) = (tmp_path / "out" / "commits").glob(f"{kind}-*/00001.json")
        commit.unlink()
        report = write(tmp_path / "source", tmp_path / "out", teacher)
        assert (report.shards_already_done, contents(tmp_path / "out")) == (2, wanted)
    files = list((tmp_path / "out" / "data").rglob("*.arrow"))
    assert len(files) == 15, "files without a commit are removed once there is a commit"


def test_a_column_added_later_is_the_column_written_at_once(tmp_path):
    write_source(tmp_path / "source", 12)
    one, two = tiny_teacher("one"), tiny_teacher("two", embed_dim=24, image_size=20)
    write(tmp_path / "source", tmp_path / "at once", [one, two])
    for teachers in ((), [two], [one], [one, two]):
        write(tmp_path / "source", tmp_path / "step by step", teachers)
    assert contents(tmp_path / "step by step") == contents(tmp_path / "at once")


def _die_at(out: str, source: str, calls: int) -> None:
    torch.set_num_threads(1)
    created = 0
    create = Storage.create

    def dying(self: Storage, path: str, data: bytes) -> bool:
        nonlocal created
        if path.startswith("commits/"):
            created += 1
            if created == calls:
                os._exit(9)
        return create(self, path, data)

    Storage.create = dying
    write(source, out, tiny_teacher())


@pytest.mark.parametrize("calls", [1, 4, 7])
def test_a_kill_between_data_and_commit_leaves_nothing_visible(tmp_path, calls):
    write_source(tmp_path / "source", 12)
    write(tmp_path / "source", tmp_path / "clean", tiny_teacher())
    process = multiprocessing.get_context("fork").Process(
        target=_die_at, args=(str(tmp_path / "out"), str(tmp_path / "source"), calls)
    )
    process.start()
    process.join(60)
    assert process.exitcode == 9
    assert len(contents(tmp_path / "out")) == calls - 1
    assert len(list((tmp_path / "out" / "data").rglob("*.arrow"))) == calls
    write(tmp_path / "source", tmp_path / "out", tiny_teacher())
    assert contents(tmp_path / "out") == contents(tmp_path / "clean")
    assert len(list((tmp_path / "out" / "data").rglob("*.arrow"))) == 15


def test_the_first_commit_wins(tmp_path):
    write_source(tmp_path / "source", 5)
    write(tmp_path / "source", tmp_path / "out")
    store = open_store(tmp_path / "out")
    index = column(store, "index")
    before = store.commit(index, 0)
    late = store.rows(index, 0).slice(0, 2)
    assert write_unit(store.storage, index, 0, late, [Skipped(row=0, key="x", reason="y")]) is None
    assert store.commit(index, 0) == before
    assert [p.name for p in (tmp_path / "out" / "data" / index.name).iterdir()] == [
        Path(before.data).name
    ]


def test_two_writers_at_once_make_one_store(tmp_path):
    write_source(tmp_path / "source", 12, samples_per_shard=2)
    write(tmp_path / "source", tmp_path / "clean", tiny_teacher())
    context = multiprocessing.get_context("fork")
    arguments = (str(tmp_path / "out"), str(tmp_path / "source"), 10**6)
    processes = [context.Process(target=_die_at, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert contents(tmp_path / "out") == contents(tmp_path / "clean")
    assert len(list((tmp_path / "out" / "data").rglob("*.arrow"))) == 30


def test_ranks_begin_at_different_shards_and_all_do_all(monkeypatch):
    orders = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "3")
        orders.append(shard_order(8))
    assert [order[0] for order in orders] == [0, 2, 5]
    assert all(sorted(order) == list(range(8)) for order in orders)


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


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"num_views": 4}, "num_views is 3, you give 4"),
        ({"seed": 1}, "seed is 0, you give 1"),
        ({"policy": ViewPolicy()}, "another view set"),
        ({"captions_from": "json:x"}, "another set of original captions"),
        ({"codec": "float32"}, "codec is 'float16', you give 'float32'"),
        ({"teachers": "other weights"}, "another teacher 'tiny' .* teacher_fingerprint"),
    ],
)
def test_other_settings_are_refused(tmp_path, options, complaint):
    write_source(tmp_path / "source", 5)
    write(tmp_path / "source", tmp_path / "out", tiny_teacher())
    before = contents(tmp_path / "out")
    if "teachers" in options:
        options = {"teachers": tiny_teacher(seed=1)}
    with pytest.raises(ValueError, match=complaint):
        write(tmp_path / "source", tmp_path / "out", **({"teachers": tiny_teacher()} | options))
    assert contents(tmp_path / "out") == before
    assert len(open_store(tmp_path / "out").columns()) == 5


def test_another_source_is_refused(tmp_path):
    shards = write_source(tmp_path / "source", 12)
    write(shards, tmp_path / "out")
    with pytest.raises(ValueError, match="it has 3, you give 2"):
        write(shards[:2], tmp_path / "out")
    with pytest.raises(ValueError, match=r"number 0 is .*00000\.tar, you give .*00001\.tar"):
        write(shards[::-1][1:] + shards[2:], tmp_path / "out")
    with Path(shards[1]).open("ab") as file:
        file.write(bytes(512))
    with pytest.raises(ValueError, match=r"00001\.tar had \d+ bytes, now it has"):
        write(shards, tmp_path / "out")


def test_an_edited_source_is_refused(tmp_path):
    """Of the same length: only the hashes tell."""
    (shard,) = write_source(tmp_path / "source", 5)
    write(shard, tmp_path / "out")
    data = Path(shard).read_bytes()
    Path(shard).write_bytes(data.replace(b"picture of number 3", b"picture of number 9"))
    with pytest.raises(ValueError, match="its captions are not the same"):
        write(shard, tmp_path / "out", tiny_teacher())
    shutil.rmtree(tmp_path / "source")
    write_source(tmp_path / "source", [sample(i) for i in (0, 1, 2, 4, 3)])
    with pytest.raises(ValueError, match="its keys are not the same"):
        write(shard, tmp_path / "out", tiny_teacher())


def test_arguments_are_checked(tmp_path):
    write_source(tmp_path / "source", 5)
    for wrong in ({"num_views": 0}, {"batch_size": 0}, {"codec": "int3"}):
        with pytest.raises(ValueError):
            write(tmp_path / "source", tmp_path / "out", **wrong)
    with pytest.raises(ValueError, match="both named 'tiny'"):
        write(tmp_path / "source", tmp_path / "out", [tiny_teacher(), tiny_teacher(seed=1)])
    with pytest.raises(ValueError, match="not a reinforced dataset"):
        open_dataset(tmp_path)
