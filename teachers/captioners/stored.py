"""A caption set that a store has already, in a captioner's place: for fusing it with the texts.

    FusionCaptioner(load_transformers("Qwen/Qwen2.5-1.5B-Instruct"), StoredCaptions("coca"))

VeCLIP and CapsFusion caption all pictures first and fuse later, on machines of another kind.
"""

from collections.abc import Sequence
from typing import Any

from teachers.captioners.prompts import fingerprint_of
from teachers.captioning import CaptionRequest


class StoredCaptions:
    """Says what the set holds; `reinforced_data.caption` puts it into the requests.

    Args:
        name: the set's. Which texts those are is part of the column that is written, not of this
            fingerprint.

    Raises:
        ValueError: no name.
    """

    needs_image: bool = False
    licence: str | None = None

    def __init__(self, name: str) -> None:
        """Remember the name."""
        if not name:
            raise ValueError("which caption set? fuse:set:NAME,LANGUAGE")
        self.reads, self.name = name, f"set-{name}"
        self.fingerprint = fingerprint_of("stored", name)
        self.provenance: dict[str, Any] = {"set": name}

    def caption(self, requests: Sequence[CaptionRequest], num_captions: int) -> list[list[str]]:
        """Return what is written of each sample."""
        return [list(request.seen[:num_captions]) for request in requests]
