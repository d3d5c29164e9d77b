"""Image-text retrieval: recall at 1, 5 and 10, both ways, over unique texts.

A caption that several images share is one text. Image to text is right when any text of the image
is among the first k; text to image when any image that carries the text is.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from distill.evaluation.ranking import recall_at, worst_ranks


def unique_texts(captions: Sequence[Sequence[str]]) -> list[str]:
    """List every caption once, in the order of first appearance."""
    return list(dict.fromkeys(text for texts in captions for text in texts))


def retrieval(
    images: Float[Tensor, "n d"],
    captions: Sequence[Sequence[str]],
    texts: Sequence[str],
    text_rows: Float[Tensor, "t d"],
) -> dict[str, float]:
    """Score unit rows; `texts` are `unique_texts(captions)`, and each image has a caption."""
    index = {text: i for i, text in enumerate(texts)}
    pairs = sorted({(i, index[text]) for i, own in enumerate(captions) for text in own})
    image_to_text = torch.tensor(pairs, device=images.device).T
    text_to_image = torch.tensor(sorted((t, i) for i, t in pairs), device=images.device).T
    ranks = {
        "image_to_text": worst_ranks(images, text_rows, image_to_text),
        "text_to_image": worst_ranks(text_rows, images, text_to_image),
    }
    return {f"{way}_r{k}": recall_at(ranks[way], k) for way in ranks for k in (1, 5, 10)}
