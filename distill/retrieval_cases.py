"""What a student finds: pictures for a text and texts for a picture, for the report."""

import io
from collections.abc import Sequence
from itertools import islice
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from distill.evaluation.embedding import embed_source
from distill.evaluation.ranking import TIE
from distill.evaluation.retrieval import unique_texts
from distill.evaluation.zero_shot import embed_texts
from distill.report import ImageToTextCase, RetrievalCase
from reinforced_data.source import Sample, decode_image, open_source
from teachers import ClipModel
from teachers.clip_model import evaluating

Item = TypeVar("Item")

_SEARCHED = 1_000
_SHOWN = 8
_SHOWN_TEXTS = 5
# Right ones, and as many wrong ones.
_EACH = 3


def retrieval_cases(model: ClipModel, source: str) -> list[RetrievalCase | ImageToTextCase]:
    """Rank a split's first pictures and their first captions by a model and show a few queries.

    Half of the queries find what they should first, half do not, as far as there are such; each
    half is spread evenly over the split. Equal captions are one text and ties count against the
    model, as in `evaluate`. Empty where no sample has a caption.
    """
    pairs = _captioned(source)
    if not pairs:
        return []
    with evaluating(model), torch.no_grad():
        found = embed_source(model, pairs)
        pairs = [pairs[place] for place in found.places]
        images, captions = [pair.image for pair in pairs], [pair.captions[0] for pair in pairs]
        texts = unique_texts([[caption] for caption in captions])
        scores = found.images @ embed_texts(model, texts).T
    hits = torch.tensor([[text == own for text in texts] for own in captions], device=scores.device)
    cases: list[RetrievalCase | ImageToTextCase] = []
    order, ranks = _ranked(scores.T, hits.T)
    for query in _right_and_wrong(ranks):
        ranked = order[query, :_SHOWN].tolist()
        shown = [(_png(images[i]), captions[i], captions[i] == texts[query]) for i in ranked]
        case = RetrievalCase(
            query_text=texts[query], images=shown, model=model.name,
            rank=ranks[query], among=len(images),
        )  # fmt: skip
        cases.append(case)
    order, ranks = _ranked(scores, hits)
    for query in _right_and_wrong(ranks):
        ranked = order[query, :_SHOWN_TEXTS].tolist()
        found = [(texts[i], texts[i] == captions[query]) for i in ranked]
        case = ImageToTextCase(
            image=_png(images[query]), texts=found, caption=captions[query], model=model.name,
            rank=ranks[query], among=len(texts),
        )  # fmt: skip
        cases.append(case)
    return cases


def _captioned(source: str) -> list[Sample]:
    """The first samples with a caption, still encoded: a thousand decoded photographs are 36 GB."""
    captioned = (sample for sample in open_source(source) if sample.captions)
    return list(islice(captioned, _SEARCHED))


def _ranked(
    scores: Float[Tensor, "q g"], hits: Bool[Tensor, "q g"]
) -> tuple[Int64[Tensor, "q g"], list[int]]:
    """Order the gallery for each query, best first, and say at which place the first hit is."""
    # A wrong one that ties with the right one stands before it.
    order = (scores - TIE * hits).argsort(dim=1, descending=True, stable=True)
    return order, (hits.gather(1, order).int().argmax(1) + 1).tolist()


def _right_and_wrong(ranks: Sequence[int]) -> list[int]:
    right = [query for query, rank in enumerate(ranks) if rank == 1]
    wrong = [query for query, rank in enumerate(ranks) if rank > 1]
    # Where there are few of one, more of the other.
    wanted = [max(_EACH, 2 * _EACH - len(other)) for other in (wrong, right)]
    return [*evenly(right, wanted[0]), *evenly(wrong, wanted[1])]


def evenly(items: Sequence[Item], most: int) -> list[Item]:
    """Choose `most` of the items, from the first to near the last; all where there are fewer."""
    count = min(most, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def _png(image: bytes) -> bytes:
    buffer = io.BytesIO()
    decode_image(image).save(buffer, format="PNG")
    return buffer.getvalue()
