"""What a captioner is: pictures and texts in, new texts out, the same ones for the same seed.

`reinforced_data.caption` asks one for every sample of a store and writes the answers down. The
captioners themselves are in `teachers/captioners/`. Scores and likelihoods are left out: what a
caption is worth is judged by a teacher, not by its writer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from PIL import Image


@dataclass(frozen=True, kw_only=True)
class CaptionRequest:
    """One sample to be captioned.

    Attributes:
        key: the sample's; for messages alone.
        image: the decoded picture, RGB; None where `Captioner.needs_image` is False.
        texts: the source's captions, possibly none.
        seed: of everything random, below 2**63. A function of the run's seed and the key, so that
            a sample's captions depend neither on its neighbours nor on the order.
        seen: the texts of the stored caption set that the captioner reads, possibly none.
    """

    key: str
    image: Image.Image | None
    texts: tuple[str, ...]
    seed: int
    seen: tuple[str, ...] = ()


@runtime_checkable
class Captioner(Protocol):
    """Anything that writes captions.

    Attributes:
        name: short and readable; becomes part of a column's name.
        fingerprint: SHA-256 in hex over all that decides the output: weights, prompt, sampling.
        needs_image: whether pictures have to be decoded for it.
        licence: of the texts it writes, or None where it is not known.

    A captioner may also have `provenance: dict` of JSON values (model, prompt, sampling), which is
    written beside the captions; `reads: str`, the name of a caption set of the store whose texts
    it is given (`CaptionRequest.seen`); and `retries`, of a server that has to be asked again
    (`teachers.captioners.retries`).
    """

    name: str
    fingerprint: str
    needs_image: bool
    licence: str | None

    def caption(self, requests: Sequence[CaptionRequest], num_captions: int) -> list[list[str]]:
        """Return one list per request, of at most `num_captions` texts; it may be empty.

        Raises:
            ValueError: the user has to change something. Nothing is written of this shard.
            OSError: no network, no disk; the same command goes on later.
        """
        ...
