"""The command line: verbs, one recipe argument, `--json` on each, no other training flag.

Exit codes: 0 done, 1 the program failed, 2 the user's input is wrong, 3 finished with
quarantined data, 128 + the signal when told to stop (130: Ctrl-C). A verb is a frozen dataclass of
arguments and a function; this module finds the verb, prints its outcome and turns errors into exit
codes. With `--json` stdout holds one JSON document and nothing else; whatever else is printed goes
to stderr.
"""

import contextlib
import json
import os
import sys
import traceback
from collections.abc import Iterator, Sequence

from rich.console import Console

from distill.cli.outcome import Failed, Outcome
from distill.cli.verbs import VERBS
from distill.finite_json import without_nan
from teachers.suggestions import unknown_name

_USAGE = "usage: distill VERB [ARGUMENTS] [--json]\n\n"
_HELP = ("-h", "--help")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in _HELP:
        width = max(map(len, VERBS)) + 2
        lines = (f"  {name:{width}}{verb.summary}" for name, verb in VERBS.items())
        print(_USAGE + "\n".join(lines) + "\n\ndistill VERB --help says more.")
        return 0
    as_json = "--json" in given and not set(_HELP).intersection(given)
    given = [argument for argument in given if argument != "--json"]
    with _reserved_stdout() if as_json else contextlib.nullcontext():
        outcome = _run(given, as_json)
    if as_json:
        values = without_nan(outcome.values)
        print(json.dumps(values, indent=2, default=str, allow_nan=False))
    return outcome.exit_code


def _run(given: list[str], as_json: bool) -> Outcome:
    """Run the verb; an error becomes the outcome, and its text goes to stderr."""
    try:
        if given[0] not in VERBS:
            raise unknown_name("verb", given[0], VERBS)
        # In a file nothing has to fit the 80 columns that rich would assume.
        console = Console(quiet=as_json, width=None if sys.stdout.isatty() else 140)
        return VERBS[given[0]].run(given[1:], console)
    except SystemExit as ended:  # tyro has printed what is wrong with the arguments
        code = ended.code if isinstance(ended.code, int) else 1
        wrong = f"`distill {given[0]}` does not take these arguments; see --help"
        return Outcome(values={"error": wrong} if code else {}, exit_code=code)
    except KeyboardInterrupt as interrupt:
        # `reinforced_data.stop_signals.Interrupted` says more than a bare Ctrl-C.
        said = str(interrupt) or "interrupted; the same command goes on from here"
        return _failed(said, getattr(interrupt, "exit_code", 130))
    except (ValueError, FileNotFoundError, PermissionError) as error:
        return _failed(error, 2)
    except (OSError, Failed) as error:  # a full disk, no network: a traceback would not help
        return _failed(error, 1)
    except Exception as error:
        traceback.print_exc()
        return Outcome(values={"error": f"{type(error).__name__}: {error}"}, exit_code=1)


def _failed(error: Exception | str, code: int) -> Outcome:
    """Say what is wrong; the traceback only for those who ask."""
    if os.environ.get("DISTILL_DEBUG"):
        traceback.print_exc()
    said = "\n".join([str(error), *getattr(error, "__notes__", [])])
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print("[bold red]error:[/]", _escape(said))
    return Outcome(values={"error": said}, exit_code=code)


def _escape(text: str) -> str:
    return text.replace("[", r"\[")


@contextlib.contextmanager
def _reserved_stdout() -> Iterator[None]:
    """Send to stderr what this process, its libraries and its children print."""
    sys.stdout.flush()
    with contextlib.redirect_stdout(sys.stderr):
        kept = os.dup(1)
        try:
            os.dup2(2, 1)
            yield
        finally:
            os.dup2(kept, 1)
            os.close(kept)


__all__ = ["Outcome", "main"]
