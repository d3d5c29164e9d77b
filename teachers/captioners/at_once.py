"""Several requests at once, never more than a bound, and none that keeps a process from ending.

The standard library's pool waits for its threads when the interpreter ends, which after Ctrl-C is
as long as a silent server is silent; these threads are daemons.
"""

import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue

from teachers.captioners.posting import Halt


def answer_at_once(tasks: Sequence[Callable[[], str]], bound: int, halt: Halt) -> list[str]:
    """Run tasks in at most `bound` threads.

    Args:
        tasks: functions that return a text.
        bound: of threads.
        halt: given to whatever the tasks wait for; set when one fails, and at the end.

    Returns:
        The texts, in the order of the tasks.

    Raises:
        Exception: the first failure of a task, at once: the others are not waited for.
    """
    waiting: SimpleQueue[tuple[int, Callable[[], str]]] = SimpleQueue()
    answered: SimpleQueue[tuple[int, str, Exception | None]] = SimpleQueue()
    for numbered in enumerate(tasks):
        waiting.put(numbered)

    def work() -> None:
        while not halt.is_set():
            try:
                number, task = waiting.get_nowait()
            except Empty:
                return
            try:
                answered.put((number, task(), None))
            except Exception as error:  # it is raised where the answers are awaited
                halt.because(error)
                answered.put((number, "", error))

    for _ in range(min(bound, len(tasks))):
        threading.Thread(target=work, name="caption", daemon=True).start()
    texts = [""] * len(tasks)
    try:
        for _ in tasks:
            number, text, error = answered.get()
            if error is not None:
                raise halt.cause or error
            texts[number] = text
    finally:
        halt.set()
    return texts
