"""Caption sets in a store: what is asked, kept and written down, and what is not touched."""

import hashlib
import json

import numpy as np
import pytest

from reinforced_data import audit, caption, open_dataset, reinforce
from reinforced_data.captions import caption_work
from reinforced_data.captions.plan import caption_seed
from reinforced_data.codecs.of_columns import codec_of
from reinforced_data.store.column_rows import ImageRows, TextRows
from reinforced_data.store.layout import open_store
from reinforced_data.store.progress import store_progress
from reinforced_data.testing import picture, sample, tiny_teacher, wait_until, write_source
from teachers import RuleCaptioner

QUIET = {"progress": False}


class Says:
    """A captioner that says what a function of the request says, and remembers the requests."""

    needs_image = False
    licence = "CC0-1.0"

    def __init__(self, function, name="says", needs_image=False):
        self.function, self.name, self.needs_image = function, name, needs_image
        self.fingerprint = hashlib.sha256(name.encode()).hexdigest()
        self.provenance = {"prompt": "Say it."}
        self.asked = []

    def caption(self, requests, num_captions):
        self.asked += requests
        return [self.function(request) for request in requests]


@pytest.fixture
def store(tmp_path):
    """Three shards; sample 3 cannot be read, sample 7 has no caption."""
    samples = [sample(number) for number in range(12)]
    samples[3] = sample(3, png=b"no picture")
    samples[7] = sample(7, txt="")
    write_source(tmp_path / "source", samples)
    reinforce(
        str(tmp_path / "source"), tmp_path / "store", teachers=tiny_teacher(), num_views=2, **QUIET
    )
    return tmp_path / "store"


def column(store, kind, slug):
    (found,) = [c for c in open_store(store).columns(kind) if c.name.startswith(slug)]
    return found


def rows(store, slug="captions-new"):
    opened, found = open_store(store), column(store, "captions", slug)
    shards = sorted(opened.done(found))
    return [row for s in shards for row in opened.rows(found, s)["captions"].to_pylist()]


def files(store):
    return {p.relative_to(store): p.read_bytes() for p in store.rglob("*") if p.is_file()}


def test_each_usable_sample_is_asked_about_once_with_its_texts_and_seed(store):
    says = Says(lambda request: [f"about {request.key}"])
    caption(store, says, name="new", seed=5, batch_size=3, **QUIET)
    keys = [request.key for request in says.asked]
    assert keys == [f"{n:04d}" for n in range(12) if n != 3]
    for request in says.asked:
        assert request.image is None
        assert request.seed == caption_seed(5, request.key)
        number = int(request.key)
        text = f"a {('red', 'green', 'blue', 'dark', 'light')[number % 5]} picture"
        assert request.texts == (() if number == 7 else (f"{text} of number {number}",))


def test_pictures_are_those_of_the_source(store):
    says = Says(lambda request: ["what it shows"], needs_image=True)
    caption(store, says, name="new", **QUIET)
    assert len(says.asked) == 11
    for request in says.asked:
        np.testing.assert_array_equal(request.image, picture(int(request.key)))


def test_the_next_batch_is_decoded_while_the_captioner_works(tmp_path, monkeypatch):
    write_source(tmp_path / "source", 60, samples_per_shard=60)
    reinforce(tmp_path / "source", tmp_path / "store", teachers=(), num_views=1, **QUIET)
    decoded = []
    monkeypatch.setattr(
        caption_work, "decode_image", lambda data: decoded.append(data) or picture(0)
    )

    def say(request):
        if request.key == "0000":
            wait_until(lambda: len(decoded) >= 40, seconds=60.0)
        return ["what it shows"]

    says = Says(say, needs_image=True)
    caption(tmp_path / "store", says, name="new", batch_size=20, **QUIET)
    assert len(decoded) == len(says.asked) == 60


def test_what_is_kept(store):
    def say(request):
        return {
            "0000": ["a  Dog", "A dog", "a RED picture of number 0", "x", "two words", "one more"],
            "0001": [],
            "0002": ["short"],
        }.get(request.key, ["some thing"])

    report = caption(store, Says(say), name="new", num_captions=5, **QUIET)
    found = rows(store)
    assert found[:4] == [["a Dog", "two words"], None, None, None]
    assert found[4:] == [["some thing"]] * 8
    assert report.dropped == {"duplicate": 2, "too-short": 2}
    assert report.skipped == {"no-caption": 1, "all-captions-dropped": 1}
    assert report.examples["no-caption"][0].startswith("'0001' in 00000.tar (captions-new-")
    assert (report.samples, report.written, report.shards, report.waiting) == (12, 10, 3, 0)
    assert audit(store).ok


def test_what_is_written_down(store):
    caption(store, Says(lambda r: ["a text"]), name="new", num_captions=2, seed=9, **QUIET)
    found = column(store, "captions", "captions-new")
    index, original = column(store, "index", ""), column(store, "captions", "captions-original")
    assert found.identity == {
        "set": "new",
        "captioner": "says",
        "captioner_fingerprint": hashlib.sha256(b"says").hexdigest(),
        "num_captions": 2,
        "seed": 9,
        "min_words": 2,
        "max_words": None,
        "score": None,
        "originals": original.name,
        "hangs_on": index.name,
        "caption_version": 1,
    }
    assert found.facts["licence"] == "CC0-1.0"
    assert found.facts["provenance"] == {"prompt": "Say it."}


def test_sets_are_added_beside_each_other_and_touch_nothing(store):
    before = files(store)
    teacher = tiny_teacher()
    caption(store, RuleCaptioner(), name="rules", **QUIET)
    after_one = files(store)
    assert before.items() < after_one.items()
    caption(store, Says(lambda r: ["a text"]), name="new", teachers=teacher, **QUIET)
    assert after_one.items() < files(store).items()
    assert set(rows(store, "captions-rules")[0]).isdisjoint(rows(store)[0])
    # And `reinforce` finds its own as it left them.
    again = reinforce(str(store.parent / "source"), store, teachers=teacher, num_views=2, **QUIET)
    assert again.shards_already_done == 3


def test_the_same_call_finds_its_work_done(store):
    says = Says(lambda r: ["a text"])
    caption(store, says, name="new", **QUIET)
    before, asked = files(store), len(says.asked)
    report = caption(store, says, name="new", **QUIET)
    assert (report.written, report.shards_already_done, report.samples) == (0, 3, 12)
    assert files(store) == before and len(says.asked) == asked


def test_another_seed_or_captioner_needs_another_name(store):
    caption(store, Says(lambda r: ["a text"]), name="new", **QUIET)
    before = files(store)
    with pytest.raises(ValueError, match=r"another caption set 'new'.*seed is 0, you give 1"):
        caption(store, Says(lambda r: ["a text"]), name="new", seed=1, **QUIET)
    with pytest.raises(ValueError, match=r"captioner is 'says', you give 'rules'.*name=\.\.\."):
        caption(store, RuleCaptioner(), name="new", **QUIET)
    assert files(store) == before


@pytest.mark.parametrize("codec", ["float16", "int8"])
def test_stored_rows_are_those_of_the_stored_captions(tmp_path, codec):
    write_source(tmp_path / "source")
    out, teacher = tmp_path / "store", tiny_teacher()
    reinforce(str(tmp_path / "source"), out, teachers=teacher, num_views=1, codec=codec, **QUIET)
    caption(out, RuleCaptioner(), name="rules", num_captions=3, teachers=teacher, **QUIET)
    opened = open_store(out)
    found = column(out, "text_embeddings", "text-tiny-rules")
    assert found.identity["codec"] == codec
    assert found.identity["hangs_on"] == column(out, "captions", "captions-rules").name
    codec_read = codec_of(opened.storage, found)
    stored, texts = TextRows(found, opened.rows(found, 0)), rows(out, "captions-rules")
    for row in range(5):
        assert len(texts[row]) == 3
        for number, text in enumerate(texts[row]):
            live = teacher.encode_text([text]).detach().numpy()
            live = codec_read.unit_rows(codec_read.encode(live), 16)
            read = codec_read.unit_rows(stored.encoded(row, number)[None], 16)
            np.testing.assert_allclose(read, live, atol=1e-3)
    assert audit(out, teachers=teacher).ok


def test_a_set_is_embedded_later_without_its_captioner(store):
    caption(store, RuleCaptioner(), name="rules", **QUIET)
    before, teacher = files(store), tiny_teacher()
    (original,) = open_store(store).columns("text_embeddings")
    report = caption(store, name="rules", teachers=teacher, **QUIET)
    assert [name[:15] for name in report.columns] == ["captions-rules-", "text-tiny-rules"]
    assert before.items() < files(store).items()
    assert audit(store, teachers=teacher).ok
    # The teacher that a reader finds is still that of the original captions.
    (read,) = open_dataset(store).teachers
    assert read.text.name == original.name


def test_a_codebook_is_taken_over(tmp_path):
    write_source(tmp_path / "source", 300, samples_per_shard=150)
    out, teacher = tmp_path / "store", tiny_teacher(embed_dim=64)
    reinforce(str(tmp_path / "source"), out, teachers=teacher, num_views=1, codec="pq64", **QUIET)
    caption(out, RuleCaptioner(), name="rules", num_captions=1, teachers=teacher, **QUIET)
    assert audit(out, teachers=teacher).ok


def test_the_score_filter_drops_what_a_teacher_finds_far(store):
    teacher = tiny_teacher()
    report = caption(
        store,
        RuleCaptioner(),
        name="new",
        num_captions=4,
        min_score=0.1,
        score_teacher=teacher,
        **QUIET,
    )
    assert report.dropped["low-score"] > 0
    assert report.written > 0
    caption(store, RuleCaptioner(), name="all", num_captions=4, **QUIET)
    opened, image = open_store(store), column(store, "image_embeddings", "image-tiny")
    codec, at = codec_of(opened.storage, image), 0
    for shard in range(3):
        views = ImageRows(image, opened.rows(image, shard), 2)
        kept = opened.rows(column(store, "captions", "captions-new"), shard)["captions"]
        every = opened.rows(column(store, "captions", "captions-all"), shard)["captions"]
        for row in range(len(kept)):
            wanted = []
            for text in every[row].as_py() or ():
                unit = codec.unit_rows(np.stack([views.encoded(row, k) for k in (0, 1)]), 16)
                live = teacher.encode_text([text]).detach().numpy()[0]
                wanted += [text] if (unit @ live).mean() >= 0.1 else []
            assert (kept[row].as_py() or []) == wanted
            at += len(wanted)
    assert at == report.written
    score = column(store, "captions", "captions-new").identity["score"]
    assert score["teacher"] == "tiny" and score["min_score"] == 0.1


def test_status_and_audit_count_a_set_at_once(store):
    caption(store, RuleCaptioner(), name="rules", teachers=tiny_teacher(), **QUIET)
    progress = {entry.name: entry for entry in store_progress(store).columns}
    found = {entry.name: entry for entry in audit(store).columns}
    for kind, slug in (("captions", "captions-rules"), ("text_embeddings", "text-tiny-rules")):
        name = column(store, kind, slug).name
        assert (progress[name].shards, progress[name].rows) == (3, 12)
        # Sample 3 is the index's, sample 7 has nothing to rewrite.
        assert found[name].null_rows == 2
        assert found[name].skipped == ({"no-caption": 1} if kind == "captions" else {})


def test_a_set_waits_for_shards_that_are_not_reinforced(store):
    index = column(store, "index", "").name
    (store / "commits" / index / "00002.json").unlink()
    report = caption(store, RuleCaptioner(), name="rules", **QUIET)
    assert (report.shards, report.waiting) == (2, 1)
    reinforce(str(store.parent / "source"), store, teachers=tiny_teacher(), num_views=2, **QUIET)
    report = caption(store, RuleCaptioner(), name="rules", **QUIET)
    assert (report.shards, report.shards_already_done, report.waiting) == (3, 2, 0)
    assert audit(store).ok


def test_a_source_of_pictures_alone_can_be_captioned(tmp_path):
    write_source(tmp_path / "source", [sample(n, txt="") for n in range(6)])
    reinforce(str(tmp_path / "source"), tmp_path / "store", teachers=(), num_views=1, **QUIET)
    says = Says(lambda r: [f"picture {r.key}"], needs_image=True)
    caption(tmp_path / "store", says, name="new", **QUIET)
    assert rows(tmp_path / "store") == [[f"picture {n:04d}"] for n in range(6)]


def test_equal_calls_write_equal_stores(store, tmp_path):
    caption(store, RuleCaptioner(), name="rules", batch_size=2, **QUIET)
    reinforce(
        str(tmp_path / "source"), tmp_path / "two", teachers=tiny_teacher(), num_views=2, **QUIET
    )
    caption(tmp_path / "two", RuleCaptioner(), name="rules", batch_size=5, **QUIET)
    assert rows(store, "captions-rules") == rows(tmp_path / "two", "captions-rules")
    for shard in range(3):
        both = []
        for path in (store, tmp_path / "two"):
            name = column(path, "captions", "captions-rules").name
            record = json.loads((path / f"commits/{name}/{shard:05d}.json").read_text())
            both.append((record["sha256"], record["skipped"]))
        assert both[0] == both[1]
