"""What a run leaves to read: `log.jsonl`, TensorBoard events and a progress bar.

One line a record; keys are the terms' names, units in the names. The bar goes to stderr, so that
`--json` on stdout stays clean.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch.utils.tensorboard import SummaryWriter


def progress_bars(show: bool) -> Progress:
    """A place for the bars of one or several runs; a context manager."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not show,
    )


class RunLog:
    """Writes records; a context manager. On ranks other than 0, and without a folder, silent."""

    def __init__(
        self,
        folder: Path | None,
        *,
        title: str,
        num_steps: int,
        first_step: int,
        bars: Progress,
        send: Callable[[int, dict[str, float]], None],
    ) -> None:
        """Open the files; a resumed run appends to its own log after dropping later records."""
        self._send = send
        self._file = self._board = None
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / "log.jsonl"
            kept = _records_before(path, first_step)
            partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
            partial.write_text("".join(kept))
            os.replace(partial, path)  # a kill between opening and writing would lose the log
            self._file = path.open("a")
            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step + 1)
        self._progress = bars
        self._task = self._progress.add_task(title, total=num_steps, completed=first_step, note="")

    def __enter__(self) -> "RunLog":
        """Nothing has to start."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the files."""
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()

    def advance(self, step: int) -> None:
        """Move the bar to `step`."""
        self._progress.update(self._task, completed=step)

    def write(self, step: int, values: dict[str, float], *, note: str | None = None) -> None:
        """Record scalars of a step."""
        if note is not None:
            self._progress.update(self._task, note=note)
        if self._file is not None and self._board is not None:
            record: dict[str, Any] = {"step": step, **values}
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
            for name, value in values.items():
                self._board.add_scalar(name, value, step)
            self._send(step, values)

    def warn(self, step: int, text: str) -> None:
        """Say something that should be looked at: above the bar and in the log."""
        self._progress.console.print(f"warning: {text}", style="yellow", markup=False)
        if self._file is not None:
            self._file.write(json.dumps({"step": step, "warning": text}) + "\n")
            self._file.flush()


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Return a run's records in order; empty when it has none."""
    path = folder / "log.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    # The last line may be in the middle of being written.
    return [json.loads(line) for line in lines if line.endswith("\n")]


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write JSON under a temporary name and rename it, so that no reader sees half of it."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(values, indent=2))
    os.replace(partial, path)


def _records_before(path: Path, step: int) -> list[str]:
    """The lines of an earlier attempt that are still true when a run goes on from `step`."""
    if not path.exists() or step == 0:
        return []
    lines = path.read_text().splitlines(keepends=True)
    return [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
