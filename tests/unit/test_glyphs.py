"""The glyph world: what is drawn, how it is split, and that it is the same every time."""

import io
import json
from collections import defaultdict

import numpy as np
import pytest
from PIL import Image

from reinforced_data import glyphs
from reinforced_data.glyphs import SPLITS, faces, pack_glyphs, render_face
from reinforced_data.source import decode_image, open_source

FEW = ("STIXGeneral", "STIXGeneralItalic", "STIXGeneralBolIta", "DejaVuSans", "DejaVuSerif")


@pytest.fixture(scope="module", params=["few faces", pytest.param("all", marks=pytest.mark.slow)])
def world(request, tmp_path_factory):
    """The world of a few faces, or the default one, rendered once."""
    out = tmp_path_factory.mktemp("world") / "glyphs"
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "few faces":
            chosen = {name: faces()[name] for name in FEW}
            patch.setattr(glyphs, "faces", lambda: chosen)
        return out, pack_glyphs(out)


@pytest.fixture(scope="module")
def samples(world):
    return {split: list(open_source(folder)) for split, folder in world[1].items()}


@pytest.fixture
def few_faces(monkeypatch):
    """Three small faces, for tests that pack more than once."""
    names = FEW[:3]
    chosen = {name: faces()[name] for name in names}
    monkeypatch.setattr(glyphs, "faces", lambda: chosen)


def test_size_of_the_world(request, world, samples):
    report = json.loads((world[0] / "glyphs.json").read_text())
    kept = sum(len(rows) for rows in samples.values())
    assert kept + sum(report["dropped"].values()) == report["counts"]["world"]["pictures"]
    assert {split: counts["pictures"] for split, counts in report["counts"].items()} == {
        "world": report["counts"]["world"]["pictures"],
        **{split: len(rows) for split, rows in samples.items()},
    }
    if "all" not in request.node.callspec.id:
        return
    assert 52_000 <= report["counts"]["world"]["pictures"] <= 56_000
    assert 7_200 <= report["counts"]["world"]["names"] <= 7_400
    assert len(list((world[0] / "train").glob("*.tar"))) == 8
    assert len(samples["unseen_pairs"]) > 2000
    assert len(samples["unseen_characters"]) > 300
    assert len(samples["validation"]) > 1000


def test_held_out_face_and_names_are_held_out(samples):
    def face(sample):
        return sample.key.rpartition("-")[0]

    names = {split: {s.label for s in rows} for split, rows in samples.items()}
    for split in ("train", "validation"):
        assert glyphs.HELD_OUT_FACE not in {face(s) for s in samples[split]}
        assert not names[split] & names["unseen_characters"]
    for split in ("unseen_pairs", "unseen_characters"):
        assert {face(s) for s in samples[split]} == {glyphs.HELD_OUT_FACE}
    assert names["unseen_pairs"] <= names["train"]
    assert names["validation"] <= names["train"]
    pairs = {split: {(face(s), s.label) for s in rows} for split, rows in samples.items()}
    assert not pairs["train"] & pairs["validation"]


def test_no_picture_of_train_is_held_out(samples):
    train = {s.image for s in samples["train"]}
    for split in SPLITS[1:]:
        assert not any(s.image in train for s in samples[split])


def test_pictures_are_legible_and_captions_readable(samples):
    by_caption = defaultdict(list)
    for sample in samples["unseen_pairs"][:500]:
        pixels = np.asarray(decode_image(sample.image))
        assert pixels.shape == (32, 32, 3)
        # Black on white, some ink, a white margin of a pixel.
        assert pixels.max() == 255 and pixels.min() < 160
        assert (pixels[[0, -1]] == 255).all() and (pixels[:, [0, -1]] == 255).all()
        assert sample.captions == (sample.label,)
        assert sample.label == sample.label.lower()
        by_caption[sample.label].append(sample)
    everything = {s.label for s in samples["train"]} | {s.label for s in samples["unseen_pairs"]}
    assert "latin small letter a with acute" in everything
    assert not any("private" in name or not name for name in everything)


def test_ink_is_centred_across_and_stays_on_its_line():
    drawn = {g.caption: g for g in render_face("DejaVuSans")}

    def ink(name):
        pixels = np.frombuffer(drawn[name].pixels, np.uint8).reshape(32, 32)
        rows, columns = np.nonzero(pixels < 128)
        return rows, columns

    _, columns = ink("latin capital letter o")
    assert abs((columns.min() + columns.max()) / 2 - 15.5) <= 1
    assert ink("comma")[0].min() > ink("apostrophe")[0].max()
    assert "space" not in drawn and "no-break space" not in drawn
    # Larger than its picture in the face; shrunk, not cut.
    assert ink("black circle")[0].size > 100


def test_twice_the_same_bytes(tmp_path, few_faces):
    first = pack_glyphs(tmp_path / "a", size_px=16)
    second = pack_glyphs(tmp_path / "b", size_px=16)
    for split in SPLITS:
        files = sorted(path.name for path in first[split].iterdir())
        assert files == sorted(path.name for path in second[split].iterdir())
        for name in files:
            assert (first[split] / name).read_bytes() == (second[split] / name).read_bytes()
    assert Image.open(io.BytesIO(next(iter(open_source(first["train"]))).image)).size == (16, 16)


@pytest.mark.slow
def test_seed_changes_the_order_and_not_the_splits(tmp_path, few_faces):
    keys = []
    for seed in (0, 1):
        folders = pack_glyphs(tmp_path / str(seed), size_px=16, seed=seed)
        keys.append([sample.key for sample in open_source(folders["train"])])
    assert keys[0] != keys[1]
    assert sorted(keys[0]) == sorted(keys[1])


def test_a_finished_folder_is_taken_as_it_is(tmp_path, few_faces):
    out = tmp_path / "glyphs"
    folders = pack_glyphs(out, size_px=16)
    shard = folders["train"] / "00000.tar"
    before = shard.stat().st_mtime_ns
    assert pack_glyphs(out, size_px=16) == folders
    assert shard.stat().st_mtime_ns == before
    with pytest.raises(ValueError, match=r"holds no glyphs made with .*'size_px': 18.*remove"):
        pack_glyphs(out, size_px=18)


def test_an_interrupted_run_leaves_nothing_that_looks_finished(tmp_path, few_faces, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(glyphs, "_sample", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pack_glyphs(tmp_path / "glyphs", size_px=16)
    assert list(tmp_path.iterdir()) == []


def test_errors_say_what_to_do(tmp_path):
    with pytest.raises(ValueError, match=r"no face named 'Helvetica'.*DejaVuSans"):
        pack_glyphs(tmp_path / "g", held_out_face="Helvetica")
    with pytest.raises(ValueError, match="at least 12"):
        pack_glyphs(tmp_path / "g", size_px=4)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="other files"):
        pack_glyphs(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"
