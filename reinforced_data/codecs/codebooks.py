"""Codebooks for product quantisation: fitted once per column, on the first rows of the source.

The first shards are embedded until there are enough rows; the same source, views and teacher give
the same codebook, and a store that has one already keeps it. What this pass computes is computed
again when the shards are written: 16,384 views are little beside any source worth quantising.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from reinforced_data.codecs.product_quantization import NUM_BYTES, check_width, fit_codebook
from reinforced_data.decoding import UnreadableImage
from reinforced_data.embedding import ImageEmbedder, Rows, embed_texts
from reinforced_data.pictures import Picture
from reinforced_data.shard_reader import BrokenShard, Sample, scan_shard
from reinforced_data.store.layout import Store
from reinforced_data.views import ViewPolicy, render_view, sample_view
from teachers import ClipModel

_MOST_ROWS = 16_384
_BATCH = 256


@dataclass(frozen=True, kw_only=True)
class Probe:
    """How views and captions of a store are drawn; see `reinforce`."""

    store: Store
    policy: ViewPolicy
    num_views: int
    seed: int
    render_version: int
    captions_from: str | None

    def samples(self) -> Iterator[Sample]:
        """Yield the source's usable samples in order; a broken shard ends where it breaks."""
        for shard in self.store.sources:
            try:
                for sample in scan_shard(shard, captions_from=self.captions_from):
                    if sample.problem is None:
                        yield sample
            except BrokenShard:
                continue


def fit_image_codebook(probe: Probe, teacher: ClipModel, codec: str) -> np.ndarray:
    """Fit on the first 16,384 views, as the teacher sees them.

    Raises:
        ValueError: the width does not suit the codec, or there are fewer than 256 rows.
    """
    check_width(codec, teacher.embed_dim, teacher.name)
    embedder, count = ImageEmbedder(teacher, _BATCH), 0
    for sample in probe.samples():
        try:
            views = list(_render(probe, sample, teacher))
        except UnreadableImage:
            continue
        for pixels in views:
            embedder.add(pixels)
        count += len(views)
        if count >= _MOST_ROWS:
            break
    return fit_codebook(_sound(embedder.finish()), NUM_BYTES[codec])


def _render(probe: Probe, sample: Sample, teacher: ClipModel) -> Iterator[np.ndarray]:
    picture = Picture(sample.image)
    aspect = picture.width / picture.height
    for index in range(probe.num_views):
        view = sample_view(
            probe.policy, probe.seed, sample.key, index, aspect, probe.render_version
        )
        yield render_view(picture, view, teacher.preprocess)


def fit_text_codebook(probe: Probe, teacher: ClipModel, codec: str) -> np.ndarray:
    """Fit on the first 16,384 different captions; raises as `fit_image_codebook` does."""
    check_width(codec, teacher.embed_dim, teacher.name)
    texts: dict[str, None] = {}
    for sample in probe.samples():
        texts.update(dict.fromkeys(sample.captions))
        if len(texts) >= _MOST_ROWS:
            break
    return fit_codebook(_sound(embed_texts(teacher, list(texts), _BATCH)), NUM_BYTES[codec])


def _sound(rows: Rows) -> np.ndarray:
    return rows.unit[[problem is None for problem in rows.problems()]]
