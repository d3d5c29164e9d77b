"""`distill status`: how far a store or a training run has come, from any machine that sees it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from distill.cli.outcome import Outcome
from distill.cli.parsing import parse

if TYPE_CHECKING:
    from distill.progress import RunProgress
    from reinforced_data.store.progress import StoreProgress


@dataclass(frozen=True, kw_only=True)
class Status:
    """Progress, rate, time left and what was left out of a store or a training run.

    Reads the folder alone: no lock, nothing written, while others write.

    Attributes:
        paths: folders of reinforced datasets or runs; any fsspec URL.
    """

    paths: Annotated[tuple[str, ...], tyro.conf.Positional]


def run_status(arguments: Sequence[str], console: Console) -> Outcome:
    """Find out what each folder is, and print it."""
    paths = parse(Status, "status", arguments).paths
    if not paths:
        raise ValueError("status of what? Give the folder of a store or of a run, or several")
    found = [_status(path, console) for path in paths]
    return Outcome(values=found[0] if len(found) == 1 else {"runs": found})


def _status(path: str, console: Console) -> dict[str, Any]:
    """Print one folder's, and return it as JSON values."""
    from distill.progress import is_run, run_progress
    from reinforced_data.store.progress import store_progress
    from reinforced_data.store.storage import Storage

    storage = Storage(path)
    if storage.exists("sources.json"):
        store = store_progress(path)
        _print_store(store, console)
        return store.to_json()
    if is_run(storage):
        run = run_progress(path)
        _print_run(run, console)
        return run.to_json()
    raise ValueError(
        f"{storage.name} is neither a reinforced dataset (it has no sources.json) nor a training "
        "run (no config.json, no log.jsonl): give the folder that distill reinforce or distill "
        "train was told to write"
    )


def _print_store(progress: "StoreProgress", console: Console) -> None:
    total = progress.shards
    state = "complete" if progress.complete else f"{duration(progress.seconds_left)} left"
    console.print(
        f"{progress.store}: {progress.shards_done:,} of {total:,} shards "
        f"({_percent(progress.shards_done, total)}), {progress.samples:,} samples, {state}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    table = _table(console, "column", "shards", "", "rows", "MB", "rows/s", "left", "left out")
    for column in progress.columns:
        rate = column.rows_per_second
        table.add_row(
            escape(column.name),
            f"{column.shards:,}/{total:,}",
            _bar(column.shards, total) if console.is_terminal else _percent(column.shards, total),
            f"{column.rows:,}",
            f"{column.bytes / 1e6:,.1f}",
            "" if rate is None else f"{rate:,.0f}",
            duration(column.seconds_left),
            f"{sum(column.skipped.values()):,}",
        )
    console.print(table)
    _print_counts(progress.skipped, console)
    for shard in progress.cut_shards:
        console.print(
            f"  cut: {shard}; fetch it again and run reinforce again", style="yellow", markup=False
        )
    for reason in progress.quarantined.values():
        console.print(f"  {reason}", style="red", highlight=False, markup=False, soft_wrap=True)
    for who, seconds in progress.at_work.items():
        console.print(f"  at work: {who}, for {duration(seconds)}", markup=False)
    if not progress.complete and progress.seconds_since_commit is not None:
        console.print(f"last commit {duration(progress.seconds_since_commit)} ago")


def _print_run(progress: "RunProgress", console: Console) -> None:
    total = progress.num_steps
    state = "finished" if progress.finished else f"{duration(progress.seconds_left)} left"
    share = "" if not total else f" of {total:,} ({_percent(progress.step, total)})"
    console.print(
        f"{progress.run}: step {progress.step:,}{share}, {state}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    table = _table(console, "", "")
    if progress.steps_per_second is not None:
        speed = f"{progress.steps_per_second:,.2f} steps/s, {progress.samples_per_second:,.0f} "
        table.add_row("rate", speed + "samples/s")
    checkpoint = "none yet" if progress.checkpoint is None else f"step {progress.checkpoint:,}"
    table.add_row("checkpoint", checkpoint)
    for name, value in progress.loss.items():
        table.add_row(escape(f"loss {name}"), f"{value:.4f}")
    for name, value in progress.metrics.items():
        table.add_row(escape(name), f"{value:.4f}")
    console.print(table)
    if progress.sizes:
        from distill.mask_report import sizes_table

        console.print(sizes_table(progress.sizes), highlight=False)
    _print_counts(progress.refused, console)
    if not progress.finished and progress.seconds_since_record is not None:
        console.print(f"last record {duration(progress.seconds_since_record)} ago")


def _print_counts(skipped: dict[str, int], console: Console) -> None:
    for reason, count in skipped.items():
        console.print(
            f"  left out: {count:,} x {reason}", style="yellow", highlight=False, markup=False
        )


def _table(console: Console, *names: str) -> Table:
    """A table with rules on a terminal, and plain columns in a file."""
    box = SIMPLE_HEAD if console.is_terminal else None
    table = Table(box=box, show_header=any(names), pad_edge=False)
    for place, name in enumerate(names):
        table.add_column(name, justify="right" if place else "left", no_wrap=True)
    return table


def _bar(done: int, total: int, width: int = 12) -> str:
    filled = width * done // total if total else width
    return "[green]" + "━" * filled + "[/][dim]" + "━" * (width - filled) + "[/]"


def _percent(done: int, total: int) -> str:
    # Rounded down: 100 % is all of it.
    return f"{100 * done // total if total else 100} %"


def duration(seconds: float | None) -> str:
    """Seconds for people: `3 s`, `12 min`, `5 h 20 min`, `2 d 3 h`; `?` for None."""
    if seconds is None:
        return "?"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"
