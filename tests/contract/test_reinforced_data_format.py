"""Format version 1, read by a stranger: from reinforced_data/README.md alone, without our code.

`golden_store_v1` was written by the first release and must stay readable for ever: never write it
anew. Its teacher is `tiny_teacher("golden", embed_dim=8, image_size=8)`.
"""

import hashlib
import json
import math
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from reinforced_data import audit, open_dataset
from reinforced_data.testing import TOKENIZER, picture, tiny_teacher
from teachers import Preprocess

GOLDEN = Path(__file__).parent / "golden_store_v1"
STORE = GOLDEN / "store"
TEXTS = [["a red picture", "number 1"], ["a blue picture"], None, ["a red picture"]]


class Stranger:
    """A reader after the README's words."""

    def __init__(self, store: Path) -> None:
        self.store = store
        self.columns = {}
        for path in (store / "columns").iterdir():
            column = json.loads(path.read_text())
            assert column["format_version"] == 1
            text = json.dumps(
                {"identity": column["identity"], "kind": column["kind"]},
                sort_keys=True,
                separators=(",", ":"),
            )
            assert hashlib.sha256(text.encode()).hexdigest() == column["fingerprint"]
            assert column["column"].endswith("-" + column["fingerprint"][:8])
            self.columns[column["kind"]] = column

    def table(self, kind: str) -> tuple[dict, dict, pa.RecordBatch]:
        column = self.columns[kind]
        commit = json.loads((self.store / f"commits/{column['column']}/00000.json").read_text())
        data = (self.store / commit["data"]).read_bytes()
        assert len(data) == commit["num_bytes"]
        assert hashlib.sha256(data).hexdigest() == commit["sha256"]
        reader = pa.ipc.open_file(pa.py_buffer(data))
        assert reader.num_record_batches == 1
        batch = reader.get_batch(0)
        batch.validate(full=True)
        assert batch.num_rows == commit["rows"]
        return column, commit, batch


@pytest.fixture(scope="module")
def stranger() -> Stranger:
    return Stranger(STORE)


def test_index_and_source(stranger):
    _, commit, batch = stranger.table("index")
    assert commit["skipped"] == [{"row": 2, "key": "c", "reason": "no-image"}]
    rows = batch.to_pylist()
    assert [row["key"] for row in rows] == ["a", "b", "c", "d"]
    (shard,) = json.loads((STORE / "sources.json").read_text())["shards"]
    data = (STORE / shard["path"]).read_bytes()
    assert len(data) == shard["bytes"]
    for row in (rows[0], rows[1], rows[3]):
        image = data[row["offset"] : row["offset"] + row["size"]]
        assert hashlib.sha256(image).digest() == row["sha256"]
        assert (row["width"], row["height"]) == (24, 16)
    assert all(value is None for name, value in rows[2].items() if name != "key")
    keys = hashlib.sha256(b'["a", "b", "c", "d"]').hexdigest()
    for kind in stranger.columns:
        assert stranger.table(kind)[2].schema.metadata == {b"clip_distill.keys": keys.encode()}


def test_captions(stranger):
    column, commit, batch = stranger.table("captions")
    assert column["identity"]["set"] == "original"
    assert batch["captions"].to_pylist() == TEXTS
    assert commit["skipped"] == []


def test_views(stranger):
    column, _, batch = stranger.table("views")
    policy, rows = column["identity"]["policy"], batch.to_pylist()
    assert batch.schema.field("crops").type == pa.list_(pa.float32(), 3 * 4)
    assert batch.schema.field("operations").type == pa.list_(pa.uint8(), 3 * 2)
    assert batch.schema.field("magnitudes").type == pa.list_(pa.float32(), 3 * 2)
    assert rows[2] == {"crops": None, "operations": None, "magnitudes": None}
    names = column["facts"]["operations"]
    for row, key in ((0, "a"), (1, "b"), (3, "d")):
        for view in range(3):
            crop, picked = drawn(column["identity"]["seed"], view, key, policy)
            stored = rows[row]["crops"][4 * view : 4 * view + 4]
            np.testing.assert_allclose(stored, crop, rtol=1e-6, atol=1e-6)
            codes = rows[row]["operations"][2 * view : 2 * view + 2]
            magnitudes = rows[row]["magnitudes"][2 * view : 2 * view + 2]
            assert [names[code] for code in codes] == [name for name, _ in picked]
            assert [m < 0 for m in magnitudes] == [negative for _, negative in picked]


def drawn(seed: int, view: int, key: str, policy: dict) -> tuple[list[float], list]:
    """The README's drawing, for pictures of 24 x 16."""
    numbers = iter(
        (
            int.from_bytes(hashlib.sha256(f"{seed}/{view}/{b}/{key}".encode()).digest()[i : i + 8])
            >> 11
        )
        / 2**53
        for b in range(10)
        for i in (0, 8, 16, 24)
    )
    (low, high), (narrow, wide) = policy["scale"], map(math.log, policy["ratio"])
    while True:
        area = low + (high - low) * next(numbers)
        ratio = math.exp(narrow + (wide - narrow) * next(numbers)) / 1.5
        width, height = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if max(width, height) <= 1:
            break
    crop = [(1 - width) * next(numbers), (1 - height) * next(numbers), width, height]
    assert next(numbers) >= policy["flip"]
    picked = []
    for _ in range(policy["num_ops"]):
        name = policy["operations"][int(next(numbers) * len(policy["operations"]))]
        negative = next(numbers) >= 0.5
        picked.append((name, negative and name in SIGNED))
    return crop, picked


SIGNED = {"brightness", "contrast", "color", "sharpness", "rotate", "shear_x", "shear_y"} | {
    "translate_x",
    "translate_y",
}


def test_embeddings(stranger):
    """The rows are those of the teacher, which the stranger has too."""
    column, _, batch = stranger.table("image_embeddings")
    assert batch.schema.field("rows").type == pa.list_(pa.float16(), 3 * 8)
    assert batch.schema.field("norms").type == pa.list_(pa.float32(), 3)
    assert batch["rows"].is_valid().to_pylist() == [True, True, False, True]
    rows = np.array(batch["rows"][0].as_py(), np.float32).reshape(3, 8)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=2e-3)
    _, _, texts = stranger.table("text_embeddings")
    assert texts.schema.field("rows").type == pa.list_(pa.list_(pa.float16(), 8))
    assert [row and len(row) for row in texts["rows"].to_pylist()] == [2, 1, None, 1]
    teacher = tiny_teacher("golden", embed_dim=8, image_size=8)
    for captions, stored in zip(TEXTS, texts["rows"].to_pylist(), strict=True):
        if captions:
            wanted = teacher.encode_text(captions).numpy()
            np.testing.assert_allclose(np.array(stored, np.float32), wanted, atol=1e-3)
    facts = column["facts"]["teacher"]
    assert (facts["kind"], facts["logit_bias"], facts["embed_dim"]) == ("softmax", None, 8)
    assert facts["logit_scale"] == pytest.approx(math.exp(3))


def test_this_release_reads_the_first_ones_store():
    dataset = open_dataset(STORE)
    assert (dataset.num_samples, dataset.num_views, dataset.skipped) == (3, 3, {"no-image": 1})
    loader = dataset.loader(
        preprocess=Preprocess(image_size=8), tokenizer=TOKENIZER, batch_size=3, num_steps=2
    )
    for batch in loader:
        assert sorted(batch.keys) == ["a", "b", "d"] and batch.refused == {}
        assert batch.teachers[0].image.shape == (3, 8)
    report = audit(STORE)
    assert report.ok, report.problems


def write_golden() -> None:
    """How the golden store was made; here for the record."""
    from reinforced_data import reinforce
    from reinforced_data.testing import encoded, write_source

    samples = []
    for number, (key, texts) in enumerate(zip("abcd", TEXTS, strict=True)):
        content = {"__key__": key, "json": json.dumps({"captions": texts or ["x"]})}
        if texts:
            content["png"] = encoded(picture(number))
        samples.append(content)
    os.makedirs(GOLDEN)
    write_source(GOLDEN / "source", samples)
    teacher = tiny_teacher("golden", embed_dim=8, image_size=8)
    reinforce(GOLDEN / "source", STORE, teachers=teacher, num_views=3, progress=False)
