"""What a student finds: pictures for a text and texts for a picture, for the report."""

import io

import torch
from PIL import Image

from distill.report import ImageToTextCase, RetrievalCase
from distill.samples import real_samples
from teachers import ClipModel

_SHOWN = 8
_QUERIES = 5


def retrieval_cases(model: ClipModel, source: str) -> list[RetrievalCase | ImageToTextCase]:
    """Rank a split's first pictures and texts by a model and show a few queries.

    Queries are spread evenly over the split, so they are not chosen by how well they went.
    """
    pairs = real_samples(source, 1_000)
    images, texts = [image for image, _ in pairs], [text for _, text in pairs]
    with torch.no_grad():
        scores = model.eval().encode_image(images) @ model.encode_text(texts).T
    cases: list[RetrievalCase | ImageToTextCase] = []
    queries = range(0, len(pairs), max(1, len(pairs) // _QUERIES))[:_QUERIES]
    for query in queries:
        ranked = scores[:, query].argsort(descending=True)[:_SHOWN].tolist()
        shown = [(_png(images[i]), texts[i], texts[i] == texts[query]) for i in ranked]
        cases.append(RetrievalCase(query_text=texts[query], images=shown, model=model.name))
    for query in queries:
        ranked = scores[query].argsort(descending=True)[:5].tolist()
        found = [(texts[i], texts[i] == texts[query]) for i in ranked]
        case = ImageToTextCase(
            image=_png(images[query]), texts=found, caption=texts[query], model=model.name
        )
        cases.append(case)
    return cases


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
