"""What a verb hands back."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Values for `--json` and the exit code (0 done, 3 finished with quarantined data)."""

    values: dict[str, Any] = field(default_factory=dict)
    exit_code: int = 0


class Failed(Exception):  # noqa: N818 - an answer, no defect
    """The program did its work, and the answer is no: exit code 1, without a traceback."""
