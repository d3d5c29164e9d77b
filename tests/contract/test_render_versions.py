"""A store's pixels stay those of the release that wrote it, or the store is refused."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from reinforced_data import Picture, audit, open_dataset, open_source, reinforce
from reinforced_data.operations import RENDER_VERSION
from reinforced_data.resampling import RESAMPLERS
from reinforced_data.store.column_rows import ViewRows
from reinforced_data.store.columns import Column, make_column
from reinforced_data.store.layout import open_store
from reinforced_data.testing import (
    TOKENIZER,
    encoded,
    photograph,
    sample,
    tiny_teacher,
    write_source,
)
from reinforced_data.views import View, ViewPolicy, render_view
from teachers import Preprocess

GOLDEN = Path(__file__).parent / "golden_store_v1"
STUDENT = Preprocess(image_size=20)


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    shutil.copytree(GOLDEN, tmp_path / "golden")
    return tmp_path / "golden" / "store"


def views_of(path: Path) -> Column:
    (column,) = open_store(path).columns("views")
    return column


def test_a_store_of_version_1_is_trained_from_with_its_own_pixels(golden):
    store = open_store(golden)
    column = views_of(golden)
    assert column.identity["render_version"] == 1 != RENDER_VERSION
    stored = ViewRows(column, store.rows(column, 0))
    pictures = {found.key: found.image for found in open_source(store.sources[0])}
    loader = open_dataset(golden).loader(
        preprocess=STUDENT, tokenizer=TOKENIZER, batch_size=3, num_steps=1
    )
    (batch,) = loader
    for key, pixels in zip(batch.keys, batch.pixels.numpy(), strict=True):
        views = stored.views("abcd".index(key))
        image = Picture(pictures[key]).image()
        boxes = [
            (left * 24, top * 16, min((left + w) * 24, 24), min((top + h) * 16, 16))
            for left, top, w, h in (view.crop for view in views)
        ]
        bare = [np.array(image.resize((20, 20), STUDENT.resampling, box=box)) for box in boxes]
        old = [
            render_view(Picture(pictures[key]), View(v.crop, v.ops, v.fill, 1), STUDENT)
            for v in views
        ]
        assert any((pixels == rendered).all() for rendered in old)
        for view, plain in zip(views, bare, strict=True):
            found = render_view(Picture(pictures[key]), View(view.crop, version=1), STUDENT)
            np.testing.assert_array_equal(found, plain)


@pytest.mark.parametrize(("pixels", "same"), [(63, True), (64, False)])
def test_the_versions_differ_for_crops_of_many_pixels(pixels, same):
    data = encoded(photograph(0, 100, 100))
    crop = (0.113, 0.207, pixels / 100, 0.7)
    old, new = (render_view(Picture(data), View(crop, version=n), STUDENT) for n in (1, 2))
    assert (old == new).all() == same


def test_a_store_of_version_1_is_completed_in_version_1(golden):
    policy = ViewPolicy.from_config(views_of(golden).identity["policy"])
    seed = views_of(golden).identity["seed"]
    teacher = tiny_teacher("golden", embed_dim=8, image_size=8)
    more = tiny_teacher("more", seed=3)
    source = open_store(golden).sources
    settings = {"policy": policy, "num_views": 3, "seed": seed, "progress": False}
    settings["codec"] = "float16"  # the default of then
    reinforce(source, golden, teachers=[teacher, more], **settings)
    assert views_of(golden).identity["render_version"] == 1
    assert [t.name for t in open_dataset(golden).teachers] == ["golden", "more"]
    assert audit(golden, teachers=[teacher, more]).ok


def test_a_new_store_has_the_newest_version_and_replays_big_jpegs(tmp_path):
    samples = [sample(i, png="", jpg=encoded(photograph(i, 200, 160), "jpg")) for i in range(4)]
    for content in samples:
        del content["png"]
    write_source(tmp_path / "source", samples)
    teacher = tiny_teacher(image_size=16)
    reinforce(tmp_path / "source", tmp_path / "out", teachers=teacher, num_views=4, progress=False)
    assert (
        views_of(tmp_path / "out").identity["render_version"] == RENDER_VERSION == max(RESAMPLERS)
    )
    assert audit(tmp_path / "out", teachers=[teacher]).ok


def test_a_later_version_is_refused_before_anything_is_read(tmp_path):
    write_source(tmp_path / "source", 4)
    settings = {"num_views": 2, "progress": False}
    reinforce(tmp_path / "source", tmp_path / "out", teachers=tiny_teacher(), **settings)
    column = views_of(tmp_path / "out")
    rows = open_store(tmp_path / "out").rows(column, 0)
    later = make_column("views", "views", {**column.identity, "render_version": 3}, column.facts)
    (tmp_path / "out/columns" / f"{column.name}.json").write_bytes(
        Column(**{**vars(later), "name": later.name}).to_json()
    )
    (tmp_path / "out/columns" / f"{column.name}.json").rename(
        tmp_path / "out/columns" / f"{later.name}.json"
    )
    wanted = rf"column {later.name} was rendered by version 3 .* has versions 1 and 2"
    with pytest.raises(ValueError, match=wanted):
        reinforce(tmp_path / "source", tmp_path / "out", teachers=tiny_teacher(), **settings)
    with pytest.raises(ValueError, match=wanted):
        ViewRows(later, rows)
