"""The page: ready values for `health.html.j2`, which holds the words and the order.

One file that needs no network and no script. Captions and keys may come from anyone: they are
escaped, and the page forbids itself any request.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from distill.health_page.collecting import collect
from distill.health_page.data import HealthData, Histogram, Shown
from distill.health_page.histogram import histogram_chart
from distill.report.page import environment
from distill.report.pictures import picture_uri
from distill.report.wording import count, size
from distill.report.writing import write_page
from reinforced_data.auditing.auditing import AuditReport
from reinforced_data.store.layout import open_store


def write_health(
    path: str | Path,
    report: AuditReport,
    *,
    samples: int = 4096,
    seed: int = 0,
    command: str = "",
    step: Callable[[], None] = lambda: None,
) -> Path:
    """Write the data-health page of a store that was audited.

    Args:
        path: the HTML file.
        report: the audit of the store, which is read once more for pictures and distributions.
        samples, seed, command, step: see `collect`.

    Raises:
        ValueError: the store is gone, or its list of sources is damaged.
        OSError: the file cannot be written.
    """
    data = collect(
        open_store(report.store), report, samples=samples, seed=seed, command=command, step=step
    )
    return write_page(Path(path), render(data))


def health_fragment(report: AuditReport, *, samples: int = 4096, seed: int = 0) -> Markup:
    """The page's headline and sections alone, escaped, for a page around them; see `collect`."""
    data = collect(open_store(report.store), report, samples=samples, seed=seed)
    return Markup(_rendered("fragment.html.j2", data))


def render(data: HealthData) -> str:
    """The page as text."""
    return _rendered("health.html.j2", data)


def _rendered(template: str, data: HealthData) -> str:
    return (
        environment("distill.health_page")
        .get_template(template)
        .render(
            data=data,
            headline=_headline(data),
            tiles=_tiles(data),
            pictures=[_figure(histogram) for histogram in data.pictures],
            scores=[_figure(histogram) for histogram in data.scores],
            captions=[
                (captions, [_figure(captions.words), _figure(captions.per_sample)])
                for captions in data.captions
            ],
            teachers=[_teacher(data, number) for number in range(len(data.teachers))],
        )
    )


def _headline(data: HealthData) -> str:
    found = len(data.findings)
    problems = "no problems" if not found else f"{found} problem{'s' if found > 1 else ''}"
    if data.samples == data.usable:
        return f"{data.samples:,} samples, all usable, {problems}"
    return f"{data.samples:,} samples, {data.usable:,} of them usable, {problems}"


def _tiles(data: HealthData) -> list[tuple[str, str, str]]:
    """(label, large number, small print)."""
    share = 100 * data.usable / max(1, data.samples)
    texts = sum(captions.texts for captions in data.captions) / max(1, data.sampled)
    # Rounded down: 100 % is all of it.
    usable = f"{share:.0f}" if share in (0, 100) else f"{int(share * 10) / 10:.1f}"
    left_out = data.samples - data.usable
    return [
        ("samples", count(data.samples), f"in {data.shards:,} shards"),
        ("usable", f"{usable}\u00a0%", f"{left_out:,} left out"),
        ("on disk", size(data.bytes), f"{size(data.bytes // max(1, data.samples))} a sample"),
        ("captions per sample", f"{texts:.2g}", f"in {len(data.captions)} set"
         + ("s" if len(data.captions) != 1 else "")),
        ("teachers", str(len({column.model for column in data.columns if column.codec})),
         f"{len(data.columns)} columns"),
    ]  # fmt: skip


def _figure(histogram: Histogram) -> dict[str, Any]:
    values = histogram.values[np.isfinite(histogram.values)]
    same = f"{values[0]:.4g}" if len(values) and values.min() == values.max() else ""
    return {
        "title": histogram.title,
        "unit": histogram.unit,
        "chart": histogram_chart(histogram),
        "same": same,
    }


def _teacher(data: HealthData, number: int) -> dict[str, Any]:
    teacher = data.teachers[number]
    own = (teacher.scores, teacher.nearest, teacher.norms, *teacher.written)
    histograms = [histogram for histogram in own if histogram is not None]
    return {
        "name": teacher.name,
        "charts": [_figure(histogram) for histogram in histograms],
        "lowest": _cards(teacher.lowest),
        "highest": _cards(teacher.highest),
        "twins": [_cards(pair) for pair in teacher.twins],
        "neighbours": [(_cards([query])[0], _cards(near)) for query, near in teacher.neighbours],
    }


def _cards(shown: Sequence[Shown]) -> list[dict[str, str]]:
    return [
        {
            "uri": picture_uri(item.image) if item.image else "",
            "caption": item.caption,
            "note": item.note,
            "where": f"{item.key}, shard {item.place[0]}, row {item.place[1]}",
        }
        for item in shown
    ]
