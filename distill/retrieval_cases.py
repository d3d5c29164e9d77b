"""What a student finds: pictures for a text and texts for a picture, for the report."""

import io
from collections.abc import Sequence

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from distill.report import ImageToTextCase, RetrievalCase
from distill.samples import real_samples
from teachers import ClipModel

_SEARCHED = 1_000
_SHOWN = 8
# Right ones, and as many wrong ones.
_EACH = 3


def retrieval_cases(model: ClipModel, source: str) -> list[RetrievalCase | ImageToTextCase]:
    """Rank a split's first pictures and texts by a model and show a few queries.

    Half of the queries find what they should first, half do not, as far as there are such; each
    half is spread evenly over the split.
    """
    pairs = real_samples(source, _SEARCHED)
    images, texts = [image for image, _ in pairs], [text for _, text in pairs]
    with torch.no_grad():
        scores = model.eval().encode_image(images) @ model.encode_text(texts).T
    cases: list[RetrievalCase | ImageToTextCase] = []
    ranks = _ranks(scores.T, texts)
    for query in _right_and_wrong(ranks):
        ranked = scores[:, query].argsort(descending=True)[:_SHOWN].tolist()
        shown = [(_png(images[i]), texts[i], texts[i] == texts[query]) for i in ranked]
        case = RetrievalCase(
            query_text=texts[query], images=shown, model=model.name,
            rank=ranks[query], among=len(pairs),
        )  # fmt: skip
        cases.append(case)
    ranks = _ranks(scores, texts)
    for query in _right_and_wrong(ranks):
        ranked = scores[query].argsort(descending=True)[:5].tolist()
        found = [(texts[i], texts[i] == texts[query]) for i in ranked]
        case = ImageToTextCase(
            image=_png(images[query]), texts=found, caption=texts[query], model=model.name,
            rank=ranks[query], among=len(pairs),
        )  # fmt: skip
        cases.append(case)
    return cases


def _ranks(scores: Float[Tensor, "n n"], texts: Sequence[str]) -> list[int]:
    """The place, from 1, at which each row finds its own text first."""
    numbers = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    own = torch.tensor([numbers[text] for text in texts], device=scores.device)
    order = scores.argsort(dim=1, descending=True)
    return ((own[order] == own[:, None]).int().argmax(1) + 1).tolist()


def _right_and_wrong(ranks: Sequence[int]) -> list[int]:
    right = [query for query, rank in enumerate(ranks) if rank == 1]
    wrong = [query for query, rank in enumerate(ranks) if rank > 1]
    # Where there are few of one, more of the other.
    wanted = [max(_EACH, 2 * _EACH - len(other)) for other in (wrong, right)]
    return [*_spread(right, wanted[0]), *_spread(wrong, wanted[1])]


def _spread(queries: Sequence[int], most: int) -> Sequence[int]:
    return queries[:: max(1, len(queries) // most)][:most]


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
