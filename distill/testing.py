"""Processes of their own for tests, which can be killed, limited and told to stop."""

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from multiprocessing.process import BaseProcess
from typing import Any

import psutil
import torch

from distill.worker_processes import process_context, take_environment

_LONGEST_SECONDS = 120


def start(function: Callable[..., None], *arguments: object) -> BaseProcess:
    """Start a process; a server that has imported torch forks it in milliseconds, not seconds.

    Args:
        function: of a module's top level, which the new process imports.
        arguments: of it.
    """
    given = (dict(os.environ), function, arguments)
    process = process_context().Process(target=_called, args=given)
    process.start()
    return process


def _called(
    environment: Mapping[str, str], function: Callable[..., None], arguments: tuple[object, ...]
) -> None:
    take_environment(environment)
    function(*arguments)


def signal_at(
    signum: int,
    event: int,
    names: Sequence[str] = ("fsync", "replace", "link"),
    *,
    times: int = 1,
    before: Callable[[str, tuple[Any, ...]], None] | None = None,
) -> None:
    """Send this process a signal at the given call, from 1 on, of these functions of `os`.

    `before` is called first, with the function's name and arguments: to leave behind what a signal
    alone would not.
    """
    seen = 0

    def watched(name: str) -> None:
        original = getattr(os, name)

        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal seen
            seen += 1
            if seen == event:
                if before is not None:
                    before(name, arguments)
                for _ in range(times):
                    os.kill(os.getpid(), signum)
            return original(*arguments, **named)

        setattr(os, name, call)

    for name in names:
        watched(name)


def workers_of(launcher: BaseProcess) -> list[psutil.Process]:
    """List the processes that a launcher has started; not the server that forks them."""
    below = psutil.Process(launcher.pid).children(recursive=True)
    servers = {child.pid for child in below if child.ppid() == launcher.pid}
    spawned = [child for child in below if "spawn_main" in " ".join(child.cmdline())]
    return spawned or [child for child in below if child.ppid() in servers]


def end(process: BaseProcess) -> int:
    """Wait for a process; return its exit code, negative for a signal."""
    process.join(_LONGEST_SECONDS)
    assert process.exitcode is not None, "it hangs"
    return process.exitcode


def in_a_process(function: Callable[..., None], *arguments: object) -> int:
    """Start a process and wait for it; return its exit code, negative for a signal."""
    return end(start(function, *arguments))


def in_ranks(size: int, function: Callable[..., object], *arguments: object) -> list[Any]:
    """Call `function(rank, *arguments)` in `size` processes that form a gloo group.

    Returns:
        What each rank's call returned: tensors and what Python has built in of numbers, texts,
        lists, tuples and dicts.
    """
    with tempfile.TemporaryDirectory() as folder:
        started = [start(_rank, folder, rank, size, function, arguments) for rank in range(size)]
        assert [end(process) for process in started] == [0] * size
        return [torch.load(f"{folder}/{rank}.pt", weights_only=True) for rank in range(size)]


def _rank(
    folder: str,
    rank: int,
    size: int,
    function: Callable[..., object],
    arguments: tuple[object, ...],
) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meet",
        rank=rank,
        world_size=size,
        # Where another one has failed, this one shall not wait for it longer than `end` does.
        timeout=timedelta(seconds=_LONGEST_SECONDS / 2),
    )
    torch.save(function(rank, *arguments), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()
