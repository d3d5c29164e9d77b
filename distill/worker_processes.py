"""Processes that do a part of their launcher's work and do not outlive it.

A launcher that is killed cannot tell its processes to stop. Each therefore watches for its
launcher's end and then does what SIGTERM makes it do: stop where stopping costs little.
"""

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any


def end_with_launcher() -> None:
    """Send this process SIGTERM when the one that started it has ended, however it did."""
    launcher = multiprocessing.parent_process()
    assert launcher is not None, "this is no process of multiprocessing's"

    def watch() -> None:
        launcher.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="end-with-launcher", daemon=True).start()


def end_if_alone() -> None:
    """End this process when its launcher has ended: a pool's would wait for work for ever."""
    launcher = multiprocessing.parent_process()
    if launcher is not None and not launcher.is_alive():
        os._exit(1)


@dataclass(frozen=True, kw_only=True)
class Died:
    """A process that ended without a result or an error.

    Attributes:
        exit_code: minus the signal's number when a signal killed it.
    """

    exit_code: int


def run_each(function: Callable[..., Any], calls: Sequence[tuple]) -> list[Any]:
    """Run one process a call and wait for all; one that dies leaves the others alone.

    Ctrl-C reaches the launcher alone, which then sends every process SIGTERM.

    Args:
        function: importable by name.
        calls: the arguments of each process.

    Returns:
        What each call returned, or `Died`.

    Raises:
        Whatever the first call that raised has raised, when all have ended.
    """
    context = multiprocessing.get_context("spawn")
    processes, answers = [], []
    for arguments in calls:
        answer, sender = context.Pipe(duplex=False)
        target = (sender, function, arguments)
        # A launcher that ends on a second Ctrl-C must not wait for them: hence daemons.
        processes.append(context.Process(target=_run, args=target, daemon=True))
        processes[-1].start()
        sender.close()  # or a dead process's pipe would stay open
        answers.append(answer)
    try:
        outcomes = [_outcome(*pair) for pair in zip(processes, answers, strict=True)]
    except BaseException:
        for process in processes:
            process.terminate()
        raise
    finally:
        for process in processes:
            process.join()
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return outcomes


def _outcome(process: Any, answer: Connection) -> Any:
    try:
        return answer.recv()
    except EOFError:
        process.join()
        return Died(exit_code=process.exitcode)


def _run(sender: Connection, function: Callable[..., Any], arguments: tuple) -> None:
    """Be one of the processes: outside the terminal's process group, ended by the launcher."""
    os.setpgrp()
    end_with_launcher()
    try:
        outcome = function(*arguments)
    except BaseException as error:
        # Where it happened; a traceback does not travel.
        error.__cause__ = None
        if not isinstance(error, (ValueError, OSError, KeyboardInterrupt)):
            error.add_note(traceback.format_exc())
        outcome = error
    sender.send(outcome)
