"""Every codec in a store: what training reads is near what teachers said, and audits pass."""

import json
from pathlib import Path

import pytest
import torch

from reinforced_data import audit, open_dataset, reinforce
from reinforced_data.testing import TOKENIZER, tiny_teacher, write_source
from teachers import Preprocess

STUDENT = Preprocess(image_size=12, interpolation="bilinear")
# 1 - mean cosine of what is read to what the teacher said, 64 numbers a row.
LOSSES = {
    "float32": 1e-7,
    "float16": 1e-6,
    "bfloat16": 1e-5,
    "int8": 1e-4,
    "int4": 1e-2,
    "pq64": 1e-3,
}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    write_source(folder, 300, samples_per_shard=150)
    return folder


def write(source: Path, out: Path, codec: str, **options):
    teacher = tiny_teacher(embed_dim=64)
    settings = {"num_views": 1, "progress": False, "codec": codec} | options
    return reinforce(source, out, teachers=teacher, **settings)


def first_batch(out: Path):
    loader = open_dataset(out).loader(
        preprocess=STUDENT, tokenizer=TOKENIZER, batch_size=100, num_steps=1
    )
    return next(iter(loader))


@pytest.mark.parametrize("codec", LOSSES)
def test_a_store_of_each_codec(source, tmp_path, codec):
    report = write(source, tmp_path / "out", codec)
    batch, teacher = first_batch(tmp_path / "out"), tiny_teacher(embed_dim=64)
    exact = teacher.encode_text(batch.tokens)
    stored = batch.teachers[0]
    for rows in (stored.image, stored.text):
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(100), atol=1e-5, rtol=0)
    assert 1 - (stored.text * exact).sum(1).double().mean() <= LOSSES[codec]
    found = audit(tmp_path / "out", teachers=teacher, replay=40)
    assert not found.problems
    assert len(found.cosines) == 2
    again = write(source, tmp_path / "out", codec)
    assert again.shards_already_done == again.shards == report.shards
    assert again.bytes == report.bytes


def test_image_rows_of_a_lossy_codec_are_near_the_exact_ones(source, tmp_path):
    batches = {}
    for codec in ("float32", "int4", "pq64"):
        write(source, tmp_path / codec, codec)
        batches[codec] = first_batch(tmp_path / codec)
    exact = batches["float32"].teachers[0].image
    for codec in ("int4", "pq64"):
        assert batches[codec].keys == batches["float32"].keys
        cosines = (batches[codec].teachers[0].image * exact).sum(1)
        assert cosines.min() > 0.9 and cosines.mean() < 1 - 1e-6
        # A view is a row of its own, not its neighbour's.
        assert ((batches[codec].teachers[0].image @ exact.T).argmax(1) == torch.arange(100)).all()


def test_two_writers_fit_the_same_codebook_and_the_first_one_stays(source, tmp_path):
    for name in ("a", "b"):
        write(source, tmp_path / name, "pq64")
    columns = [sorted(p.name for p in (tmp_path / n / "columns").iterdir()) for n in "ab"]
    assert columns[0] == columns[1]
    (codebook,) = (tmp_path / "a" / "columns").glob("image-*.codebook")
    recorded = json.loads(codebook.with_suffix(".json").read_text())["identity"]
    assert recorded["codec"] == "pq64" and len(recorded["codebook"]) == 64
    data = codebook.read_bytes()
    codebook.write_bytes(bytes(len(data)))
    with pytest.raises(ValueError, match=r"\.codebook is not the codebook its column was written"):
        open_dataset(tmp_path / "a")
    codebook.unlink()
    with pytest.raises(ValueError, match=r"\.codebook is missing"):
        open_dataset(tmp_path / "a")


def test_a_source_too_small_or_a_width_that_does_not_fit_is_said_before_anything_is_written(
    tmp_path,
):
    write_source(tmp_path / "few", 20)
    with pytest.raises(ValueError, match="at least 256 different rows"):
        write(tmp_path / "few", tmp_path / "out", "pq64")
    with pytest.raises(ValueError, match="tiny's have 64 numbers: take pq64 or int4"):
        write(tmp_path / "few", tmp_path / "out", "pq96")
    with pytest.raises(ValueError, match="no codec 'int3'; did you mean 'int"):
        write(tmp_path / "few", tmp_path / "out", "int3")
    assert not list((tmp_path / "out").glob("columns/*"))
