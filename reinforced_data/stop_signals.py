"""Being told to stop: a signal is remembered, and acted upon where stopping costs little.

SIGTERM is what a scheduler sends before it kills, SIGUSR1 what Slurm can be asked to send earlier
(`#SBATCH --signal=USR1@120`), SIGINT is Ctrl-C. After the first one the work ends where it likes to
(between two batches, after a checkpoint); a second one does what it would do without this module,
at once.
"""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class Interrupted(KeyboardInterrupt):
    """Work was told to stop and has stopped; the text says how to go on.

    Attributes:
        exit_code: 128 + the signal's number, as shells have it.
    """

    def __init__(self, said: str, exit_code: int) -> None:
        """Keep the text and the code."""
        super().__init__(said)
        self.exit_code = exit_code

    def __reduce__(self) -> tuple[type["Interrupted"], tuple[str, int]]:
        """Let a process tell its parent."""
        return Interrupted, (str(self), self.exit_code)


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
