"""Being told to stop: a signal is remembered, and acted upon between two steps.

SIGTERM is what a scheduler sends before it kills, SIGUSR1 what Slurm can be asked to send earlier
(`#SBATCH --signal=USR1@120`), SIGINT is Ctrl-C. The first one lets the step end and a checkpoint be
written; a second one does what it would do without this module, at once.
"""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class Stopped(KeyboardInterrupt):
    """A run was told to stop and has saved; the same call goes on.

    Attributes:
        exit_code: 128 + the signal's number, as shells have it.
    """

    def __init__(self, signum: int, step: int, folder: str) -> None:
        """Word what happened."""
        saved = f"saved in {folder}; the same command goes on" if folder else "nothing is saved"
        super().__init__(f"stopped after step {step} by {signal.Signals(signum).name}; {saved}")
        self.exit_code = 128 + signum


class StopSignals:
    """Remembers the first stop signal; a context manager. Outside the main thread it does nothing.

    Attributes:
        received: the signal's number, or 0.
    """

    def __init__(self) -> None:
        """Nothing has come yet."""
        self.received = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        """Take the signals over."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._remember) for number in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give them back."""
        self._give_back()

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self._give_back()

    def _give_back(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
