"""What a training run says that was told to stop (`reinforced_data.stop_signals`)."""

import signal

from reinforced_data.stop_signals import Interrupted


class Stopped(Interrupted):
    """A run was told to stop and has saved; the same call goes on."""

    def __init__(self, signum: int, step: int, folder: str) -> None:
        """Word what happened."""
        saved = f"saved in {folder}; the same command goes on" if folder else "nothing is saved"
        name = signal.Signals(signum).name
        super().__init__(f"stopped after step {step} by {name}; {saved}", 128 + signum)
