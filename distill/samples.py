"""Real pictures with their captions: what exported files are checked on and reports show."""

from collections.abc import Sequence

from PIL import Image

from reinforced_data.source import decode_image, open_source


def real_samples(source: str | Sequence[str], count: int) -> list[tuple[Image.Image, str]]:
    """Return the first `count` (picture, first caption) pairs of a source."""
    pairs: list[tuple[Image.Image, str]] = []
    for sample in open_source(source):
        pairs.append((decode_image(sample.image), sample.captions[0] if sample.captions else ""))
        if len(pairs) == count:
            break
    return pairs
