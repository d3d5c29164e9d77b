"""A finished store gets more columns: nothing that is there is touched, nothing is done twice."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from reinforced_data import Picture, ViewPolicy, audit, open_dataset, preparing, reinforce
from reinforced_data.store.layout import open_store
from reinforced_data.testing import TOKENIZER, tiny_teacher, write_source
from teachers import Preprocess

GENTLE = ViewPolicy(scale=(0.4, 1.0), num_ops=1)
STRONG = ViewPolicy(scale=(0.1, 0.5), num_ops=2)
STUDENT = Preprocess(image_size=12, interpolation="bilinear")
SAMPLES = 12


@pytest.fixture
def decoded(monkeypatch) -> Counter[str]:
    """Count the pictures that are really decoded."""
    counter = Counter[str]()

    class Counted(Picture):
        def image(self) -> Image.Image:
            counter["pictures"] += self._image is None
            return super().image()

        def _decode(self, scale: int, rows: int) -> np.ndarray:
            counter["pictures"] += self.scalable
            return super()._decode(scale, rows)

    monkeypatch.setattr(preparing, "Picture", Counted)
    return counter


def write(folder: Path, teachers: object = (), **options: object):
    if not (folder / "source").exists():
        write_source(folder / "source", SAMPLES)
    settings = {"num_views": 3, "policy": GENTLE, "batch_size": 4, "progress": False} | options
    return reinforce(folder / "source", folder / "out", teachers=teachers, **settings)


def files(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file of a store: when it was last written, and what is in it."""
    out = folder / "out"
    return {
        str(path.relative_to(out)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


def added(before: dict[str, object], after: dict[str, object]) -> set[str]:
    """Names of the columns that are new; whatever was there must be as it was."""
    assert {name: after.get(name) for name in before} == before
    return {Path(name).stem for name in after.keys() - before.keys() if name.startswith("columns")}


def batch(path: Path, **options):
    opened = open_dataset(path / "out", options.pop("view_set", None))
    return next(
        iter(
            opened.loader(
                preprocess=STUDENT, tokenizer=TOKENIZER, batch_size=SAMPLES, num_steps=1, **options
            )
        )
    )


def test_another_teacher_touches_nothing_and_decodes_once(tmp_path, decoded):
    write(tmp_path, [tiny_teacher("one")])
    assert decoded["pictures"] == SAMPLES
    before = files(tmp_path)
    more = [tiny_teacher("one"), tiny_teacher("two", seed=2), tiny_teacher("three", image_size=20)]
    write(tmp_path, more)
    assert decoded["pictures"] == 2 * SAMPLES  # once for both new teachers
    slugs = {name.rpartition("-")[0] for name in added(before, files(tmp_path))}
    assert slugs == {"image-two", "text-two", "image-three", "text-three"}
    assert sorted(t.name for t in open_dataset(tmp_path / "out").teachers) == [
        *("one", "three", "two"),
    ]
    assert len(batch(tmp_path).teachers) == 3
    report = audit(tmp_path / "out", teachers=more)
    assert report.ok and len(report.cosines) == 6


def test_several_teachers_of_one_pass_decode_each_picture_once(tmp_path, decoded):
    write(tmp_path, [tiny_teacher(name, seed=i) for i, name in enumerate(("one", "two", "three"))])
    assert decoded["pictures"] == SAMPLES
    write(tmp_path, [tiny_teacher(name, seed=i) for i, name in enumerate(("one", "two", "three"))])
    assert decoded["pictures"] == SAMPLES


def test_texts_alone_need_no_picture_and_no_source(tmp_path, decoded):
    write(tmp_path, [tiny_teacher("one")])
    store = open_store(tmp_path / "out")
    (column,) = store.columns("text_embeddings")
    before = [store.commit(column, shard) for shard in range(store.num_shards)]
    for shard in range(store.num_shards):
        store.storage.remove(f"commits/{column.name}/{shard:05d}.json")
    write(tmp_path, [tiny_teacher("one")])
    assert decoded["pictures"] == SAMPLES
    after = [store.commit(column, shard) for shard in range(store.num_shards)]
    assert [(c.sha256, c.rows, c.skipped) for c in before] == [
        (c.sha256, c.rows, c.skipped) for c in after
    ]


def test_another_view_set_beside_the_first(tmp_path, decoded):
    teachers = [tiny_teacher("one"), tiny_teacher("two", seed=2)]
    write(tmp_path, teachers)
    before = files(tmp_path)
    first = batch(tmp_path)
    write(tmp_path, teachers[:1], view_set="strong", policy=STRONG, num_views=2, seed=7)
    assert decoded["pictures"] == 2 * SAMPLES
    slugs = {name.rpartition("-")[0] for name in added(before, files(tmp_path))}
    assert slugs == {"views-strong", "image-one-strong"}  # the texts are those there
    # The default set is read as before, with both teachers.
    again = batch(tmp_path)
    assert torch.equal(first.pixels, again.pixels) and len(again.teachers) == 2
    strong = open_dataset(tmp_path / "out", "strong")
    assert (strong.view_set, strong.num_views) == ("strong", 2)
    assert [teacher.name for teacher in strong.teachers] == ["one"]
    other = batch(tmp_path, view_set="strong")
    assert other.keys == first.keys and not torch.equal(other.pixels, first.pixels)
    rows = [dict(zip(b.keys, b.teachers[0].text, strict=True)) for b in (first, other)]
    assert all(torch.equal(rows[0][key], rows[1][key]) for key in first.keys)
    report = audit(tmp_path / "out", teachers=teachers)
    assert report.ok and len(report.cosines) == 5
    # Once more: nothing is left to do.
    write(tmp_path, teachers[:1], view_set="strong", policy=STRONG, num_views=2, seed=7)
    assert decoded["pictures"] == 2 * SAMPLES


def test_view_sets_that_cannot_be_meant(tmp_path):
    write(tmp_path)
    with pytest.raises(ValueError, match=r"another view set 'default'.*--view-set NAME"):
        write(tmp_path, policy=STRONG)
    write(tmp_path, view_set="strong", policy=STRONG)
    with pytest.raises(ValueError, match=r"another view set 'strong'.*seed is 0, you give 1"):
        write(tmp_path, view_set="strong", policy=STRONG, seed=1)
    with pytest.raises(ValueError, match="no view set 'storng'; did you mean 'strong'"):
        open_dataset(tmp_path / "out", "storng")
    for name in ("", "../up", "Strong", "a b"):
        with pytest.raises(ValueError, match="a view set's name is"):
            write(tmp_path, view_set=name)


def test_another_teacher_of_the_same_name_is_refused_in_every_view_set(tmp_path):
    write(tmp_path, [tiny_teacher("one")])
    before = files(tmp_path)
    with pytest.raises(ValueError, match="another teacher 'one'"):
        write(tmp_path, [tiny_teacher("one", seed=5)], view_set="strong", policy=STRONG)
    assert added(before, files(tmp_path)) == set()


def test_a_store_of_named_sets_alone(tmp_path):
    teacher = tiny_teacher("one")
    write(tmp_path, [teacher], view_set="strong", policy=STRONG)
    assert open_dataset(tmp_path / "out").view_set == "strong"
    write(tmp_path, [teacher], view_set="gentle", num_views=2)
    with pytest.raises(ValueError, match=r"gentle, strong.*none is the default.*view_set="):
        open_dataset(tmp_path / "out")
    gentle = open_dataset(tmp_path / "out", "gentle")
    assert gentle.with_view_set("strong").num_views == 3
    assert gentle.with_view_set(None) is gentle
