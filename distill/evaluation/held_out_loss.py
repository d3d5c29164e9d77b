"""The hard contrastive loss on pictures that were not trained on: finer than any recall.

As in training: of a batch of pairs each picture finds its own text and each text its own picture,
by softmax (CLIP, arXiv:2103.00020) or pairwise sigmoid (SigLIP, arXiv:2303.15343), at the model's
own scale and bias. A caption that two pictures of a batch share counts as two.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from distill.ops.image_text import image_text_loss
from teachers.clip_model import ClipModel

# The loss grows with the logarithm of the batch: figures are comparable at this size only.
BATCH_SIZE = 256


@torch.no_grad()
def held_out_loss(
    model: ClipModel,
    images: Float[Tensor, "n d"],
    captions: Sequence[str],
    texts: Sequence[str],
    text_rows: Float[Tensor, "t d"],
) -> float:
    """Average the loss over batches of 256 consecutive pairs.

    Args:
        model: whose scale, bias and kind of loss are taken.
        images: unit rows.
        captions: one a picture.
        texts: distinct; every caption is among them.
        text_rows: unit rows of `texts`.

    Returns:
        Nats a pair. What is left behind the last whole batch is not counted; a source of fewer
        than 256 pairs is one batch.
    """
    index = {text: place for place, text in enumerate(texts)}
    own = text_rows[[index[caption] for caption in captions]]
    size = min(BATCH_SIZE, len(captions))
    losses = [
        image_text_loss(model.with_head(image, text), kind=model.kind).contrastive
        for image, text in zip(images.split(size), own.split(size), strict=True)
        if len(image) == size
    ]
    return float(torch.stack(losses).double().mean())
