"""Members of a published DataCompDR sample that would run something, or fill the memory."""

import gzip
import io
import json
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from reinforced_data.datacompdr.index import PublishedIndex
from reinforced_data.datacompdr.members import MAX_BYTES, Unusable, read_published
from reinforced_data.shard_writer import write_shards

VIEW = [[0, 0, 5, 5], []]
TEXTS = {
    "syn.json": json.dumps({"syn_text": ["x"]}).encode(),
    "paug.json": json.dumps({"param_aug": [VIEW, VIEW]}).encode(),
}
ROWS = {"image_emb": np.ones((2, 8), "f4"), "text_emb": np.ones((2, 8), "f4")}


def torch_file(content: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, allow_pickle=True, **arrays)
    return file.getvalue()


class Runs:
    """A pickle that would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


def reason(**members: bytes) -> str:
    with pytest.raises(Unusable) as told:
        read_published(
            {**TEXTS, **{name.replace("_", "."): data for name, data in members.items()}}
        )
    return told.value.reason


def test_input_published_pickles_are_never_run(tmp_path):
    evil = Runs(tmp_path / "was-run")
    objects = np.array([evil], dtype=object)
    tensors = {name: torch.from_numpy(rows) for name, rows in ROWS.items()}
    assert (
        reason(pth_gz=gzip.compress(torch_file({**tensors, "image_emb": evil}))) == "bad-embeddings"
    )
    assert reason(pth_gz=gzip.compress(pickle.dumps(evil))) == "bad-embeddings"
    assert reason(npz=npz(**{**ROWS, "image_emb": objects})) == "bad-embeddings"
    assert not (tmp_path / "was-run").exists()


def test_input_published_bombs_are_not_unpacked():
    zeros = bytes(4 * MAX_BYTES)
    assert reason(pth_gz=gzip.compress(zeros)) == "embeddings-too-large"
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("image_emb.npy", zeros)
    assert len(file.getvalue()) < MAX_BYTES
    assert reason(npz=file.getvalue()) == "embeddings-too-large"
    assert reason(pth_gz=gzip.compress(file.getvalue())) == "embeddings-too-large"


def test_input_published_headers_that_promise_too_much():
    promised = torch.ones(1).expand(1 << 20, 1 << 20)
    tensors = {"image_emb": promised, "text_emb": torch.ones(2, 8)}
    assert reason(pth_gz=gzip.compress(torch_file(tensors))) == "bad-embeddings"
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 20, 1 << 20)}
    )
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("image_emb.npy", header.getvalue())
    assert reason(npz=file.getvalue()) == "bad-embeddings"


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({"image_emb": np.ones((2, 8), "f4")}, "bad-embeddings"),
        ({**ROWS, "image_emb": np.ones(8, "f4")}, "bad-embeddings"),
        ({**ROWS, "image_emb": np.ones((2, 8), "i4")}, "bad-embeddings"),
        ({**ROWS, "text_emb": np.ones((2, 7), "f4")}, "bad-embeddings"),
        ({**ROWS, "text_emb": np.ones((1, 8), "f4")}, "bad-embeddings"),
        ({**ROWS, "image_emb": np.ones((3, 8), "f4")}, "bad-parameters"),
    ],
)
def test_input_published_arrays_that_do_not_fit(arrays, expected):
    assert reason(npz=npz(**arrays)) == expected


def test_input_published_cut_members_have_a_reason():
    whole = npz(**ROWS)
    packed = gzip.compress(torch_file({n: torch.from_numpy(rows) for n, rows in ROWS.items()}))
    for end in range(0, len(whole) - 1, 97):
        assert reason(npz=whole[:end]) == "bad-embeddings"
    for end in range(0, len(packed) - 9, 97):
        assert reason(pth_gz=packed[:end]) == "bad-embeddings"
    assert read_published({**TEXTS, "npz": whole}).image.shape == (2, 8)
    assert read_published({**TEXTS, "pth.gz": packed}).text.shape == (2, 8)


def test_input_published_bfloat16_in_an_npz_is_read():
    rows = np.random.default_rng(0).normal(size=(2, 8)).astype("f4")
    bits = torch.from_numpy(rows).bfloat16().view(torch.uint16).numpy()
    for stored in (bits, bits.view("V2")):
        found = read_published({**TEXTS, "npz": npz(image_emb=stored, text_emb=stored)})
        np.testing.assert_array_equal(found.image, torch.from_numpy(rows).bfloat16().float())


def test_input_published_shards_that_are_cut(tmp_path):
    samples = [{"__key__": f"k{n}", **TEXTS, "npz": npz(**ROWS)} for n in range(6)]
    write_shards(tmp_path, samples, samples_per_shard=3)
    second = tmp_path / "00001.tar"
    os.truncate(second, second.stat().st_size - 12_000)
    (tmp_path / "00002.tar").write_bytes(b"no tar")
    index = PublishedIndex([str(path) for path in sorted(tmp_path.iterdir())], lambda: None)
    assert list(index.failed) == [str(tmp_path / "00002.tar")]
    found = []
    for n in range(6):
        try:
            found.append(index.members(f"k{n}") is not None)
        except Unusable as error:
            assert error.reason == "broken-shard"
            found.append(False)
    assert found[:3] == [True] * 3 and found[5] is False
    index.close()
