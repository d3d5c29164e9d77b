"""Processes that do a part of their launcher's work and do not outlive it.

A launcher that is killed cannot tell its processes to stop. Each therefore watches for its
launcher's end and then does what SIGTERM makes it do: stop where stopping costs little.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from typing import Any

import torch

# What every process of ours imports, in seconds that a server spends once for all of them.
_PRELOADED = ["distill.training", "students", "torch.utils.tensorboard"]


def process_context() -> BaseContext:
    """Say how processes are started: clean ones, forked from a server where that is safe.

    It is not where an import may open a GPU, which no fork can share, nor on macOS. The server
    keeps the environment of its start: see `take_environment`.
    """
    if sys.platform != "linux" or torch.cuda.is_available():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    return context


def take_environment(environment: Mapping[str, str]) -> None:
    """Give this process its launcher's environment of now."""
    os.environ.clear()
    os.environ.update(environment)


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


@dataclass(frozen=True)
class _Said:
    """A message on the way; whatever else a process sends is its outcome."""

    message: Any


def run_each(
    function: Callable[..., Any],
    calls: Sequence[tuple],
    *,
    heard: Callable[[Any], None],
    again: Callable[[Died], bool],
    meanwhile: Callable[[], None],
) -> list[Any]:
    """Run one process a call and wait for all; one that dies leaves the others alone.

    Ctrl-C reaches the launcher alone, which then sends every process SIGTERM.

    Args:
        function: importable by name; called with a function that tells the launcher something,
            then with the arguments.
        calls: the arguments of each process.
        heard: called with what a process tells.
        again: told of each that died; whether to make its call once more.
        meanwhile: called at least once a second; what it raises ends the processes.

    Returns:
        What each call returned, or `Died`.

    Raises:
        Whatever the first call that raised has raised, when all have ended.
    """
    outcomes: list[Any] = [None] * len(calls)
    running: dict[Connection, tuple[int, Any]] = {}
    try:
        for number in range(len(calls)):
            process, answer = _start(function, calls[number])
            running[answer] = (number, process)
        while running:
            for answer in wait(list(running), timeout=1.0):
                assert isinstance(answer, Connection)
                number, process = running[answer]
                said = _receive(process, answer)
                if isinstance(said, _Said):
                    heard(said.message)
                    continue
                del running[answer]
                outcomes[number] = said
                if isinstance(said, Died) and again(said):
                    process, answer = _start(function, calls[number])
                    running[answer] = (number, process)
            meanwhile()
    except BaseException:
        for _, process in running.values():
            process.terminate()
        raise
    finally:
        for _, process in running.values():
            process.join()
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return outcomes


def _start(function: Callable[..., Any], arguments: tuple) -> tuple[Any, Connection]:
    context = process_context()
    answer, sender = context.Pipe(duplex=False)
    # A launcher that ends on a second Ctrl-C must not wait for them: hence daemons.
    given = (sender, dict(os.environ), function, arguments)
    process = context.Process(target=_run, args=given, daemon=True)
    process.start()
    sender.close()  # or a dead process's pipe would stay open
    return process, answer


def _receive(process: Any, answer: Connection) -> Any:
    try:
        said = answer.recv()
    except (EOFError, OSError):  # OSError: in the middle of a message
        process.join()
        return Died(exit_code=process.exitcode)
    if not isinstance(said, _Said):
        process.join()
    return said


def _run(
    sender: Connection,
    environment: Mapping[str, str],
    function: Callable[..., Any],
    arguments: tuple,
) -> None:
    """Be one of the processes: outside the terminal's process group, ended by the launcher."""
    os.setpgrp()
    take_environment(environment)
    end_with_launcher()

    one_at_a_time = threading.Lock()  # a captioner's threads have things to tell too

    def send(said: Any) -> None:
        # BrokenPipeError: the launcher is gone, and nobody listens.
        with one_at_a_time, contextlib.suppress(BrokenPipeError):
            sender.send(said)

    try:
        outcome = function(lambda message: send(_Said(message)), *arguments)
    except BaseException as error:
        # Where it happened; a traceback does not travel.
        error.__cause__ = None
        if not isinstance(error, (ValueError, OSError, KeyboardInterrupt)):
            error.add_note(traceback.format_exc())
        outcome = error
    send(outcome)
