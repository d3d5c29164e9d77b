"""The page as a browser would read it: nothing from outside, nothing that runs, all there."""

import io
import json
import math
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).parents[1] / "parity"))
from browsing import CHROMIUM, needs_chromium

from distill.report import (
    Beyond,
    Curve,
    ExportedFile,
    ImageToTextCase,
    ReportData,
    RetrievalCase,
    Row,
    Step,
    write_report,
    write_report_json,
)
from distill.report.pictures import picture_uri

NASTY = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror='alert(2)'>",
    "{{ 7 * 7 }}{% raw %}",
    "</style></title><svg onload=alert(3)>",
    "\u202eabc\x00\x1b[31m\ud800",
    "javascript:alert(4)",
]


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.elements, self.words = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)

    def attributes(self, name):
        return [attrs[name] for _, attrs in self.elements if name in attrs]


def picture(size=32, form="PNG", colour="black"):
    image = Image.new("RGB", (size, size), "white")
    ImageDraw.Draw(image).ellipse((size // 4, size // 4, size // 2, size // 2), fill=colour)
    stream = io.BytesIO()
    image.save(stream, form)
    return stream.getvalue()


def row(name, top1, **more):
    more = {"role": "student", "image_params": 400_000, "text_params": 900_000, "steps": 400} | more
    factors = {"top1": 1.0, "top5": 1.5, "image_to_text_r10": 1.8}
    metrics = {f"unseen_pairs/{name}": top1 * factor for name, factor in factors.items()}
    metrics["unseen_characters/top1"] = top1
    return Row(name=name, metrics=metrics, **more)


def nasty_report(num_rows=12):
    rows = [row("teacher-a", 0.5, role="teacher", image_params=3_000_000, note=NASTY[0])]
    rows += [row(f"{NASTY[i % 6]} {i}", 0.2 + i / 99, distilled=i > 2) for i in range(num_rows)]
    hits = [(picture(), text, i == 1) for i, text in enumerate(NASTY)]
    return ReportData(
        title=NASTY[0], subtitle=NASTY[1], command=NASTY[3], rows=rows,
        environment={text: text for text in NASTY}, notes=NASTY, timings={NASTY[0]: 3.0},
        exports=[ExportedFile(format=NASTY[0], tower="image", path=NASTY[1], bytes=44_120)],
        curves=[
            Curve(name=text, series=NASTY[0], steps=[1, 2], values=[1.0, 2.0]) for text in NASTY
        ],
        retrieval=[
            RetrievalCase(query_text=NASTY[1], images=hits, model=NASTY[0]),
            RetrievalCase(query_text="broken", images=[(b"<svg>", "no picture", False)]),
            ImageToTextCase(image=picture(), caption=NASTY[1], texts=[(t, False) for t in NASTY]),
        ],
        lineage=[Step(what=t, which=t, facts={t: t}) for t in NASTY],
        beyond=[Beyond(name="teacher-a", split=text, scores={"ece": 0.1}) for text in NASTY],
        missing=[(text, text) for text in NASTY], skipped={NASTY[0]: 3},
    )  # fmt: skip


@pytest.fixture
def page(tmp_path):
    return Page(write_report(tmp_path / "deep" / "report.html", nasty_report()).read_text("utf-8"))


def test_nothing_on_the_page_can_run(page):
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "iframe", "object", "embed", "link", "base", "form", "a"}
    assert not [name for _, attrs in page.elements for name in attrs if name.startswith("on")]
    (policy,) = [a["content"] for _, a in page.elements if "http-equiv" in a]
    assert policy.startswith("default-src 'none'") and "script-src" not in policy


def test_nothing_is_loaded_from_elsewhere(page):
    sources = page.attributes("src") + page.attributes("href") + page.attributes("xlink:href")
    assert len(sources) == len(NASTY) + 1
    assert all(source.startswith("data:image/") for source in sources)
    words = "".join(page.words)
    assert "url(" not in words and "@import" not in words


def test_captions_are_shown_as_they_are(page):
    words = "".join(page.words)
    for text in (*NASTY[:4], NASTY[5]):
        assert text in words
    assert "\x1b" not in words and "\u202e" not in words


def test_hits_are_marked_in_words_too(page):
    words = "".join(page.words)
    assert words.count("\u2713 hit") == 1 and words.count("miss") == len(NASTY)
    assert words.count("not readable") == 1


def test_every_row_and_section_is_there(page):
    words = "".join(page.words)
    for row in nasty_report().rows[1:4]:
        assert row.name in words
    for section in ("results", "costs", "curves", "text-to-image", "image-to-text", "exports"):
        assert section in page.attributes("id")
    assert "best student" in words and "44.1\u00a0kB" in words


def test_an_empty_report_is_a_page_too(tmp_path):
    path = write_report(tmp_path / "report.html", ReportData(title="nothing yet", rows=[]))
    page = Page(path.read_text("utf-8"))
    assert not [tag for tag, _ in page.elements if tag == "section"]
    assert "nothing yet" in page.words


def test_writing_leaves_no_partial_file_and_replaces_the_old(tmp_path):
    for title in ("first", "second"):
        write_report(tmp_path / "report.html", ReportData(title=title, rows=[]))
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert "second" in (tmp_path / "report.html").read_text()


def test_json_has_the_agreed_keys(tmp_path):
    data = nasty_report()
    record = json.loads(write_report_json(tmp_path / "report.json", data).read_text())
    keys = "name role distilled image_params text_params steps metrics retention"
    assert all(list(row) == keys.split() for row in record["rows"])
    assert [row["name"] for row in record["rows"]] == [row.name for row in data.rows]
    assert record["rows"][0]["metrics"]["unseen_pairs/image_to_text_r10"] == 0.9
    assert record["rows"][0]["retention"] is None
    assert record["exports"] == [
        {"format": NASTY[0], "tower": "image", "path": NASTY[1], "bytes": 44_120,
         "relative_error": None, "latency_ms": None}
    ]  # fmt: skip
    assert record["timings"] == {NASTY[0]: 3.0}


def test_json_has_no_nan(tmp_path):
    data = ReportData(title="t", rows=[row("diverged", math.nan)])
    text = write_report_json(tmp_path / "report.json", data).read_text()
    assert (
        json.loads(text, parse_constant=pytest.fail)["rows"][0]["metrics"]["unseen_pairs/top1"]
        is None
    )


def test_small_pictures_stay_as_they_are_and_large_ones_shrink():
    small = picture_uri(picture())
    assert small.startswith("data:image/png;base64,")
    large = picture(1500, "JPEG")
    assert len(picture_uri(large)) < 16_000 < len(large)
    assert picture_uri(picture(64, "WEBP")).startswith("data:image/jpeg")


@pytest.mark.parametrize(
    "data", [b"", b"<svg onload=alert(1)>", picture()[:60], b"\xff\xd8\xff junk"]
)
def test_what_is_no_picture_is_left_out(data):
    assert picture_uri(data) == ""


def test_a_hundred_pictures_are_still_a_page(tmp_path):
    cases = [
        RetrievalCase(query_text=str(i), images=[(picture(), "x", True)] * 8) for i in range(13)
    ]
    path = write_report(tmp_path / "report.html", ReportData(title="t", rows=[], retrieval=cases))
    assert path.stat().st_size < 500_000


@needs_chromium
def test_it_is_light_on_light_screens_and_dark_on_dark_ones(tmp_path):
    path = write_report(tmp_path / "report.html", nasty_report())
    brightness = []
    for scheme in ("1", "0"):
        shot = tmp_path / f"{scheme}.png"
        switches = "headless no-sandbox disable-gpu disable-quic no-first-run disable-sync"
        switches += " disable-background-networking disable-component-update hide-scrollbars"
        line = [CHROMIUM, *(f"--{switch}" for switch in switches.split())]
        line += ["--window-size=900,1600", f"--user-data-dir={tmp_path / f'profile{scheme}'}"]
        line += [f"--screenshot={shot}", f"--blink-settings=preferredColorScheme={scheme}"]
        subprocess.run([*line, path.as_uri()], check=True, timeout=60, capture_output=True)
        levels = Image.open(shot).convert("L").getcolors()
        background = max(levels)[1]
        # Text stands out of the background, whichever it is.
        assert max(abs(level - background) for _, level in levels) > 150
        brightness.append(background)
    assert brightness[0] > 240 and brightness[1] < 40
