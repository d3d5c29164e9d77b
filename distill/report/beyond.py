"""The table of what models were asked beside plain scores: only columns that somebody has."""

from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from distill.report.data import Beyond, Kind, Row
from distill.report.svg import legend_icon
from distill.report.wording import NOTHING, percent

# Test -> the column's head, and what it says. Heads break at spaces and soft hyphens.
_COLUMNS = {
    "top1": ("top\u20111", ""),
    "ece": ("calibration error", "how far confidence and accuracy lie apart; less is better"),
    "corrupted/top1": ("corrupted", "top-1, mean over the corruptions"),
    "typographic/top1": ("typo\u00adgraphic", "top-1 with another class's name on the picture"),
    "typographic/fooled": ("fooled", "how often that name is believed; less is better"),
    "resolution": ("", "top-1 with so many pixels a side"),
    "size": ("", "top-1 of the tower run at that size"),
    "agreement": ("agree\u00adment", "pictures put into the same class as by the teacher asked"),
    "kept_right": ("kept right", "of that teacher's right answers, those that are the model's too"),
    "probe_top1": ("linear probe", "top-1 of a classifier on the image rows"),
}
# Heads of those that are asked at several sizes.
_PIXELS = {"resolution": "{}\u00a0px", "size": "at\u00a0{}\u00a0px"}
_LEAKS = "pictures of the split that are in the training shards, and more that nearly are"


class BeyondRow(NamedTuple):
    """A model on a split: its mark and its cells, in the order of the heads."""

    icon: Markup
    model: str
    split: str
    cells: list[str]


class BeyondTable(NamedTuple):
    """Heads, rows, and (head, meaning) of the columns that are shown."""

    heads: list[str]
    rows: list[BeyondRow]
    meanings: list[tuple[str, str]]


def beyond_table(found: Sequence[Beyond], rows: Sequence[Row]) -> BeyondTable:
    """Lay out what there is."""
    kinds: dict[str, Kind] = {row.name: row.kind for row in rows}
    tests = _tests(found)
    leaks = any(each.leaks is not None for each in found)
    heads = [_head(test) for test in tests] + (["leaks"] if leaks else [])
    laid = [
        BeyondRow(
            legend_icon(kinds[each.name]), each.name, each.split.replace("_", " "),
            [percent(each.scores.get(test)) for test in tests] + ([_leaked(each)] if leaks else []),
        )
        for each in found
    ]  # fmt: skip
    return BeyondTable(heads, laid, _meanings(tests, leaks))


def _tests(found: Sequence[Beyond]) -> list[str]:
    """The columns' tests in the table's order; those of pixels from the finest down."""
    there = dict.fromkeys(test for each in found for test in each.scores)
    tests: list[str] = []
    for column in _COLUMNS:
        of_pixels = [test for test in there if test.startswith(f"{column}/") and column in _PIXELS]
        tests += [column] * (column in there) + sorted(of_pixels, key=_pixels, reverse=True)
    return tests


def _head(test: str) -> str:
    column = test.split("/")[0]
    return _PIXELS[column].format(_pixels(test)) if column in _PIXELS else _COLUMNS[test][0]


def _pixels(test: str) -> int:
    return int(test.split("/")[1])


def _leaked(each: Beyond) -> str:
    if each.leaks is None:
        return NOTHING
    return f"{each.leaks:,}" + (f" + {each.near_leaks:,}" if each.near_leaks else "")


def _meanings(tests: Sequence[str], leaks: bool) -> list[tuple[str, str]]:
    said: dict[str, str] = {}
    for test in tests:
        column = test.split("/")[0]
        if column in _PIXELS:
            said[_PIXELS[column].format("N")] = _COLUMNS[column][1]
        else:
            said[_head(test).replace("\u00ad", "")] = _COLUMNS[test][1]
    return [(head, words) for head, words in said.items() if words] + (
        [("leaks", _LEAKS)] if leaks else []
    )
