"""What `pack` has counted: shard by shard, so that a stopped run knows it again."""

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

_EXAMPLES = 10


@dataclass
class Tally:
    """Counts that grow; `rows` = `samples` + `copies` + all of `skipped`.

    Attributes:
        rows: of the input, in packing order.
        samples: that became samples.
        copies: pictures that were there already.
        shrunk: how many samples were encoded anew.
        labels: the different classes.
        skipped: reason -> count.
        examples: reason -> the first few names.
        digests: of the pictures, where copies are dropped.
    """

    rows: int = 0
    samples: int = 0
    copies: int = 0
    shrunk: int = 0
    labels: set[str] = field(default_factory=set)
    skipped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    digests: set[bytes] = field(default_factory=set)

    def skip(self, name: str, reason: str) -> None:
        """Count a row that cannot be used."""
        self.skipped[reason] += 1
        self._example(reason, name)

    def add(self, other: "Tally") -> None:
        """Add what came after."""
        self.rows += other.rows
        self.samples += other.samples
        self.copies += other.copies
        self.shrunk += other.shrunk
        self.labels |= other.labels
        self.digests |= other.digests
        self.skipped += other.skipped
        for reason, names in other.examples.items():
            for name in names:
                self._example(reason, name)

    def _example(self, reason: str, name: str) -> None:
        names = self.examples.setdefault(reason, [])
        if len(names) < _EXAMPLES:
            names.append(name)

    def counts(self) -> dict[str, Any]:
        """Return JSON values; the digests apart."""
        return {
            "rows": self.rows,
            "samples": self.samples,
            "copies": self.copies,
            "shrunk": self.shrunk,
            "skipped": dict(self.skipped),
            "examples": self.examples,
        }

    def to_json(self) -> bytes:
        """Return JSON that `from_json` reads back."""
        digests = b"".join(sorted(self.digests)).hex()
        content = {**self.counts(), "labels": sorted(self.labels), "digests": digests}
        return json.dumps(content).encode()

    @classmethod
    def from_json(cls, data: bytes, digest_bytes: int) -> "Tally":
        """Read it back."""
        content = json.loads(data)
        digests, size = bytes.fromhex(content.pop("digests")), digest_bytes
        found = {digests[i : i + size] for i in range(0, len(digests), size)}
        labels, skipped = set(content.pop("labels")), Counter(content.pop("skipped"))
        return cls(**content, labels=labels, skipped=skipped, digests=found)
