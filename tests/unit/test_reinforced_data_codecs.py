"""Codecs: bounded errors, bytes a row, and what product quantisation refuses."""

import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from reinforced_data.codecs.codec import CODECS
from reinforced_data.codecs.names import CODEC_NAMES
from reinforced_data.codecs.of_columns import check_codec, stored_dtype
from reinforced_data.codecs.product_quantization import (
    NUM_BYTES,
    check_width,
    codebook_digest,
    codebook_from_bytes,
    fit_codebook,
    product_codec,
)
from reinforced_data.embedding import Rows
from reinforced_data.store.column_rows import image_batch, text_batch

FOUR_BIT_CODES = [[53, 170, 90, 20, 67, 87]]


def unit_vectors(count: int, width: int, outliers: int = 0) -> np.ndarray:
    rows = np.random.default_rng(0).standard_normal((count, width)).astype(np.float32)
    rows[:, :outliers] *= 20.0
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def mean_cosine_loss(a: np.ndarray, b: np.ndarray) -> float:
    return float(1 - (a.astype(np.float64) * b).sum(1).mean())


@pytest.mark.parametrize(
    ("name", "size", "quarter"),
    [
        ("float16", 110_880, False),
        ("int8", 55_584, False),
        ("int4", 27_936, False),
        ("pq192", 14_112, True),
        ("pq128", 9_504, True),
        ("pq96", 7_200, True),
        ("pq64", 4_896, True),
    ],
)
def test_bytes_beside_those_of_datacompdr(name, size, quarter):
    """Rows and norms of 30 views, 6 texts and two teachers of 768, against 88,570 gzipped."""
    codec = CODECS.get(name)
    if codec is None:
        pieces = NUM_BYTES[name]
        codec = product_codec(np.zeros((pieces, 256, 768 // pieces), np.float32))
    image, text = (Rows(unit_vectors(n, 768), np.ones(n, np.float32)) for n in (30, 6))
    batches = [
        image_batch(codec, image, 30, np.ones(1, dtype=bool), ["a"]),
        text_batch(codec, text, np.array([6]), ["a"]),
    ]
    found = 2 * sum(numbers_in(batch[field]) for batch in batches for field in ("rows", "norms"))
    assert found == size and (found <= 88_570 / 4) == quarter
    assert f"{size:,}" in (Path(__file__).parents[2] / "docs" / "codecs.md").read_text()


def numbers_in(array: pa.Array) -> int:
    """Bytes of a column's values, without Arrow's offsets and null bits."""
    while pa.types.is_list(array.type) or pa.types.is_fixed_size_list(array.type):
        array = array.flatten()
    return len(array) * array.type.bit_width // 8


@pytest.mark.parametrize(("name", "bound"), [("float32", 0.0), ("float16", 2.0**-11)])
def test_float_codecs_round_to_nearest(name, bound):
    codec, rows = CODECS[name], unit_vectors(200, 64)
    encoded = codec.encode(rows)
    assert encoded.dtype == codec.dtype and encoded.shape == (200, codec.width(64))
    decoded = codec.decode(encoded, 64)
    assert decoded.dtype == np.float32
    # Relative to each number down to half's smallest normal one, absolute below.
    assert (np.abs(decoded - rows) <= bound * np.maximum(np.abs(rows), 2.0**-14)).all()
    assert codec.exact == (bound == 0)
    # A float16 that keeps nothing of float32 would be no test: the bound is nearly reached.
    assert np.abs(decoded - rows).max() >= bound * 0.2 * np.abs(rows).max()


def test_bfloat16_rounds_to_nearest_and_keeps_large_and_small():
    codec, rows = CODECS["bfloat16"], unit_vectors(200, 64) * np.float32(1e-20)
    decoded = codec.decode(codec.encode(rows), 64)
    worst = (np.abs(decoded - rows) / np.abs(rows)).max()
    assert 2.0**-10 < worst <= 2.0**-8


@pytest.mark.parametrize("name", [*CODECS, "pq64"])
def test_unit_rows_in_a_given_array_are_those_of_normalize(name):
    rows = unit_vectors(300, 64)
    codec = CODECS[name] if name in CODECS else product_codec(fit_codebook(rows, 64))
    encoded = codec.encode(rows)
    wanted = torch.from_numpy(codec.decode(encoded, 64))
    if not codec.exact:
        wanted = torch.nn.functional.normalize(wanted, dim=-1)
    into = np.full((300, 64), np.nan, np.float32)
    found = codec.unit_rows(encoded, 64, into)
    assert (found is into) == (not codec.exact)
    np.testing.assert_array_equal(found, wanted.numpy(), strict=True)
    np.testing.assert_array_equal(codec.unit_rows(encoded, 64), found, strict=True)


# Bytes a row of 768, and the bound on 1 - cosine. Normal rows: uniform steps of the largest of 768
# numbers / 127 have an error of step^2 / 12 per number; Max (1960) gives 0.0095 / 2 for 16 levels.
@pytest.mark.parametrize(
    ("name", "num_bytes", "bound"),
    [("bfloat16", 1536, 4e-6), ("int8", 768, 5e-5), ("int4", 384, 5.2e-3)],
)
def test_bytes_a_row_and_what_is_lost(name, num_bytes, bound):
    codec, rows = CODECS[name], unit_vectors(100, 768)
    encoded = codec.encode(rows)
    assert encoded[0].nbytes == num_bytes == codec.width(768) * codec.dtype.itemsize
    back = codec.unit_rows(encoded, 768)
    assert np.allclose(np.linalg.norm(back, axis=1), 1, atol=1e-6)
    loss = mean_cosine_loss(back, rows)
    assert bound / 4 < loss <= bound


def test_four_bits_stand_a_few_large_coordinates():
    """The rotation spreads them; steps as wide as the largest number lose ten times more."""
    rows = unit_vectors(200, 768, outliers=4)
    back = CODECS["int4"].unit_rows(CODECS["int4"].encode(rows), 768)
    step = np.abs(rows).max(1, keepdims=True) / 7.5
    plain = (np.floor(rows / step) + 0.5) * step
    plain /= np.linalg.norm(plain, axis=1, keepdims=True)
    assert mean_cosine_loss(back, rows) < 6e-3 < 10 * 6e-3 < mean_cosine_loss(plain, rows)


@pytest.mark.parametrize("name", list(CODECS))
@pytest.mark.parametrize("dim", [1, 7, 96, 640])
def test_any_width_and_no_rows(name, dim):
    codec = CODECS[name]
    rows = unit_vectors(5, dim)
    assert codec.unit_rows(codec.encode(rows), dim).shape == (5, dim)
    none = codec.encode(np.empty((0, dim), np.float32))
    assert none.shape == (0, codec.width(dim)) and none.dtype == codec.dtype
    assert codec.decode(none, dim).shape == (0, dim)


def test_four_bit_codes_are_for_ever():
    """The codes are on users' disks: the rotation and the levels may never change."""
    codes = CODECS["int4"].encode(unit_vectors(1, 12))
    assert codes.tolist() == FOUR_BIT_CODES


def test_product_codes_are_near_and_repeat():
    rows = unit_vectors(2000, 64)
    codebook = fit_codebook(rows, 16)
    assert codebook_digest(codebook) == codebook_digest(fit_codebook(rows, 16))
    codec = pickle.loads(pickle.dumps(product_codec(codebook)))
    codes = codec.encode(rows)
    assert codes.shape == (2000, codec.width(64)) == (2000, 16) and codes.dtype == np.uint8
    # Brute force: each piece's nearest centroid.
    pieces = rows.reshape(2000, 16, 1, 4)
    nearest = np.square(pieces - codebook[None]).sum(-1).argmin(-1)
    assert (nearest == codes).mean() > 0.999
    assert (codec.decode(codes, 64) == codebook[np.arange(16), codes].reshape(2000, 64)).all()
    assert mean_cosine_loss(codec.unit_rows(codes, 64), rows) < 0.05
    assert codec.encode(rows[:0]).shape == (0, 16)


def test_a_changed_codebook_is_noticed():
    codebook = fit_codebook(unit_vectors(300, 192), 64)
    data, digest = codebook.tobytes(), codebook_digest(codebook)
    assert (codebook_from_bytes(data, "pq64", digest, "here") == codebook).all()
    with pytest.raises(ValueError, match=r"columns/x\.codebook is not the codebook"):
        codebook_from_bytes(b"\0" + data[1:], "pq64", digest, "columns/x.codebook")


def test_product_codecs_say_what_they_need():
    with pytest.raises(ValueError, match="teacher-b's have 96 numbers: take pq96 or int4"):
        check_width("pq64", 96, "teacher-b")
    check_width("pq192", 768, "teacher")
    with pytest.raises(ValueError, match=r"at least 256 different rows .* gives 255: take int8"):
        fit_codebook(unit_vectors(255, 64), 16)


def test_unknown_codec_lists_those_there_are():
    assert set(CODEC_NAMES) == {*CODECS, *NUM_BYTES}
    for check in (check_codec, stored_dtype):
        with pytest.raises(ValueError, match=", ".join(sorted(CODEC_NAMES))):
            check("int3")
