"""Resuming, redoing and racing: whatever happens, the store is the one of a clean run."""

import json
import multiprocessing
import os
import shutil
from pathlib import Path

import pytest
import torch

from reinforced_data import ViewPolicy, open_dataset, reinforce
from reinforced_data.shard_walk import shard_order
from reinforced_data.store.commits import Skipped, write_unit
from reinforced_data.store.layout import open_store
from reinforced_data.store.storage import Storage
from reinforced_data.testing import sample, tiny_teacher, write_source

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
    (index,) = store.columns("index")
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


def test_a_store_keeps_its_own_table_of_operations(tmp_path):
    """A later release may order the table otherwise; codes mean what the store says."""
    write_source(tmp_path / "source", 5)
    write(tmp_path / "source", tmp_path / "out", policy=ViewPolicy())
    dataset = open_dataset(tmp_path / "out")
    wanted = [dataset.open_shard(0, ()).views.views(row) for row in range(5)]
    (views,) = (tmp_path / "out" / "columns").glob("views-*.json")
    described = json.loads(views.read_text())
    described["facts"]["operations"].reverse()
    del described["checksum"]
    views.write_text(json.dumps(described))
    (tmp_path / "out" / "commits" / views.stem / "00000.json").unlink()
    write(tmp_path / "source", tmp_path / "out", policy=ViewPolicy())
    found = open_dataset(tmp_path / "out").open_shard(0, ()).views
    assert [found.views(row) for row in range(5)] == wanted


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"num_views": 4}, "num_views is 3, you give 4"),
        ({"seed": 1}, "seed is 0, you give 1"),
        ({"policy": ViewPolicy()}, "another view set"),
        ({"captions_from": "json:x"}, "another set of original captions"),
        ({"codec": "float32"}, "codec is 'int8', you give 'float32'"),
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
