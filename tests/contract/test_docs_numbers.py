"""Numbers that are written by hand, in the README and in docs, are those of benchmarks/results."""

import re
import statistics
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs" / "build"))

import ladder_lengths  # noqa: E402
import ladder_tables  # noqa: E402
import suite_table  # noqa: E402
from results import LADDERS, RESULTS, ladder_command, of_metric, read, top1  # noqa: E402

README = (ROOT / "README.md").read_text()
# Of a number that was rounded to one decimal, or halved the other way.
ROUNDED = 0.0501
LADDER, SPLIT = "emoji64-fp32", "heldout"


def table(text: str, head: str) -> list[list[str]]:
    """Return the rows of the table whose header begins like this, the header first."""
    lines = text[text.index(head) :].partition("\n\n")[0].splitlines()
    cells = [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in lines]
    return [cells[0], *cells[2:]]


def test_the_ladder_of_the_readme():
    results, _ = read(RESULTS / f"ladder-{LADDER}.csv")
    first = top1(results, SPLIT)
    recall = of_metric(results, f"{SPLIT}/image_to_text_r10")
    head, *rows = table(README, "| row | held-out artist |")
    assert head[1:] == ["held-out artist", "minus undistilled", "beside", "R@10", "kept"]
    assert len(rows) >= 12
    for row, mean, minus, beside, recalled, kept in rows:
        key = re.split(r"[:(]", row)[0].strip().replace(" ", "-")
        line = first[key]
        for said, of in ((mean, line), (recalled, recall[key])):
            for number, column in zip(said.split(" +- "), ("mean", "standard_error"), strict=True):
                assert abs(float(number) - float(of[column])) < ROUNDED, row
        for share, of in zip(map(float, kept.split(", ")), (first, recall), strict=True):
            found = float(of[key]["mean"]) / float(of["teacher-a"]["mean"])
            assert abs(share - found) < ROUNDED / 10, row
        if minus:
            assert_difference(minus, line["minus_undistilled"], line["verdict"])
        if beside:
            base, _, said = beside.partition(": ")
            assert base.replace(" ", "-") == line["base"], row
            assert_difference(said, line["minus_base"], line["verdict_base"])


def assert_difference(said: str, stated: str, verdict: str) -> None:
    gain, _, called = said.partition(", ")
    assert abs(float(gain) - float(stated)) < ROUNDED and called == verdict, said


def test_the_command_above_a_ladder_is_the_one_that_makes_it():
    for name in LADDERS:  # what else lies there is of a reader's own data
        data, steps = ladder_command(name).removeprefix("make ladder DATA=").split(" STEPS=")
        assert data in ("glyphs", "emoji64") and name.startswith(data)
        lines, _ = read(RESULTS / f"ladder-{name}.csv")
        assert {line["steps"] for line in lines if line["row"] == "undistilled"} == {steps}, name


def test_what_a_short_ladder_says():
    page = (ROOT / "docs" / "results.md").read_text()
    said = page[page.index("## A short ladder") :].replace("\n", " ")
    results, _ = read(RESULTS / f"ladder-{LADDER}-72-steps.csv")
    first, recall = top1(results, SPLIT), of_metric(results, f"{SPLIT}/image_to_text_r10")
    mean = {row: float(line["mean"]) for row, line in first.items()}
    kept = [
        float(of["best-long"]["mean"]) / float(of["teacher-a"]["mean"]) for of in (first, recall)
    ]
    for number in (
        f"{round(mean['control'] - mean['undistilled'], 3):.1f} points",
        f"inherited weights {mean['inherited'] - mean['distilled']:.1f},",
        f"({mean['distilled']:.1f} and {mean['control-same-work']:.1f} %",
        f"keeps {kept[0]:.2f} of the larger teacher's top-1 and {kept[1]:.2f} of its R@10",
        f"({mean['early']:.1f} and {float(recall['early']['mean']):.1f} %)",
        f"({mean['undistilled']:.1f} and {float(recall['undistilled']['mean']):.1f})",
    ):
        assert number in said, number


def test_no_verdict_of_a_short_ladder_is_the_contrary_of_a_long_one():
    lines = [line for line in ladder_lengths.as_markdown().splitlines() if line.startswith("| ")]
    (_, wins, noise, loses) = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert wins[3] == "0" and int(wins[1]) >= 9 and int(noise[2]) > 0
    # The smaller batch, which the page names: it has four times the steps.
    assert loses[1] == "1"


def test_the_scaling_laws():
    laws, _ = read(RESULTS / f"scaling-{LADDER}-laws.csv")
    found = {(line["recipe"], line["at_gmacs"]): line for line in laws}
    page = (ROOT / "docs" / "scaling-laws.md").read_text()
    _, *rows = table(page, "| at the work of | missing, undistilled |")
    works = sorted({line["at_gmacs"] for line in laws}, key=float)
    for (_, plain, distilled, needs, _), at in zip(rows, works, strict=True):
        for recipe, said in (("undistilled", plain), ("distilled", distilled)):
            stated = [float(number) for number in re.findall(r"[\d.]+", said)]
            line = found[recipe, at]
            wanted = [float(line[name]) for name in ("error", "error_low", "error_high")]
            assert stated == pytest.approx(wanted, abs=ROUNDED), at
        line = found["distilled", at]
        assert float(needs.split()[0].rstrip(",")) == pytest.approx(
            float(line["undistilled_needs"]), abs=ROUNDED
        )
        assert ("noise" in needs) == ("noise" in line["verdict"])


def test_the_overhead_of_a_step_in_the_readme():
    ratios = {
        row["store"]: float(row["cpu_ratio"]) for row in read(RESULTS / "step-overhead.csv")[0]
    }
    words = " ".join(README.split())
    assert (
        f"{ratios['demo']:.2f} times (glyphs) and {ratios['emoji64']:.2f} times (emoji64)" in words
    )


def test_the_memory_of_the_loss():
    rows = read(RESULTS / "image-text-loss-cpu.csv")[0]
    last = {
        row["competitor"]: row for row in rows if row["loss"] == "2 teachers" and row["peak_mib"]
    }
    peak = {name: float(row["peak_mib"]) for name, row in last.items()}
    share = f"1/{peak['naive autograd'] / peak['ours, tiled']:.0f}"
    page = (ROOT / "docs" / "image-text-loss.md").read_text()
    assert f"{share} of" in README and f"memory is {share} of autograd's" in page
    found = [row for row in rows if row["commit"] == "29b84c7" and row["peak_mib"]]
    ours = {row["loss"]: row for row in found if row["competitor"] == "ours, tiled"}
    for row in found:
        if row["competitor"] != "chunk + checkpoint":
            assert f"{int(row['peak_mib']):,} MiB" in page, row
            if row is not ours[row["loss"]]:
                ratio = float(ours[row["loss"]]["milliseconds"]) / float(row["milliseconds"])
                assert f"{ratio:.2f}" in page, row


def test_from_how_many_rows_on_tiles_are_faster():
    measured = read(RESULTS / "image-text-loss-small.csv")[0]
    page = (ROOT / "docs" / "image-text-loss.md").read_text()
    head, *rows = table(page, "| rows | hard |")
    ratios = {(row["loss"], row["rows"]): row["tiled_over_reference"] for row in measured}
    stated = {
        (loss, row[0].replace(",", "")): cell
        for row in rows
        for loss, cell in zip(("hard", "2 teachers"), row[1:], strict=True)
    }
    assert head[1:] == ["hard", "2 teachers of 768"] and stated == ratios
    assert {f"commit {row['commit']}" for row in measured} <= {*re.findall(r"commit \w+", page)}


def test_what_the_suite_shows():
    page = (ROOT / "docs" / "evaluation.md").read_text()
    assert "\n".join(suite_table.suite_table()) + "\n" in page


def test_what_smaller_files_lose():
    """Over three students: top-1 lost, the largest share of the bytes, the most layers kept."""
    runs = [row for row in read(RESULTS / "quantised.csv")[0] if row["run"].startswith("wide-")]
    whole = {row["run"]: float(row["top1"]) for row in runs if row["format"] == "eager"}
    _, *stated = table((ROOT / "docs" / "export.md").read_text(), "| | precision | top-1 lost")
    assert len(stated) >= 9
    for form, precision, lost, image, text, kept in stated:
        asked = (form.strip("`"), precision)
        found = [row for row in runs if (row["format"], row["quantize"]) == asked]
        losses = [100 * (whole[row["run"]] - float(row["top1"])) for row in found]
        error = statistics.stdev(losses) / len(losses) ** 0.5
        assert lost == f"{statistics.mean(losses):.2f} +- {error:.2f}", asked
        for share, tower in ((image, "image"), (text, "text")):
            largest = max(float(row[f"{tower}_bytes_ratio"]) for row in found)
            assert share == f"{100 * largest:.1f} %", asked
        layers = max(int(row["image_kept_float"]) + int(row["text_kept_float"]) for row in found)
        assert int(kept) == layers, asked


def test_what_codecs_lose():
    page = (ROOT / "docs" / "codecs.md").read_text()
    measured = {row["codec"]: row for row in read(RESULTS / "codecs.csv")[0]}
    _, *rows = table(page, "| codec | bytes a row")
    assert {row[0].split()[0] for row in rows} == set(measured)
    for codec, _, *stated in rows:
        row = measured[codec.split()[0]]
        for text, name in zip(stated, ("one_minus_cosine", "kl_at_1", "kl_at_0.3"), strict=True):
            if text.startswith("< "):
                assert abs(float(row[name])) < float(text.removeprefix("< ")), (codec, name)
            else:
                assert abs(float(text) - float(row[name])) < 1e-9, (codec, name)


def test_times_of_fewer_tokens():
    rows = read(RESULTS / "token-dropping.csv")[0]
    page = " ".join((ROOT / "docs" / "tokens.md").read_text().split())
    said = page[page.index("At half of the patches") : page.index("All of it: [Results]")]
    for words, policy in (
        ("`attentive` by the store", "`attentive, stored`"),
        ("`attentive` by the moving average", "`attentive, ema`"),
        ("`random` at a quarter", "`random, quarter`"),
    ):
        said = said.replace(words, policy)
    # A number belongs to the policies named since the number before it.
    stated = {
        policy: share
        for words, share in re.findall(r"(.*?)(\d\.\d\d)", said)
        for policy in re.findall("`(.*?)`", words)
    }
    assert stated == {row["policy"]: f"{float(row['share_of_time']):.2f}" for row in rows[1:]}


def test_the_rates_of_views():
    rows = read(RESULTS / "views.csv")[0]
    page = " ".join((ROOT / "docs" / "views.md").read_text().split())

    def rates(contender: str, **where: str) -> str:
        times = [
            row["times_the_better_peer"]
            for row in rows
            if row["contender"] == contender and all(row[k] == v for k, v in where.items())
        ]
        return f"{min(times, key=float)} to {max(times, key=float)}"

    one, ten, peer = (rates(name) for name in ("ours, view", "ours, 10 views", "open_clip"))
    assert f"one view is {one} times as fast, ten views of one picture {ten} times per view" in page
    assert f"open_clip's transform reaches {peer} of torchvision's rate" in page
    assert f"(at 256 px {rates('ours, view', jpeg_pixels='256')})" in page


@pytest.mark.parametrize("data", ["glyphs", "emoji64"])
def test_what_inheritance_saves(data):
    measured = {row["row"]: row for row in read(RESULTS / f"inheritance-{data}.csv")[0]}
    page = (ROOT / "docs" / "inheritance.md").read_text()
    _, *rows = table(page, f"| {data}: image tower's units | times fewer steps")
    starts = [re.split(r"[:,]", name)[0] for name, *_ in rows]
    assert {*starts, *(f"{start}, distilled" for start in starts)} == set(measured)
    for start, (_, *cells) in zip(starts, rows, strict=True):
        for name, stated in ((start, cells[:2]), (f"{start}, distilled", cells[2:])):
            of_steps, of_top1 = ("times_fewer", "standard_error"), ("top1", "top1_error")
            for cell, columns in zip(stated, (of_steps, of_top1), strict=True):
                for number, column in zip(cell.split(" +- "), columns, strict=True):
                    assert abs(float(number) - float(measured[name][column])) < ROUNDED, name


PAGES = [path for path in (ROOT / "docs").glob("*.md") if ladder_tables.COLUMNS in path.read_text()]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_the_ladder_rows_of_a_page(page):
    """Each table is what docs/build/ladder_tables.py prints for its rows."""
    blocks = [block.splitlines() for block in page.read_text().split("\n\n")]
    tables = [lines for lines in blocks if ladder_tables.COLUMNS in lines[0]]
    assert tables
    for lines in tables:
        head = lines[0].partition(ladder_tables.COLUMNS)[0]
        (ladder,) = (name for name, first in ladder_tables.HEADS.items() if first == head)
        names = re.findall(r"^\| `([\w.-]+)` \|", "\n".join(lines), re.MULTILINE)
        assert ladder_tables.ladder_table(ladder, "heldout", names) == lines
