"""Real pictures with their captions: what exported files are checked on and reports show."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from PIL import Image

from reinforced_data.source import Sample, UnreadableImage, decode_image, open_source


def real_samples(source: str | Sequence[str], count: int) -> list[tuple[Image.Image, str]]:
    """Return the first `count` (picture, first caption) pairs of a source that can be decoded.

    Raises:
        ValueError: there is none.
    """
    pairs = [
        (picture, sample.captions[0] if sample.captions else "")
        for sample, picture in islice(decoded(open_source(source)), count)
    ]
    if not pairs:
        raise ValueError(f"no picture of {source} can be read")
    return pairs


def decoded(samples: Iterable[Sample]) -> Iterator[tuple[Sample, Image.Image]]:
    """Decode pictures; those that cannot be are left out, as everywhere."""
    for sample in samples:
        with contextlib.suppress(UnreadableImage):
            yield sample, decode_image(sample.image)
