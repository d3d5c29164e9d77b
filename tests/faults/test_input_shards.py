"""Shards that are cut, tangled or hostile: whole samples are kept, the others counted, none run."""

import io
import json
import os
import pickle
import tarfile
from pathlib import Path

import pytest

from reinforced_data import open_dataset, open_source, reinforce
from reinforced_data.sample_texts import MAX_TEXT_BYTES
from reinforced_data.shard_reader import BrokenShard, scan_shard
from reinforced_data.testing import encoded, picture, sample, tiny_teacher, write_source

PNG = encoded(picture(0))


def make_tar(path: Path, members: list[tuple[str, bytes]]) -> str:
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return str(path)


def scan(path: object) -> list[tuple[str, str | None]]:
    return [(found.key, found.problem) for found in scan_shard(str(path))]


def write(folder: Path):
    return reinforce(
        folder / "source", folder / "out", teachers=tiny_teacher(), num_views=2, progress=False
    )


def cut_shard(path: str, where: str) -> None:
    """Cut a shard of five samples of two members at, or in, its fourth sample."""
    with tarfile.open(path) as tar:
        png, txt = tar.getmembers()[6:8]
    offset = {
        "between samples": png.offset,
        "between the members of a sample": txt.offset,
        "in a header": png.offset + 100,
        "in a picture": png.offset_data + 10,
        "in a text": txt.offset_data + 3,
        "in the padding of a text": txt.offset_data + txt.size + 7,
    }[where]
    os.truncate(path, offset)


@pytest.mark.parametrize(
    ("where", "last"),
    [
        ("between samples", "byte"),
        ("between the members of a sample", "0003"),
        ("in a header", "byte"),
        ("in a picture", "byte"),
        ("in a text", "0003"),
        ("in the padding of a text", "0003 is whole"),
    ],
)
def test_whole_samples_before_a_cut_are_kept(tmp_path, where, last):
    (path,) = write_source(tmp_path, 5)
    cut_shard(path, where)
    *whole, (key, problem) = scan(path)
    count = 4 if last.endswith("whole") else 3
    assert whole == [(f"{number:04d}", None) for number in range(count)]
    assert problem == "truncated-shard" and key.startswith("byte" if count == 4 else last)
    source = open_source(path)
    assert [found.captions[0][:2] for found in source] == ["a "] * count
    assert source.skipped == {"truncated-shard": 1}


def test_what_follows_a_broken_header_is_counted_as_broken(tmp_path):
    (path,) = write_source(tmp_path, 5)
    with tarfile.open(path) as tar:
        offset = tar.getmembers()[6].offset
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(b"\x01" * 20)
    assert scan(path)[-1] == (f"byte {offset}", "broken-shard") and len(scan(path)) == 4


@pytest.mark.parametrize("size", [-512, -1536])
def test_a_negative_size_is_no_endless_loop(tmp_path, size):
    """CVE-2025-8194: tarfile goes back by a negative size, and reads on for ever."""
    whole = Path(write_source(tmp_path, 2)[0]).read_bytes()[: -10240 % 512 or None]
    with tarfile.open(tmp_path / "00000.tar") as tar:
        end = tar.getmembers()[-1].offset_data + 512
    header = bytearray(tarfile.TarInfo("0009.png").tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" + (256**11 + size).to_bytes(11, "big")
    header[148:156] = b"%06o\0 " % (256 + sum(header[:148]) + sum(header[156:512]))
    (tmp_path / "00000.tar").write_bytes(whole[:end] + bytes(header) + bytes(4096))
    assert scan(tmp_path / "00000.tar")[2:] == [(f"byte {end}", "broken-shard")]


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>404</html>", b"\x1f\x8b" + bytes(2000), bytes(100)],
    ids=["empty file", "a web page", "compressed", "zeros"],
)
def test_what_is_no_tar_is_named(tmp_path, content):
    path = tmp_path / "00000.tar"
    path.write_bytes(content)
    with pytest.raises(BrokenShard, match=r"00000\.tar is truncated or not an unc.*Fetch or pack"):
        scan(path)


@pytest.mark.parametrize("where", ["in a text", "between samples"])
def test_a_truncated_shard_in_a_store_and_its_mending(tmp_path, where):
    shards = write_source(tmp_path / "source", 12)
    whole = Path(shards[1]).read_bytes()
    cut_shard(shards[1], where)
    report = write(tmp_path)
    assert (report.samples, report.shards, report.failed) == (5 + 4 + 2, 3, {})
    assert report.skipped == {"truncated-shard": 1}
    assert open_dataset(tmp_path / "out").num_samples == 10
    with open(shards[0], "ab") as file:
        file.write(bytes(512))
    with pytest.raises(ValueError, match=r"00000\.tar had .* bytes, now it has"):
        write(tmp_path)
    os.truncate(shards[0], Path(shards[0]).stat().st_size - 512)
    Path(shards[1]).write_bytes(whole)
    report = write(tmp_path)
    assert (report.samples, report.shards_already_done, report.skipped) == (12, 2, {})
    assert open_dataset(tmp_path / "out").num_samples == 12


def test_an_unreadable_shard_leaves_the_others_and_is_tried_again(tmp_path, capsys):
    shards = write_source(tmp_path / "source", 12)
    whole = Path(shards[1]).read_bytes()
    Path(shards[1]).write_bytes(b"")
    report = write(tmp_path)
    assert list(report.failed) == [shards[1]] and report.samples == 7
    assert "empty file" in capsys.readouterr().err.replace("\n", " ")
    assert set(open_dataset(tmp_path / "out").missing.values()) == {1}
    Path(shards[1]).write_bytes(whole)
    report = write(tmp_path)
    assert (report.samples, report.failed) == (12, {})


def test_tangled_keys_are_counted_by_their_kind(tmp_path):
    members = [("0.png", PNG), ("0.txt", b"a"), ("1.png", PNG), ("2.png", PNG), ("1.txt", b"late")]
    members += [
        ("2.txt", b"late"),
        ("0.png", PNG),
        ("0.txt", b"b"),
        ("3.txt", b"x"),
        ("3.txt", b"x"),
    ]
    members += [("3.png", PNG), ("4.png", PNG), ("4.png", PNG), ("5.png", PNG), ("5.txt", b"c")]
    path = make_tar(tmp_path / "a.tar", members)
    assert scan(path) == [
        ("0", None),
        ("1", None),
        ("2", None),
        ("1", "interleaved-key"),
        ("2", "interleaved-key"),
        ("0", "duplicate-key"),
        ("3", "duplicate-member"),
        ("4", "duplicate-member"),
        ("5", None),
    ]
    report = reinforce(path, tmp_path / "out", teachers=(), num_views=1, progress=False)
    # The separated pictures stand without their captions, and so cannot be trained on either.
    assert report.skipped.pop("no-caption") == 2
    dataset = open_dataset(tmp_path / "out")
    assert dataset.num_samples == 2 and set(dataset.captions()) == {"a", "c"}
    assert report.samples == 9 == dataset.num_samples + 2 + sum(report.skipped.values())


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
)
@pytest.mark.parametrize("extension", ["png", "txt"])
def test_links_and_devices_are_refused_and_counted(tmp_path, kind, extension):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for name in ("0.png", "0.txt", "1.png", "1.txt"):
            info = tarfile.TarInfo(name)
            if name == f"0.{extension}":
                info.type, info.linkname = kind, "/etc/passwd"
            else:
                info.size = len(PNG) if name.endswith("png") else 1
            tar.addfile(info, io.BytesIO(PNG if name.endswith("png") else b"x"))
    assert scan(path) == [("0", "link-or-device"), ("1", None)]


@pytest.mark.parametrize("name", ["../../up", "/etc/cron.d/job", "a/../../b", "C:\\boot", "nul\nl"])
def test_names_are_opaque_and_never_paths(tmp_path, name):
    (tmp_path / "source").mkdir()
    make_tar(tmp_path / "source" / "a.tar", [(f"{name}.png", PNG), (f"{name}.txt", b"a cat")])
    before = sorted(tmp_path.parent.rglob("*"))
    assert scan(tmp_path / "source" / "a.tar") == [(name, None)]
    report = write(tmp_path)
    assert (report.samples, report.skipped) == (1, {})
    new = set(tmp_path.parent.rglob("*")) - set(before)
    assert all((tmp_path / "out") in (path, *path.parents) for path in new)


class Payload:
    """Unpickling this makes a folder."""

    def __init__(self, sentinel: Path) -> None:
        self.sentinel = str(sentinel)

    def __reduce__(self):
        return os.mkdir, (self.sentinel,)


@pytest.mark.parametrize(
    "extension", ["pyd", "pkl", "pickle", "pth", "pt", "npy", "txt", "json", "png"]
)
def test_no_member_is_unpickled_or_run(tmp_path, extension):
    sentinel = tmp_path / "ran"
    members = {"png": PNG, "txt": "a cat", extension: pickle.dumps(Payload(sentinel))}
    pickle.loads(members[extension])
    sentinel.rmdir()
    (tmp_path / "source").mkdir()
    write_source(tmp_path / "source", [sample(0), {"__key__": "k", **members}])
    report = write(tmp_path)
    assert not sentinel.exists(), "the payload ran"
    reason = {"txt": "bad-text", "json": "bad-text", "png": "not-an-image"}.get(extension)
    assert (report.samples, report.skipped) == (2, {reason: 1} if reason else {})


@pytest.mark.parametrize(
    ("member", "content", "reason"),
    [
        ("txt", bytes(MAX_TEXT_BYTES + 1), "text-too-large"),
        ("json", b" " * (MAX_TEXT_BYTES + 1), "text-too-large"),
        ("cls", bytes(MAX_TEXT_BYTES + 1), "text-too-large"),
        ("txt", "caf\u00e9".encode("latin-1"), "bad-text"),
        ("txt", "cat".encode("utf-16"), "bad-text"),
        ("json", b'{"caption": "half a character \\ud800"}', "bad-text"),
        ("json", b'{"caption": "a", "label": "\\udfff"}', "bad-text"),
        ("json", b"[" * 100_000, "bad-text"),
        ("json", b'{"caption": ' + b"9" * 10_000 + b"}", "bad-text"),
        ("json", b"{", "bad-text"),
    ],
    ids=[
        "long txt",
        "long json",
        "long cls",
        "latin-1",
        "utf-16",
        "surrogate caption",
        "surrogate label",
        "nested json",
        "huge number",
        "half a json",
    ],
)
def test_texts_that_cannot_be_used_are_counted(tmp_path, member, content, reason):
    bad = {"__key__": "bad", "png": PNG, member: content}
    write_source(tmp_path / "source", [sample(0), bad, sample(2)])
    report = write(tmp_path)
    assert (report.samples, report.skipped) == (3, {reason: 1})
    (index,) = (tmp_path / "out" / "commits").glob("index-*/00000.json")
    assert json.loads(index.read_text())["skipped"] == [{"row": 1, "key": "bad", "reason": reason}]


def test_a_giant_text_is_not_even_read(tmp_path):
    """A sparse file: reading the member would take 8 GiB of memory."""
    header = tarfile.TarInfo("0.txt")
    header.size = 8 << 30
    with open(tmp_path / "a.tar", "wb") as file:
        file.write(header.tobuf(tarfile.GNU_FORMAT))
        file.seek(header.size, os.SEEK_CUR)
        with tarfile.open(fileobj=(rest := io.BytesIO()), mode="w") as tar:
            for name in ("0.png", "1.png", "1.txt"):
                info = tarfile.TarInfo(name)
                info.size = len(PNG) if name.endswith("png") else 1
                tar.addfile(info, io.BytesIO(PNG if name.endswith("png") else b"x"))
        file.write(rest.getvalue())
    assert scan(tmp_path / "a.tar") == [("0", "text-too-large"), ("1", None)]
