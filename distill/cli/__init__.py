"""The command line: verbs, one recipe argument, `--json` on each, no other training flag.

Exit codes: 0 done, 1 the program failed, 2 the user's input is wrong, 3 finished with
quarantined data. A verb is a frozen dataclass of arguments and a function; this module finds the
verb, prints its outcome and turns errors into exit codes.
"""

import json
import os
import sys
from collections.abc import Sequence

from rich.console import Console

from distill.cli.outcome import Outcome
from distill.cli.verbs import VERBS
from teachers.suggestions import unknown_name

_USAGE = "usage: distill VERB [ARGUMENTS] [--json]\n\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help"):
        width = max(map(len, VERBS)) + 2
        lines = (f"  {name:{width}}{verb.summary}" for name, verb in VERBS.items())
        print(_USAGE + "\n".join(lines) + "\n\ndistill VERB --help says more.")
        return 0
    as_json = "--json" in given
    given = [argument for argument in given if argument != "--json"]
    try:
        if given[0] not in VERBS:
            raise unknown_name("verb", given[0], VERBS)
        outcome = VERBS[given[0]].run(given[1:], Console(quiet=as_json))
    except (ValueError, FileNotFoundError, PermissionError) as error:
        return _fail(error, as_json)
    if as_json:
        print(json.dumps(outcome.values, indent=2, default=str))
    return outcome.exit_code


def _fail(error: Exception, as_json: bool) -> int:
    """Say what is wrong with the input; the traceback only for those who ask."""
    if os.environ.get("DISTILL_DEBUG"):
        raise error
    if as_json:
        print(json.dumps({"error": str(error)}))
    Console(stderr=True).print(f"[bold red]error:[/] {_escape(str(error))}", highlight=False)
    return 2


def _escape(text: str) -> str:
    return text.replace("[", r"\[")


__all__ = ["Outcome", "main"]
