"""A disk that is full, a folder that cannot be written: said plainly, nothing lost, resumable."""

import contextlib
import ctypes
import io
import json
import multiprocessing
import os
import resource
import shutil
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch

from distill.cli import main
from distill.testing import in_a_process
from reinforced_data import ViewPolicy, audit, reinforce
from reinforced_data.store.storage import Storage
from reinforced_data.testing import tiny_teacher, write_source

SETTINGS = {"num_views": 2, "policy": ViewPolicy(num_ops=1), "batch_size": 4, "progress": False}


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("source")
    write_source(folder, 60, samples_per_shard=20)
    return str(folder)


@pytest.fixture(scope="module")
def calm(source, tmp_path_factory) -> dict[str, tuple]:
    out = tmp_path_factory.mktemp("calm") / "store"
    reinforce(source, out, teachers=tiny_teacher(), **SETTINGS)
    return hashes(out)


def hashes(out: Path) -> dict[str, tuple]:
    commits = [json.loads(path.read_text()) for path in sorted((out / "commits").rglob("*.json"))]
    return {f"{c['column']}/{c['shard']}": (c["sha256"], str(c["skipped"])) for c in commits}


def assert_calm(out: Path, calm: dict[str, tuple]) -> None:
    assert hashes(out) == calm and audit(out).problems == ()
    assert len(list((out / "data").rglob("*.*"))) == len(calm), "nothing is left over"


def write(source: str, out: str, said: str) -> None:
    """Reinforce; end with 1 after an error, whose text is left in `said`."""
    torch.set_num_threads(1)
    try:
        reinforce(source, out, teachers=tiny_teacher(), **SETTINGS)
    except OSError as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        Path(said).write_text(str(error))
        os._exit(1)


def write_with_a_limit(source: str, out: str, said: str, limit: int, after: int) -> None:
    """No file may be larger than `limit` once `after` files are written."""
    written = 0
    original = Storage._write_temporary

    def counted(self: Storage, path: str, data: bytes) -> str:
        nonlocal written
        written += 1
        if written == after:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        return original(self, path, data)

    Storage._write_temporary = counted
    write(source, out, said)


@pytest.mark.parametrize(
    ("limit", "after", "kind"),
    [(10, 1, "sources.json"), (10, 4, "columns"), (1500, 12, "data"), (10, 18, "commits")],
)
def test_a_full_disk(source, calm, tmp_path, limit, after, kind):
    out, said = tmp_path / "store", tmp_path / "said"
    assert in_a_process(write_with_a_limit, source, str(out), str(said), limit, after) == 1
    told = said.read_text()
    assert told.startswith(f"{out}/{kind}") and "cannot be written (File too large)" in told
    assert "bytes are needed" in told and "whole: make room and give the same command" in told
    before = hashes(out)
    assert before.items() < calm.items()
    assert not [path for path in out.rglob("*.tmp")]
    assert len(list((out / "data").rglob("*.*"))) == len(before), "no file without a record"
    assert in_a_process(write, source, str(out), str(said)) == 0
    assert hashes(out).items() >= before.items()
    assert_calm(out, calm)


MS_NOSUID, MS_PRIVATE, MS_REC, MS_REMOUNT, MS_RDONLY = 2, 1 << 18, 1 << 14, 32, 1
CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000
CANNOT_MOUNT = 77


def mount(folder: str, options: str, flags: int = 0) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tmpfs", folder.encode(), b"tmpfs", MS_NOSUID | flags, options.encode()) != 0:
        raise PermissionError(ctypes.get_errno(), "mount")


def own_mounts() -> None:
    """Make mounts that nobody else sees, as root or as anybody where the system lets anybody."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS) != 0 and libc.unshare(CLONE_NEWNS | CLONE_NEWUSER) != 0:
        raise PermissionError(ctypes.get_errno(), "unshare")
    libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None)


def command(*arguments: str) -> tuple[int, str]:
    """Run `distill` in this process; return the exit code and what it said on stderr."""
    with contextlib.redirect_stderr(io.StringIO()) as said:
        code = main(arguments)
    return code, said.getvalue()


def fill_a_small_disk(source: str, disk: str, kept: str) -> None:
    try:
        own_mounts()
        mount(disk, "size=96k")
    except PermissionError:
        os._exit(CANNOT_MOUNT)
    said = Path(kept, "said")
    asked = ("reinforce", source, f"{disk}/store")
    code, told = command(*asked)
    assert code == 1 and "No space left on device" in told, (code, told)
    said.write_text(told)
    shutil.copytree(f"{disk}/store", f"{kept}/full")
    mount(disk, "size=4m", MS_REMOUNT)
    assert command(*asked)[0] == 0
    shutil.copytree(f"{disk}/store", f"{kept}/store")
    mount(disk, "size=4m", MS_REMOUNT | MS_RDONLY)
    assert command(*asked)[0] == 0, "there is nothing left to write"
    code, told = command("reinforce", source, f"{disk}/other")
    assert code == 2 and "Read-only file system" in told and "Give another folder" in told


def test_a_small_disk_then_a_larger_and_a_read_only_one(tmp_path):
    """The command line on a file system of 96 kB, then of 4 MB, then one that is read-only."""
    source, disk = tmp_path / "source", tmp_path / "disk"
    disk.mkdir()
    write_source(source, 400, samples_per_shard=40)
    code = in_a_process(fill_a_small_disk, str(source), str(disk), str(tmp_path))
    if code == CANNOT_MOUNT:
        pytest.skip("this system lets this user mount nothing")
    assert code == 0
    assert main(["reinforce", str(source), str(tmp_path / "calm")]) == 0
    calm = hashes(tmp_path / "calm")
    told = " ".join((tmp_path / "said").read_text().split())
    assert "error:" in told and "Traceback" not in told and "bytes are needed" in told
    assert hashes(tmp_path / "full").items() < calm.items()
    assert hashes(tmp_path / "store") == calm


def write_as_nobody(source: str, out: str, said: Connection) -> None:
    if os.geteuid() == 0:  # who may write anywhere
        os.setgid(65534)
        os.setuid(65534)
    try:
        reinforce(source, out, teachers=tiny_teacher(), **SETTINGS)
    except PermissionError as error:
        said.send(str(error))
        os._exit(2)
    said.send("")


@pytest.mark.parametrize("done", [0, 2, 3])
def test_a_folder_that_may_not_be_written(source, done):
    """A new store, one of which two shards are done, and a finished one, which needs no writing."""
    with tempfile.TemporaryDirectory() as name:  # where anybody may look
        folder = Path(name)
        folder.chmod(0o755)
        shutil.copytree(source, folder / "source")
        out = folder / "store"
        if done:
            reinforce(folder / "source", out, teachers=tiny_teacher(), **SETTINGS)
            for record in out.glob("commits/*/*.json"):
                if int(record.stem) >= done:
                    record.unlink()
        before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o555)
        heard, said = multiprocessing.Pipe(duplex=False)
        code = in_a_process(write_as_nobody, str(folder / "source"), str(out), said)
        assert heard.poll(0), f"it ended with {code}"
        told = heard.recv()
        folder.chmod(0o755)
        for path in folder.rglob("*"):
            path.chmod(0o755)
        assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
    if done == 3:
        assert (code, told) == (0, "")
    else:
        assert code == 2 and told.startswith(str(out)), told
        assert "cannot be written (Permission denied): this process may not write there" in told
