"""Progress of an audit on stderr, and the place where it stops when told to."""

import signal
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from reinforced_data.stop_signals import Interrupted, StopSignals


class AuditBar:
    """A bar over units, then over teachers' columns; a context manager."""

    def __init__(self, enabled: bool, said: Callable[[], str]) -> None:
        """Prepare it; what `said` returns ends the message of who is told to stop."""
        self._said = said
        self._signals = StopSignals()
        self._progress = Progress(
            TextColumn("audit {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            disable=not enabled,
            transient=True,
        )
        self._task = self._progress.add_task("", total=None)

    def __enter__(self) -> "AuditBar":
        """Show it, and take the signals over."""
        self._signals.__enter__()
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Take it away."""
        self._progress.stop()
        self._signals.__exit__(None, None, None)

    def begin(self, what: str, total: int) -> None:
        """Begin a stage."""
        self._progress.reset(self._task, total=total, description=what)

    def step(self, what: str | None = None) -> None:
        """One more is done; raises as `check` does. Any thread may call it."""
        self._progress.update(self._task, advance=1)
        if what is not None:
            self._progress.update(self._task, description=what)
        self.check()

    def check(self) -> None:
        """Raise `Interrupted` when a signal has come."""
        if self._signals.received:
            number = self._signals.received
            name = signal.Signals(number).name
            raise Interrupted(f"stopped by {name}; {self._said()}", 128 + number)
