"""Processes of their own for tests, which can be killed, limited and told to stop."""

import multiprocessing
from collections.abc import Callable
from multiprocessing.process import BaseProcess

_LONGEST_SECONDS = 120


def start(function: Callable[..., None], *arguments: object) -> BaseProcess:
    """Start a process; a server that has imported torch forks it in milliseconds, not seconds.

    Args:
        function: of a module's top level, which the new process imports.
        arguments: of it.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["distill.training", "students", "torch.utils.tensorboard"])
    process = context.Process(target=function, args=arguments)
    process.start()
    return process


def end(process: BaseProcess) -> int:
    """Wait for a process; return its exit code, negative for a signal."""
    process.join(_LONGEST_SECONDS)
    assert process.exitcode is not None, "it hangs"
    return process.exitcode


def in_a_process(function: Callable[..., None], *arguments: object) -> int:
    """Start a process and wait for it; return its exit code, negative for a signal."""
    return end(start(function, *arguments))
