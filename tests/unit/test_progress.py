"""Progress of stores and runs is read from their folders, while they are being written."""

import json
import threading
import time

import fsspec
import pytest

from distill.cli.status import duration
from distill.progress import run_progress
from reinforced_data import reinforce
from reinforced_data.store.progress import store_progress
from reinforced_data.testing import sample, tiny_teacher, write_source


def write(folder, **options):
    settings = {"teachers": tiny_teacher(), "num_views": 2, "progress": False}
    return reinforce(folder / "source", folder / "store", **(settings | options))


def set_times(store, column, times):
    """Say when the shards of a column were committed; those without a time are taken away."""
    for shard, path in enumerate(sorted(store.glob(f"commits/{column}-*/*.json"))):
        if shard not in times:
            path.unlink()
            continue
        record = json.loads(path.read_text()) | {"written": times[shard]}
        record.pop("checksum", None)
        path.write_text(json.dumps(record))


def column(progress, prefix):
    return next(column for column in progress.columns if column.name.startswith(prefix))


def test_rate_and_time_left_follow_the_commits(tmp_path):
    write_source(tmp_path / "source", 10, samples_per_shard=1)
    write(tmp_path, teachers=())
    store = tmp_path / "store"
    # Two early ones, a night's pause, then one every 20 seconds; four are missing.
    set_times(store, "views", {0: 0.0, 1: 10.0, 2: 50_000.0, 3: 50_020.0, 4: 50_040.0, 5: 50_060.0})
    progress = store_progress(store, now=50_090.0)
    views = column(progress, "views")
    assert (views.shards, views.rows) == (6, 6)
    assert views.rows_per_second == pytest.approx(1 / 20)
    # The shards are of nearly one size.
    assert views.seconds_left == pytest.approx(80, rel=0.1)
    assert progress.seconds_left == views.seconds_left and not progress.complete
    assert progress.shards_done == 6 and progress.samples == 10
    index = column(progress, "index")
    assert (index.shards, index.seconds_left) == (10, 0.0)
    set_times(store, "views", {0: 50_000.0})
    assert column(store_progress(store), "views").seconds_left is None
    assert store_progress(store).seconds_left is None


def test_what_was_left_out_and_cut_is_told(tmp_path):
    samples = [sample(0), sample(1, txt=b"\xff"), sample(2, png=b"no"), sample(3, txt=" ")]
    shards = write_source(tmp_path / "source", [*samples, *map(sample, range(4, 9))])
    with open(shards[1], "r+b") as file:
        file.truncate(8 * 512)
    write(tmp_path)
    progress = store_progress(tmp_path / "store")
    wanted = {"bad-text": 1, "not-an-image": 1, "no-caption": 1, "truncated-shard": 1}
    assert progress.skipped == wanted and progress.complete
    assert progress.cut_shards == (shards[1],)
    assert column(progress, "captions").skipped == {"no-caption": 1}


def test_a_store_is_watched_while_it_is_written(tmp_path):
    write_source(tmp_path / "source", 20, samples_per_shard=1)
    write(tmp_path, teachers=(), num_views=2)
    writer = threading.Thread(target=write, args=(tmp_path,))
    writer.start()
    seen = []
    while writer.is_alive():
        seen.append(store_progress(tmp_path / "store"))
        time.sleep(0.02)
    writer.join()
    done = [sum(column.shards for column in progress.columns) for progress in seen]
    assert done == sorted(done) and len(set(done)) > 3, "it was watched at work"
    assert store_progress(tmp_path / "store").complete


def test_a_remote_store_without_its_source(tmp_path):
    write_source(tmp_path / "source", 6)
    write(tmp_path)
    remote = fsspec.filesystem("memory")
    remote.put(str(tmp_path / "store"), "/progress-test/store", recursive=True)
    progress = store_progress("memory://progress-test/store")
    assert progress.complete and progress.samples == 6
    with pytest.raises(ValueError, match="is not a reinforced dataset"):
        store_progress("memory://progress-test/nothing")


def test_a_run_on_its_way(tmp_path):
    config = {"schedule": {"num_steps": 100}, "data": {"batch_size": 8}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert run_progress(tmp_path).step == 0
    records = [
        {"step": 10, "loss/total": 3.0, "loss/affinity": 1.0, "samples_per_second": 40.0},
        {"step": 10, "held/top1": 0.25, "held/samples": 9.0},
        {"step": 20, "loss/total": 2.0, "loss/affinity": 0.5, "samples_per_second": 40.0},
    ]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (tmp_path / "log.jsonl").write_text(lines + '{"step": 30, "loss/to')
    for name in ("step-00000010", "step-00000020", "partial-00000030-7"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    progress = run_progress(tmp_path)
    assert (progress.step, progress.num_steps, progress.finished) == (20, 100, False)
    assert (progress.steps_per_second, progress.seconds_left) == (5.0, 16.0)
    assert (progress.checkpoint, progress.loss) == (20, {"total": 2.0, "affinity": 0.5})
    assert (progress.metrics["held/top1"], progress.metrics_step) == (0.25, 10)
    assert progress.seconds_since_record is not None and progress.seconds_since_record < 600


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "?"),
        (0.0, "0 s"),
        (89.0, "89 s"),
        (90.0, "2 min"),
        (19_200.0, "5 h 20 min"),
        (2e5, "2 d 7 h"),
    ],
)
def test_durations_are_for_people(seconds, text):
    assert duration(seconds) == text
