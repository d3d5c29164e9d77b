"""The results page's tables, read from benchmarks/results when the site is built.

A file's rows become one table. Columns that are the same in every row (the device, the commit) are
said once, below. What a ladder says is shown by split; its other metrics are folded away.
"""

import csv
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

from markdown_text import ROOT

RESULTS = ROOT / "benchmarks" / "results"

Rows = list[dict[str, str]]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a file of results holds.

    Attributes:
        title: the heading.
        command: what wrote it.
        text: what was measured, and how to read it.
    """

    title: str
    command: str
    text: str


_INHERITANCE = (
    "Steps, of 200, until the held-out contrastive loss is as low as that of a student from random "
    "weights, undistilled, after all 200; a seed each, looked at every 10 steps. The donor's image "
    "tower is seven times the student's. [Inheritance](inheritance.md#what-it-saves) says what the "
    "rows are."
)

FILES: dict[str, Measured] = {
    "inheritance-glyphs": Measured(
        title="What inherited weights save, on glyphs",
        command="python benchmarks/inheritance.py",
        text=_INHERITANCE,
    ),
    "inheritance-emoji64": Measured(
        title="What inherited weights save, on emoji64",
        command="python benchmarks/inheritance.py --data emoji64",
        text=_INHERITANCE,
    ),
    "step-overhead": Measured(
        title="A training step with and without distillation",
        command="python benchmarks/step_overhead.py",
        text="Processor time of a step that reads the store and computes affinity and feature "
        "terms, beside the same step without them.",
    ),
    "store-reading": Measured(
        title="Reading a store of a million samples",
        command="python benchmarks/store_reading.py",
        text="One batch of 1,024 in training order, without decoding pictures, and memory. A line "
        "is a run, on two cores that other jobs shared.",
    ),
    "views": Measured(
        title="Decoding and rendering views",
        command="python benchmarks/views.py",
        text="Images per second of processor time in one thread, from the bytes of a JPEG. "
        "[Views](views.md#throughput) says what is compared with what.",
    ),
    "view-workers": Measured(
        title="Views in two worker processes at once",
        command="python benchmarks/view_workers.py",
        text="Images per second of processor time, alone and beside a second worker: how much of "
        "it is kept. What the wall clock says needs two free cores; the load stands in the table.",
    ),
    "image-text-loss-cpu": Measured(
        title="The image-text loss on a CPU",
        command="python benchmarks/ops/image_text_loss.py",
        text="Forward and backward, processor time and peak memory, beside what others offer. "
        "[The image-text loss](image-text-loss.md) says how to read it.",
    ),
    "image-text-loss-small": Measured(
        title="Small batches of the image-text loss on a CPU",
        command="python benchmarks/ops/crossover.py",
        text="Forward and backward on tiles beside the same on whole matrices, in turns.",
    ),
    "suite-emoji64-fp32": Measured(
        title="The evaluation suite on the ladder's students",
        command="python benchmarks/suite.py --data emoji64",
        text="What `distill evaluate --tests` finds on the held-out artist, in %; compared with "
        "`distilled`, seed by seed. [Evaluation](evaluation.md#what-the-ladders-students-show) "
        "reads it.",
    ),
    "scaling-emoji64-fp32": Measured(
        title="Runs of 25 to 400 steps",
        command="python benchmarks/scaling.py --data emoji64",
        text="Held-out top-1 in %, and work in 1e9 multiplications of the student. "
        "[Scaling laws](scaling-laws.md#on-runs-of-our-own) says what the recipes are.",
    ),
    "scaling-emoji64-fp32-laws": Measured(
        title="Scaling laws of these runs",
        command="distill fit-scaling benchmarks/results/scaling-emoji64-fp32.csv --x gmacs "
        "--y top1 --by recipe --at ...",
        text="What is missing of top-1, fitted, with intervals of 95 %, at the work of 400, 800 "
        "and 1,600 steps; beside undistilled, and how much more work that needs for the same.",
    ),
    "export-formats": Measured(
        title="Every format and precision of one model",
        command="python benchmarks/export_table.py runs/ladder/emoji64/teacher-a "
        "--samples runs/ladder/emoji64/source/heldout",
        text="The ladder's larger teacher on emoji64 (353 and 422 thousand numbers, 32 pixels), "
        "checked on 16 pictures and their names. [Export](export.md#what-checked-means) says what "
        "an error is; `not run` where only a Mac could.",
    ),
    "token-dropping": Measured(
        title="Steps with fewer tokens",
        command="python benchmarks/token_dropping.py",
        text="The image tower's forward and backward. What a policy is: [Fewer tokens](tokens.md).",
    ),
    "quantised": Measured(
        title="Smaller files, each evaluated in its own runtime",
        command="python benchmarks/quantised.py --train 0 1 2",
        text="On 1,297 validation glyphs. wide-SEED are three students of 2.2 and 6.5 million "
        "numbers after 140 steps, calibrated on 64 stored views; teacher-a is the demo's larger "
        "teacher, calibrated on 32 pictures, measured before small layers stayed float. Bytes are "
        "relative to four for each number of the tower; errors to the mean distance between "
        "different inputs. "
        "[Export](export.md#smaller-files) says what a precision is.",
    ),
    "codecs": Measured(
        title="What a codec loses",
        command="python benchmarks/codecs.py",
        text="1 - cosine of a decoded row, and the divergence of the targets made from decoded "
        "rows, at the teacher's own scale and at 0.3 of it. [Codecs](codecs.md) has the choice.",
    ),
    "teacher-throughput": Measured(
        title="Stage 1 beside the bare teacher",
        command="python benchmarks/teacher_throughput.py",
        text="How long `reinforce` takes beside the model alone on ready tensors; a ratio of 1 is "
        "no overhead, more is faster.",
    ),
}

# By ladder: the heading, and what was measured.
LADDERS: dict[str, tuple[str, str]] = {
    "glyphs": (
        "The ladder on glyphs",
        "Characters that the demo renders. `unseen pairs` is a typeface that no model saw, "
        "`unseen characters` are names that none saw either.",
    ),
    "emoji64": (
        "The ladder on emoji64",
        "Five artists' emoji and their names to train on; the test is a sixth artist's. "
        "Teachers were trained in bfloat16: a first round of some rows, and the small ViT's at "
        "this length.",
    ),
    "emoji64-fp32": (
        "The ladder on emoji64, float32 teachers",
        "The same on a processor that does not multiply bfloat16: its teachers were trained "
        "in float32 and are others. Rows are compared with rows of these teachers only.",
    ),
    "emoji64-fp32-72-steps": (
        "The whole ladder on emoji64, 72 steps",
        "Every row there is, the small ViT's too, beside the same float32 teachers and with rates "
        "of its own: what two cores do in two and a half hours. "
        "[Beside 400 steps](#a-short-ladder-beside-a-long-one).",
    ),
}


def as_markdown() -> str:
    """Write every file of results as a section."""
    parts = []
    ladders = {path.stem.removeprefix("ladder-") for path in RESULTS.glob("ladder-*.csv")}
    for name in [*LADDERS, *sorted(ladders - set(LADDERS))]:
        parts += _ladder(RESULTS / f"ladder-{name}.csv")
    for name, measured in FILES.items():
        rows, notes = read(RESULTS / f"{name}.csv")
        parts += _head(measured)
        parts += [_table(*_without_constants(rows)), _provenance(rows, notes)]
    return "\n\n".join(parts) + "\n"


def read(path: Path) -> tuple[Rows, list[str]]:
    """Read a CSV and the comments in it."""
    lines = path.read_text().splitlines()
    notes = [line.lstrip("# ") for line in lines if line.startswith("#")]
    rows = [*csv.DictReader(line for line in lines if not line.startswith("#"))]
    for row in rows:
        if "provenance" in row:  # commit 0123abc, torch 2.14.1, ...
            commit, _, row["machine"] = row.pop("provenance").partition(", ")
            row["commit"] = commit.removeprefix("commit ")
    return rows, notes


def top1(rows: Rows, split: str) -> dict[str, dict[str, str]]:
    """Return a ladder's lines of one split's top-1: row -> line."""
    return of_metric(rows, f"{split}/top1")


def of_metric(rows: Rows, metric: str) -> dict[str, dict[str, str]]:
    """Return a ladder's lines of one metric of one split: row -> line."""
    return {line["row"]: line for line in rows if line["metric"] == metric}


def _head(measured: Measured) -> list[str]:
    return [f"## {measured.title}", measured.text, f"```text\n{measured.command}\n```"]


def _ladder(path: Path) -> list[str]:
    name = path.stem.removeprefix("ladder-")
    rows, notes = read(path)
    title, text = LADDERS.get(name, (f"The ladder on {name}", ""))
    parts = _head(Measured(title=title, command=ladder_command(name), text=text))
    splits = list(dict.fromkeys(line["metric"].partition("/")[0] for line in rows))
    titles = [split.replace("_", " ") for split in splits]
    lines = [["row", "compared with", "image parameters", *titles]]
    for row in dict.fromkeys(line["row"] for line in rows):
        of_row = [top1(rows, split).get(row) for split in splits]
        first = next(line for line in of_row if line)
        base, same_work = first["base"], first["same_work"]
        compared = f"{base}<br>(work: {same_work})" if same_work else base
        lines.append([row, compared, f"{int(first['image_params']):,}", *map(_score, of_row)])
    parts.append(_table(lines[0], lines[1:]))
    parts.append(
        "Top-1 in %, mean and standard error over the seeds. In brackets: points more than the row "
        "it is compared with, and whether that is beyond noise in every seed; after *work*, more "
        "than a row without its means that had as much work."
    )
    columns, cells = _without_constants(rows)
    every = _table(columns, cells).replace("\n", "\n    ")
    parts.append(f'??? note "Every metric and seed"\n\n    {every}')
    said = _commits(path.with_suffix("")) or notes
    parts.append("\n".join(f"*{line}.*" for line in said))
    return parts


def ladder_command(name: str) -> str:
    """Say what writes `ladder-NAME.csv`: a data set, a precision if not bf16, a length if not 400.

    A reader of the page can run it.
    """
    parts = re.fullmatch(r"(.+?)(?:-fp32)?(?:-(\d+)-steps)?", name)
    assert parts is not None
    return f"make ladder DATA={parts[1]} STEPS={parts[2] or 400}"


def _score(line: dict[str, str] | None) -> str:
    if line is None:
        return ""
    error = f" ± {line['standard_error']}" if line["standard_error"] else ""
    against = line["minus_base"]
    gain = f"<br>({rounded(against):+}, {line['verdict_base']})" if against else ""
    if line["minus_same_work"]:
        gain += f"<br>(work: {rounded(line['minus_same_work']):+}, {line['verdict_same_work']})"
    return f"{rounded(line['mean'])}{error}{gain}"


def rounded(number: str) -> Decimal:
    """Round to one decimal as a reader would: 6.05 to 6.1."""
    return Decimal(number).quantize(Decimal("0.1"), ROUND_HALF_UP)


def _commits(folder: Path) -> list[str]:
    """Say at which commit each row was run."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.glob("*.json")):
        found.setdefault(json.loads(path.read_text())["provenance"], []).append(path.stem)
    return [f"{', '.join(rows)}: {provenance}" for provenance, rows in found.items()]


def _without_constants(rows: Rows) -> tuple[list[str], list[list[str]]]:
    same = _constants(rows)
    columns = [name for name in rows[0] if name not in same]
    return columns, [[row[name] for name in columns] for row in rows]


def _constants(rows: Rows) -> dict[str, str]:
    same = {name: rows[0][name] for name in rows[0] if len({row[name] for row in rows}) == 1}
    return same if len(rows) > 1 else {}


def _provenance(rows: Rows, notes: list[str]) -> str:
    same = _constants(rows)
    said = [f"{name.replace('_', ' ')}: {value}" for name, value in same.items() if value]
    return f"*{'; '.join([*said, *notes])}.*" if said or notes else ""


def _table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(columns)
    lines = [" | ".join(name.replace("_", " ") for name in head), " | ".join(["---"] * len(head))]
    lines += [" | ".join(cell.replace("|", "\\|") for cell in row) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)
