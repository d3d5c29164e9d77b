"""Source and store elsewhere: in memory, and on an S3 server that answers real requests."""

import contextlib
import json
import os
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
import torch

from distill.cli import main
from distill.testing import in_a_process
from reinforced_data import ViewPolicy, audit, open_dataset, reinforce
from reinforced_data.auditing.files import check_files
from reinforced_data.auditing.progress_file import ProgressFile
from reinforced_data.store.layout import Store, create_store, open_store
from reinforced_data.store.storage import Storage
from reinforced_data.testing import TOKENIZER, tiny_teacher, write_source
from teachers import Preprocess

SETTINGS = {"num_views": 2, "policy": ViewPolicy(num_ops=1), "batch_size": 4, "progress": False}
STUDENT = Preprocess(image_size=12, interpolation="bilinear")
KEYS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
}


def contents(url: str) -> dict[str, tuple]:
    """What two equal stores share."""
    store = open_store(url)
    commits = [store.commit(c, n) for c in store.columns() for n in store.done(c)]
    return {f"{c.column}/{c.shard}": (c.sha256, c.rows, c.skipped) for c in commits if c}


def all_files(url: str) -> list[str]:
    fs, root = fsspec.core.url_to_fs(url)
    fs.invalidate_cache()
    return fs.find(root)


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> Path:
    """A source and a store of it, as they are on a disk."""
    folder = tmp_path_factory.mktemp("local")
    write_source(folder / "source", 12, samples_per_shard=4)
    reinforce(folder / "source", folder / "store", teachers=tiny_teacher(), **SETTINGS)
    return folder


def upload(local: Path, url: str) -> str:
    fs, root = fsspec.core.url_to_fs(url)
    for path in sorted((local / "source").iterdir()):
        fs.pipe_file(f"{root}/source/{path.name}", path.read_bytes())
    return f"{url}/source"


def batches(url: str, workers: int = 0) -> list[tuple]:
    loader = open_dataset(url).loader(
        batch_size=4, preprocess=STUDENT, tokenizer=TOKENIZER, num_workers=workers, num_steps=3
    )
    return [(b.keys, b.pixels.sum().item(), b.teachers[0].image.sum().item()) for b in loader]


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    try:
        yield "http://{}:{}".format(*server.get_host_and_port())
    finally:
        server.stop()


@pytest.fixture
def s3(monkeypatch) -> Iterator[str]:
    pytest.importorskip("s3fs", reason="s3fs is in the dev extra")
    pytest.importorskip("moto", reason="moto is in the dev extra")
    with s3_server() as endpoint:
        for name, value in {**KEYS, "AWS_ENDPOINT_URL": endpoint}.items():
            monkeypatch.setenv(name, value)
        fsspec.core.url_to_fs("s3://bucket")[0].__class__.clear_instance_cache()
        bucket = f"bucket-{uuid.uuid4().hex[:8]}"  # servers of one process share their buckets
        fsspec.core.url_to_fs(f"s3://{bucket}")[0].mkdir(bucket)
        yield f"s3://{bucket}"


def test_in_memory(local):
    url = "memory://here"
    source = upload(local, url)
    report = reinforce(source, f"{url}/store", teachers=tiny_teacher(), **SETTINGS)
    assert report.shards == 3 and contents(f"{url}/store") == contents(str(local / "store"))
    again = reinforce(source, f"{url}/store", teachers=tiny_teacher(), **SETTINGS)
    assert again.shards_already_done == 3
    assert audit(f"{url}/store", teachers=tiny_teacher()).problems == ()
    assert batches(f"{url}/store") == batches(str(local / "store"))


@pytest.mark.parametrize("read", ["commit", "hashed_buffer"])
def test_a_server_that_fails_is_no_damage(local, monkeypatch, read):
    """A repair would embed again what it thinks is damaged."""
    url = f"memory://{uuid.uuid4().hex}"
    reinforce(upload(local, url), f"{url}/store", teachers=tiny_teacher(), **SETTINGS)

    def fails(*arguments):
        raise TimeoutError("the server is busy")

    monkeypatch.setattr(Store if read == "commit" else Storage, read, fails)
    with pytest.raises(TimeoutError, match="busy"):
        audit(f"{url}/store", progress=False)


def test_on_s3(local, s3, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source, store = upload(local, s3), f"{s3}/store"
    assert main(["reinforce", source, store, "--num-views", "2", "--policy.num-ops", "1"]) == 0
    reinforce(source, store, teachers=tiny_teacher(), **SETTINGS)
    assert contents(store) == contents(str(local / "store"))
    # Two files a unit, one a column, and the list of sources; nobody is at work.
    assert len(all_files(store)) == 2 * 5 * 3 + 5 + 1
    assert audit(store, teachers=tiny_teacher()).problems == ()
    # An audit that is interrupted knows the files again by what the server says of them.
    for before in (0, 3):
        kept = ProgressFile(tmp_path / "kept")
        check_files(open_store(store), progress_file=kept)
        kept.close()
        assert (kept.read_before, kept.read) == (before, 3)
    assert main(["status", store, "--json"]) == 0
    assert json.loads(capsys.readouterr().out.partition("\n{")[2].join(["{", ""]))["complete"]
    assert batches(store) == batches(str(local / "store"))


def test_the_first_of_two_wins(s3):
    one, two = Storage(f"{s3}/folder"), Storage(f"{s3}/folder")
    assert one.create("a/file", b"one") and not two.create("a/file", b"two")
    assert two.read("a/file") == b"one" and two.list("a", "") == ["file"]
    assert one.claim("a/note", b"one") and not two.claim("a/note", b"two")
    one.remove("a/file")
    assert not two.exists("a/file") and two.list("a", "") == ["note"]


def test_an_answer_that_is_lost_is_no_other_writer(s3):
    """The put arrives, its answer does not: the request is sent again and finds its own file."""
    storage = Storage(f"{s3}/folder")
    storage.create("record", b"mine")
    assert storage.create("record", b"mine") and not storage.create("record", b"another's")


class NoConditions:
    """An S3 server that knows no conditional put, by its own answer."""

    def __init__(self, fs):
        self.fs = fs

    def __getattr__(self, name):
        return getattr(self.fs, name)

    def pipe_file(self, path, data, mode="overwrite"):
        if mode == "create":
            raise OSError(38, "A header you provided implies functionality not implemented")
        self.fs.pipe_file(path, data)


class IgnoresConditions(NoConditions):
    """One that takes the header for nothing and puts."""

    def pipe_file(self, path, data, mode="overwrite"):
        self.fs.pipe_file(path, data)


@pytest.mark.parametrize("server", [NoConditions, IgnoresConditions])
def test_a_server_without_conditional_puts(server):
    url = f"memory://{uuid.uuid4().hex}"

    def of_another_process() -> Storage:
        storage = Storage(url)
        storage._fs = server(storage.fs)
        return storage

    storage = of_another_process()
    for name in ("record", "after"):
        assert storage.create(name, b"mine") and storage.create(name, b"mine")
        assert not storage.create(name, b"another's")
        assert not of_another_process().create(name, b"another's")
        assert storage.read(name) == b"mine"


def test_another_source_is_refused_where_conditions_are_ignored(tmp_path, monkeypatch):
    shards = write_source(tmp_path, 4, samples_per_shard=2)
    original = Storage.fs
    monkeypatch.setattr(
        Storage, "fs", property(lambda self: IgnoresConditions(original.fget(self)))
    )
    url = f"memory://{uuid.uuid4().hex}"
    create_store(url, shards)
    with pytest.raises(ValueError, match=r"was made from other source shards: number 0"):
        create_store(url, shards[::-1])
    assert open_store(url).sources == shards


def test_a_broken_connection_says_nothing_of_conditions():
    class Breaks(NoConditions):
        puts = 0

        def pipe_file(self, path, data, mode="overwrite"):
            Breaks.puts += 1
            if Breaks.puts == 2:
                raise ConnectionResetError
            self.fs.pipe_file(path, data, mode=mode)

    storage = Storage(f"memory://{uuid.uuid4().hex}")
    storage._fs = Breaks(storage.fs)
    assert storage.create("one", b"1") and Breaks.puts == 2
    assert storage.create("two", b"2") and Breaks.puts == 4, "tried again"
    assert storage.create("three", b"3") and Breaks.puts == 5, "known"


def write_and_die(environment: dict[str, str], source: str, store: str, event: int) -> None:
    """Reinforce; SIGKILL this process at the given request to the server."""
    os.environ.update(environment)
    torch.set_num_threads(1)
    seen = 0
    original = Storage.write

    def counted(self: Storage, path: str, data: bytes) -> None:
        nonlocal seen
        seen += 1
        original(self, path, data)
        if seen == event:
            os.kill(os.getpid(), signal.SIGKILL)

    Storage.write = counted
    reinforce(source, store, teachers=tiny_teacher(), **SETTINGS)


@pytest.mark.slow
def test_killed_twice_and_run_again_on_s3(local, s3):
    source, store = upload(local, s3), f"{s3}/store"
    environment = {**KEYS, "AWS_ENDPOINT_URL": os.environ["AWS_ENDPOINT_URL"]}
    for event in (3, 5):
        code = in_a_process(write_and_die, environment, source, store, event)
        assert code == -signal.SIGKILL
    assert contents(store).items() < contents(str(local / "store")).items()
    assert any("/attempts/" in path for path in all_files(store))
    reinforce(source, store, teachers=tiny_teacher(), **SETTINGS)
    assert contents(store) == contents(str(local / "store"))
    assert len(all_files(store)) == 2 * 5 * 3 + 5 + 1, "an attempt and its data are removed"
