"""How often a server had to be asked again, and why: counted, and said while it happens."""

import threading
from collections import Counter
from collections.abc import Callable


class Retries:
    """Counts by reason; any number of threads may note.

    Attributes:
        counts: reason -> how many requests were sent again for it.
        tell: called with a sentence at the first, tenth, hundredth ... of a reason; None: nobody.
    """

    def __init__(self) -> None:
        """Count from nothing."""
        self.counts = Counter[str]()
        self.tell: Callable[[str], None] | None = None
        self._lock = threading.Lock()

    def note(self, url: str, reason: str) -> None:
        """Count one more."""
        with self._lock:
            self.counts[reason] += 1
            count = self.counts[reason]
        if self.tell is not None and str(count).rstrip("0") == "1":
            self.tell(f"{url} is asked again ({count:,} x {reason})")


def retries_of(captioner: object) -> list[Retries]:
    """Find the counts of a captioner and of what it is made of (`model`, `visual`)."""
    own = getattr(captioner, "retries", None)
    parts = [getattr(captioner, name, None) for name in ("model", "visual")]
    inside = [found for part in parts if part is not None for found in retries_of(part)]
    return [*([own] if isinstance(own, Retries) else []), *inside]
