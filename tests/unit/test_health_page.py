"""The data-health page: what it says is what is in the store, and nothing in it gets out."""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "parity"))
from browsing import CHROMIUM, needs_chromium

from distill.cli import main
from distill.health_page import write_health
from distill.health_page.alike import nearest_others, neighbour_lists, twin_pairs
from distill.health_page.collecting import collect
from distill.health_page.data import Histogram
from distill.health_page.histogram import histogram_chart
from reinforced_data import ViewPolicy, add_scores, audit, caption, reinforce
from reinforced_data.store.layout import open_store
from reinforced_data.testing import encoded, picture, sample, tiny_teacher, write_source
from teachers import RuleCaptioner

HOSTILE = "<script>document.title='owned'</script>\"' onerror=alert(1) {{ 7*7 }} \u202e\x07 & <b>"
FLAGS = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking "
    "--hide-scrollbars --virtual-time-budget=2000 --dump-dom"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("health")
    samples = [sample(number) for number in range(24)]
    samples[3] = sample(3, txt=HOSTILE)
    texts = ["a red picture of number 9", "a dark picture of number 9"]
    member = json.dumps({"captions": texts})
    samples[5] = {"__key__": "0005", "png": encoded(picture(5)), "json": member}
    samples[6] = {**sample(6), "__key__": "k<img src=x>"}
    samples[9] = sample(9, png=b"no picture")
    samples[12] = sample(12, png=encoded(picture(12, 48, 20)))
    samples[20] = sample(20, png=encoded(picture(2)))  # a duplicate
    write_source(folder / "source", samples, samples_per_shard=8)
    reinforce(
        folder / "source",
        folder / "store",
        teachers=[tiny_teacher("a", seed=1), tiny_teacher("b<i>", seed=2, embed_dim=12)],
        num_views=2,
        policy=ViewPolicy(scale=(0.9, 1.0), num_ops=0),
        progress=False,
    )
    return folder


@pytest.fixture(scope="module")
def page(made) -> str:
    report = audit(made / "store", replay=4, progress=False)
    return write_health(made / "health.html", report, command="distill <audit>").read_text()


def test_the_numbers_are_those_of_the_store(made):
    report = audit(made / "store", replay=4, progress=False)
    data = collect(open_store(made / "store"), report)
    assert (data.samples, data.usable, data.sampled, data.shards) == (24, 23, 23, 3)
    assert [(s.count, s.examples) for s in data.skipped] == [(1, ["0009 in 00001.tar"])]
    shorter, ratio, _ = (histogram.values for histogram in data.pictures)
    assert sorted(shorter)[-1] == 20 and sorted(ratio)[-1] == pytest.approx(48 / 20)
    (captions,) = data.captions
    assert captions.texts == 24 and sorted(captions.per_sample.values)[-1] == 2
    assert captions.words.values.max() == len(HOSTILE.split())
    first, second = data.teachers
    assert (first.name, second.name) == ("a", "b<i>")
    assert len(first.norms.values) == 46 and first.nearest.values.max() > 0.9999
    a, b = first.twins[0]
    assert {a.key, b.key} == {"0002", "0020"} and float(a.note) > 0.999
    scores = [float(shown.note) for shown in first.lowest]
    assert scores == sorted(scores)
    assert scores[0] == pytest.approx(first.scores.values.min(), abs=1e-3)
    best = [float(shown.note) for shown in first.highest]
    assert best == sorted(best, reverse=True)
    assert all(shown.image.startswith(b"\x89PNG") for shown in (*first.lowest, *first.highest))
    for query, near in first.neighbours:
        assert query.place not in [shown.place for shown in near] and len(near) == 7


def test_scores_and_written_captions_have_histograms_and_a_sample_counts_once(made, tmp_path):
    shutil.copytree(made, tmp_path / "copy")
    store = tmp_path / "copy" / "store"
    teacher = tiny_teacher("a", seed=1)
    caption(store, RuleCaptioner(), name="rules", teachers=teacher, progress=False)
    table = {f"{number:04d}": number / 10 for number in range(20)}
    for name in ("aesthetic", "twice"):  # keys 0020 to 0023 and one of another name have none
        add_scores(store, name, {**table, "0000": 2.0 + len(name)}, progress=False)
    report = audit(store, replay=0, progress=False)
    data = collect(open_store(store), report)
    assert {(s.reason, s.count) for s in data.skipped} == {("not-an-image", 1), ("no-score", 5)}
    first, second = data.scores
    assert {first.title, second.title} == {"aesthetic", "twice"}
    assert np.isfinite(first.values).sum() == 18 and np.nanmax(first.values) > 3
    by_name = {teacher.name: teacher for teacher in data.teachers}
    assert by_name["b<i>"].written == []
    (written,) = by_name["a"].written
    assert written.title == "Picture and caption: rules" and len(written.values) == 23
    assert np.isfinite(written.values).all() and np.abs(written.values).max() <= 1.0001
    assert not np.array_equal(written.values, by_name["a"].scores.values)
    page = write_health(tmp_path / "health.html", report).read_text()
    assert "<h2>Scores</h2>" in page and "Picture and caption: rules" in page


def test_scores_are_those_of_the_teacher_itself(made):
    report = audit(made / "store", replay=4, progress=False)
    shown = collect(open_store(made / "store"), report).teachers[0].lowest[0]
    teacher = tiny_teacher("a", seed=1)
    text = teacher.encode_text([shown.caption])
    image = teacher.encode_image([Image.open(BytesIO(shown.image)).convert("RGB")])
    # Views cover nine tenths of the picture.
    assert float((text * image).sum()) == pytest.approx(float(shown.note), abs=0.15)


def test_whatever_captions_hold_is_text(page):
    assert "<script" not in page and "&lt;script&gt;" in page
    assert "onerror=alert(1) {{ 7*7 }}" in page and "&#34;&#39; onerror" in page
    assert "<img src=x" not in page and "&lt;img src=x&gt;, shard 0" in page
    assert "b<i>" not in page and "b&lt;i&gt;" in page
    assert "\u202e" not in page and "\x07" not in page
    assert "distill &lt;audit&gt;" in page


def test_it_asks_for_nothing(page):
    """No address, no script, no other file; and the browser is told to refuse any."""
    assert "default-src 'none'" in page
    assert re.findall(r"""(?:src|href|action)\s*=\s*["'](?!data:image/)""", page) == []
    assert "http://" not in page.replace("http://www.w3.org", "") and "https://" not in page
    assert "@import" not in page and "url(" not in page


@needs_chromium
def test_a_browser_shows_it_and_runs_nothing(made, page):
    with tempfile.TemporaryDirectory() as profile:
        command = [CHROMIUM, *FLAGS.split(), f"--user-data-dir={profile}"]
        dom = subprocess.run(
            [*command, f"file://{made}/health.html"], capture_output=True, text=True, timeout=300
        ).stdout
    assert "<title>Data health" in dom and "24 samples, 23 of them usable" in dom
    assert dom.count("<img") > 20 and dom.count("<svg") >= 6 and "<script" not in dom


def test_a_damaged_store_has_a_page_too(made, tmp_path):
    shutil.copytree(made, tmp_path / "copy")
    store = tmp_path / "copy" / "store"
    for pattern in ("image-a-*/00001*", "index-*/00002*"):
        (file,) = (store / "data").glob(pattern)
        file.write_bytes(file.read_bytes()[:-9])
    shutil.rmtree(tmp_path / "copy" / "source")
    out = tmp_path / "page.html"
    assert main(["audit", str(store), "--html", str(out)]) == 3
    page = out.read_text()
    assert "damaged-file" in page and "missing-source" in page and "not at hand" in page
    assert "problems" in page and "<script" not in page


def test_an_unreadable_store_has_none(tmp_path, capsys):
    (tmp_path / "sources.json").write_text("{")
    out = tmp_path / "page.html"
    assert main(["audit", str(tmp_path), "--html", str(out)]) == 2
    assert "nothing to show" in capsys.readouterr().err and not out.exists()


def test_neighbours_are_exact():
    rows = np.random.default_rng(0).standard_normal((40, 8)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows[30] = rows[4]
    cosines = rows @ rows.T
    np.fill_diagonal(cosines, -2)
    np.testing.assert_allclose(nearest_others(rows), cosines.max(1), atol=1e-6)
    assert twin_pairs(rows, 3)[0][:2] == (4, 30)
    for query, others in neighbour_lists(rows, 4, 6):
        found = [cosine for _, cosine in others]
        np.testing.assert_allclose(found, -np.sort(-cosines[query])[:6], atol=1e-6)
        np.testing.assert_allclose([cosines[query, i] for i, _ in others], found, atol=1e-6)
    assert neighbour_lists(rows[:2], 5, 7)


@pytest.mark.parametrize(
    ("values", "bars"),
    [
        (np.array([1.0, 1, 2, 5]), 3),
        (np.arange(2000.0), 36),
        (np.array([0.1, 0.2, np.nan]), 2),
        (np.array([3.0, 3.0]), 0),
        (np.array([]), 0),
    ],
)
def test_histograms(values, bars):
    chart = histogram_chart(Histogram(title="t", unit="u", values=values))
    if not bars:
        assert chart is None
        return
    heights = [int(n.replace(",", "")) for n in re.findall(r"to [\d.e+-]+: ([\d,]+)<", str(chart))]
    assert len(heights) == bars and sum(heights) == np.isfinite(values).sum()
