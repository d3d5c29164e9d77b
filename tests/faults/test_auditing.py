"""`audit` on a real store: silent when all is well, one named problem for each planted fault."""

import hashlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from distill.cli import main
from reinforced_data import ViewPolicy, reinforce
from reinforced_data.auditing.auditing import AuditReport, audit
from reinforced_data.shard_writer import write_shards
from reinforced_data.store.arrow_rows import from_ipc, to_ipc
from reinforced_data.store.layout import Store, open_store
from teachers import Preprocess, Teacher, WordTokenizer, load_teacher

WORDS = [f"w{letter}" for letter in "abcdefghijkl"]


class Towers(nn.Module):
    """Random projections: of 4 x 4 pixels, and of words."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.image = nn.Parameter(torch.randn(48, 24, generator=generator))
        self.words = nn.Parameter(torch.randn(64, 24, generator=generator))
        self.logit_scale = nn.Parameter(torch.tensor(3.0))

    def encode_image(self, images: Tensor, /) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(images, 4).flatten(1) @ self.image

    def encode_text(self, tokens: Tensor, /) -> Tensor:
        return self.words[tokens].sum(1)


def make_teacher(name: str, seed: int, size: int = 16) -> Teacher:
    return load_teacher(
        Towers(seed),
        name=name,
        preprocess=Preprocess(image_size=size),
        tokenizer=WordTokenizer.fit(WORDS, context_length=6),
    )


def png(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (20, 20, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def teachers() -> list[Teacher]:
    return [make_teacher("first", 1), make_teacher("second", 2, size=12)]


@pytest.fixture(scope="module")
def made(tmp_path_factory, teachers) -> Path:
    """A folder with a source of 3 shards (two samples unusable, one without text) and its store."""
    folder = tmp_path_factory.mktemp("made")
    samples = []
    for i in range(24):
        text = f"{WORDS[i % 12]} {WORDS[(i * 5 + 1) % 12]}"
        samples.append({"__key__": f"k{i:02d}", "png": png(i), "txt": text})
    samples[3]["png"] = b"no image"
    samples[12]["png"] = b"\x89PNG\r\n\x1a\nbroken"
    samples[20]["txt"] = ""
    write_shards(folder / "source", samples, samples_per_shard=8)
    reinforce(
        folder / "source",
        folder / "store",
        teachers=teachers,
        num_views=3,
        policy=ViewPolicy(scale=(0.5, 1.0)),
        progress=False,
    )
    return folder


@pytest.fixture
def copy(made, tmp_path) -> Path:
    """A copy of source and store that a test may break; the store finds its source beside it."""
    shutil.copytree(made, tmp_path / "copy")
    return tmp_path / "copy"


def commit_file(copy: Path, kind: str, shard: int = 1) -> Path:
    (folder,) = (copy / "store" / "commits").glob(f"{kind}-*")
    return folder / f"{shard:05d}.json"


def data_file(copy: Path, kind: str, shard: int = 1) -> Path:
    return copy / "store" / json.loads(commit_file(copy, kind, shard).read_text())["data"]


def edit_commit(copy: Path, kind: str, shard: int = 1, **changes: object) -> None:
    path = commit_file(copy, kind, shard)
    record = {**json.loads(path.read_text()), **changes}
    record.pop("checksum", None)  # a fault that it cannot see
    path.write_text(json.dumps(record))


def rewrite(
    copy: Path, kind: str, change: Callable[[pa.RecordBatch], pa.RecordBatch], shard: int = 1
) -> None:
    """Replace a data file and its checksum: a fault that checksums cannot see."""
    path = data_file(copy, kind, shard)
    batch = change(from_ipc(pa.py_buffer(path.read_bytes()), str(path)))
    data = bytes(to_ipc(batch))
    path.write_bytes(data)
    sha256 = hashlib.sha256(data).hexdigest()
    edit_commit(copy, kind, shard, sha256=sha256, num_bytes=len(data))


def shifted(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Every row takes its neighbour's place."""
    order = pa.array([*range(1, batch.num_rows), 0])
    return batch.take(order).replace_schema_metadata(batch.schema.metadata)


def shifted_among_valid(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The same, but null rows stay where they are."""
    rows = [i for i in range(batch.num_rows) if batch["rows"][i].is_valid]
    order = list(range(batch.num_rows))
    for place, source in zip(rows, [*rows[1:], rows[0]], strict=True):
        order[place] = source
    return batch.take(pa.array(order)).replace_schema_metadata(batch.schema.metadata)


def only(report: AuditReport, *parts: str) -> None:
    """There is exactly one problem, and it says all this."""
    assert not report.ok
    assert len(report.problems) == 1, report.problems
    for part in parts:
        assert part in report.problems[0]


def test_a_sound_store(made, teachers):
    report = audit(made / "store", teachers=teachers)
    assert report.problems == () and report.ok
    counts = report.counts
    assert (counts["shards"], counts["samples"], counts["columns"]) == (3, 24, 7)
    assert counts["usable"] + counts["skipped"] == counts["samples"]
    assert (counts["skipped"], counts["members"], counts["files"]) == (2, 22, 21)
    files = [path for path in (made / "store" / "data").rglob("*.arrow")]
    assert counts["bytes"] == sum(path.stat().st_size for path in files)
    assert len(report.cosines) == 4
    for agreement in report.cosines.values():
        assert agreement.minimum > 0.9999 and agreement.below == 0
    texts = next(a for name, a in report.cosines.items() if name.startswith("text-first"))
    assert texts.samples == 21
    captions = next(c for c in report.columns if c.kind == "captions")
    assert (captions.rows, captions.null_rows, captions.skipped) == (24, 3, {"no-caption": 1})
    json.dumps(report.to_json())
    assert {row["shards"] for row in report.table()} == {"3/3"}


def test_without_teachers_and_with_few_samples(made):
    report = audit(made / "store", replay=5)
    assert report.ok and report.cosines == {} and report.counts["members"] == 5
    assert audit(made / "store", replay=0).ok


def test_nothing_is_written(made, teachers):
    def state():
        return {p: p.stat().st_mtime_ns for p in sorted(made.rglob("*"))}

    before = state()
    audit(made / "store", teachers=teachers)
    assert state() == before


@pytest.mark.parametrize("kind", ["index", "views", "captions", "image-first", "text-second"])
def test_a_flipped_byte(copy, teachers, kind):
    path = data_file(copy, kind)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    only(audit(copy / "store", teachers=teachers), path.name, "sha256", "Delete", "run the same")


@pytest.mark.parametrize("damage", ["gone", "empty", "cut"])
def test_a_data_file_that_is_not_whole(copy, teachers, damage):
    path = data_file(copy, "image-first")
    content = path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes(content[: len(content) // 2] if damage == "cut" else b"")
    found = "missing" if damage == "gone" else "sha256"
    only(audit(copy / "store", teachers=teachers), path.name, found, "Delete")


def test_a_shard_that_is_not_committed(copy):
    commit_file(copy, "text-first", 2).unlink()
    only(audit(copy / "store"), "text-first", "lacks 1 of 3 shards (2)", "reinforce command again")


def test_another_teacher(made):
    """Same name and sizes, other weights."""
    other = make_teacher("first", 9)
    report = audit(made / "store", teachers=other)
    only(report, "first", other.fingerprint[:12], "second (", "precision")
    assert report.cosines == {}


def test_a_model_that_is_no_teacher(made):
    from teachers import ClipModel

    plain = ClipModel(
        Towers(1),
        name="plain",
        preprocess=Preprocess(image_size=16),
        tokenizer=WordTokenizer.fit(WORDS, context_length=6),
    )
    with pytest.raises(ValueError, match=r"plain is a ClipModel without a fingerprint"):
        audit(made / "store", teachers=plain)


@pytest.mark.parametrize("column", ["image-first", "text-second"])
def test_rows_off_by_one(copy, teachers, column):
    """The file is whole and its checksum right; only a live teacher notices."""
    rewrite(copy, column, lambda batch: batch)
    assert audit(copy / "store", teachers=teachers).ok
    rewrite(copy, column, shifted_among_valid)
    assert audit(copy / "store").ok
    report = audit(copy / "store", teachers=teachers)
    only(report, column, "shards 1)", "rows are shifted by one", "--repair")
    assert report.findings[0].cause == "shifted"
    agreement = next(a for name, a in report.cosines.items() if name.startswith(column))
    assert agreement.below >= 5 and agreement.minimum < 0.9


def test_nulls_off_by_one_are_noticed_without_a_teacher(copy):
    rewrite(copy, "image-first", shifted)
    only(audit(copy / "store"), "image-first", "do not fit their commit")


def test_a_changed_image(copy, teachers):
    shard = copy / "source" / "00001.tar"
    data = bytearray(shard.read_bytes())
    place = data.index(png(10))
    data[place : place + len(png(10))] = png(11)[: len(png(10))].ljust(len(png(10)), b"\0")
    shard.write_bytes(data)
    only(audit(copy / "store", teachers=teachers), "'k10'", "00001.tar", "Training refuses")


def test_a_source_shard_that_is_gone_or_rewritten(copy, teachers):
    (copy / "source" / "00002.tar").unlink()
    only(
        audit(copy / "store", teachers=teachers), "00002.tar", "cannot be reached", "holds no image"
    )
    shutil.copy(copy / "source" / "00000.tar", copy / "source" / "00002.tar")
    with (copy / "source" / "00002.tar").open("ab") as file:
        file.write(bytes(10240))
    report = audit(copy / "store", teachers=teachers)
    assert "bytes, and had" in report.problems[0]
    assert any("are not the ones that were reinforced" in problem for problem in report.problems)


def test_a_row_that_is_skipped_but_there(copy):
    skip = {"row": 2, "key": "k10", "reason": "undecodable"}
    record = json.loads(commit_file(copy, "image-first").read_text())
    edit_commit(copy, "image-first", skipped=[*record["skipped"], skip])
    only(audit(copy / "store"), "image-first", "row 2, sample 'k10', is skipped but not null")
    edit_commit(copy, "image-first", skipped=[{**skip, "key": "k11"}])
    only(audit(copy / "store"), "skips row 2 as sample 'k11', which is not that row's sample")


def test_a_null_without_a_reason(copy):
    edit_commit(copy, "index", skipped=[])
    report = audit(copy / "store")
    assert any("index" in p and "null without a reason" in p for p in report.problems)


def test_rows_of_another_shard(copy):
    """Copied over with its checksum: the keys' digest tells."""
    other = json.loads(commit_file(copy, "image-first", 2).read_text())
    taken = {name: other[name] for name in ("data", "sha256", "num_bytes", "rows", "skipped")}
    edit_commit(copy, "image-first", **taken)
    only(audit(copy / "store"), "other samples than the index of shard 1")


def test_fewer_rows_than_the_index(copy):
    rewrite(copy, "text-first", lambda b: b.slice(0, 7))
    edit_commit(copy, "text-first", rows=7)
    only(audit(copy / "store"), "has 7 rows, the index of shard 1 has 8")


def test_another_schema(copy):
    def renamed(batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch.rename_columns(["vectors", "norms"]).replace_schema_metadata(
            batch.schema.metadata
        )

    rewrite(copy, "image-first", renamed)
    only(audit(copy / "store"), "has the fields vectors:", "has rows: fixed_size_list")


def test_broken_json_files(copy):
    commit_file(copy, "views").write_text("{")
    only(audit(copy / "store"), "views-", "00001.json is not JSON", "Delete")


def test_a_column_file_that_is_gone_or_edited(copy):
    (column,) = (copy / "store" / "columns").glob("text-first-*.json")
    column.write_text(column.read_text().replace("int8", "int4"))
    report = audit(copy / "store")
    assert any("its identity does not match its fingerprint" in p for p in report.problems)
    column.unlink()
    only(audit(copy / "store"), f"commits/{column.stem} belongs to no column", "Restore it")


def test_no_store(tmp_path):
    with pytest.raises(ValueError, match="is not a reinforced dataset"):
        audit(tmp_path)


@pytest.mark.parametrize("mask", [0x01, 0x10, 0x80])
@pytest.mark.parametrize("kind", ["sources", "columns", "commits"])
def test_any_flipped_bit_of_a_json_file_is_noticed(copy, kind, mask):
    """Every byte of one file of each kind, read as the store reads it; white space aside."""
    store = open_store(copy / "store")
    column = store.columns("image_embeddings")[0]
    read, path = {
        "sources": (lambda: Store(store.storage), "sources.json"),
        "columns": (store.columns, f"columns/{column.name}.json"),
        "commits": (lambda: store.commit(column, 0), f"commits/{column.name}/00000.json"),
    }[kind]
    file = copy / "store" / path
    whole = file.read_bytes()
    unnoticed = []
    for place in range(len(whole)):
        flipped = bytearray(whole)
        flipped[place] ^= mask
        file.write_bytes(flipped)
        try:
            read()
        except ValueError as error:
            assert str(file) in str(error)
        else:
            unnoticed.append(place)
    assert [place for place in unnoticed if not chr(whole[place]).isspace()] == []
    for place in unnoticed:
        flipped = bytearray(whole)
        flipped[place] ^= mask
        assert json.loads(flipped) == json.loads(whole)


@pytest.mark.parametrize(
    "path", ["sources.json", "columns/image-first-*", "commits/views-*/00001*"]
)
def test_the_command_names_a_flipped_byte_and_ends_with_3(copy, capsys, path):
    (file,) = (copy / "store").glob(path)
    data = bytearray(file.read_bytes())
    place = data.index(b'"format_version": 1') - 4  # inside the value before it
    data[place] ^= 1
    file.write_bytes(data)
    assert main(["audit", str(copy / "store"), "--json"]) == 3
    problems = json.loads(capsys.readouterr().out)["problems"]
    assert (str(file) in problems[0] and "Restore" in problems[0]) or "Delete" in problems[0]


def test_a_damaged_data_file_is_not_mixed_with_new_ones(copy, teachers):
    """`reinforce` leaves what is committed alone; the record gone, the shard is as it was."""
    wanted = data_file(copy, "image-first").read_bytes()
    path = data_file(copy, "image-first")
    path.write_bytes(wanted[:-1] + bytes([wanted[-1] ^ 1]))
    (problem,) = audit(copy / "store").problems
    assert path.name in problem and "Delete" in problem
    commit_file(copy, "image-first").unlink()
    again = {"num_views": 3, "policy": ViewPolicy(scale=(0.5, 1.0)), "progress": False}
    report = reinforce(copy / "source", copy / "store", teachers=teachers, **again)
    assert (report.shards_already_done, report.shards) == (2, 3)
    assert data_file(copy, "image-first").read_bytes() == wanted and not path.exists()
    assert audit(copy / "store", teachers=teachers).problems == ()
