"""A batch: what a training step reads, as tensors. How it is read is in batches.py."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor

from teachers import Embeddings


class Texts(NamedTuple):
    """One text of each sample of a batch.

    Attributes:
        tokens: of the captions.
        caption_ids: equal captions, equal ids, on every rank.
        teachers: for each teacher the rows of exactly the batch's views and these captions.
    """

    tokens: Int64[Tensor, "b context"]
    caption_ids: Int64[Tensor, " b"]
    teachers: tuple[Embeddings, ...]


@dataclass(frozen=True)
class Batch:
    """One step's samples, or this rank's part of them.

    Attributes:
        keys: of the samples.
        pixels: the view of each, at the student's own size; of size 0 where none was asked for.
        texts: one text of each sample, or two where the caption policy is sum: the source's,
            then a written one.
        refused: reason -> how many samples were dropped from this batch.
        epoch: passes over all samples before this one.
        step: the step this batch belongs to.
        weights: of each sample in the image-text loss, 1 on average over the whole step; None
            where all weigh the same.
        attention: a teacher's ranks of each view's patches, where they were asked for.
        numbers: each sample's own among all of the store, the same in every epoch.
    """

    keys: list[str]
    pixels: UInt8[Tensor, "b h w 3"]
    texts: tuple[Texts, ...]
    refused: dict[str, int]
    epoch: int
    step: int
    weights: Float32[Tensor, " b"] | None = None
    attention: UInt8[Tensor, "b rows columns"] | None = None
    numbers: Int64[Tensor, " b"] | None = None

    @property
    def tokens(self) -> Int64[Tensor, "b context"]:
        """The caption of each; of two, the first."""
        return self.texts[0].tokens

    @property
    def caption_ids(self) -> Int64[Tensor, " b"]:
        """Equal captions, equal ids, on every rank."""
        return self.texts[0].caption_ids

    @property
    def teachers(self) -> tuple[Embeddings, ...]:
        """For each teacher the rows of exactly these views and captions."""
        return self.texts[0].teachers

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """Copy the tensors to a device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Batch":
        """Copy the tensors to pinned memory; a DataLoader calls this."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        # Two texts of a picture share its image rows: they go over once.
        moved: dict[int, Tensor] = {}

        def once(tensor: Tensor) -> Tensor:
            if id(tensor) not in moved:
                moved[id(tensor)] = function(tensor)
            return moved[id(tensor)]

        texts = tuple(
            Texts(
                function(one.tokens),
                function(one.caption_ids),
                tuple(
                    Embeddings(
                        once(rows.image),
                        function(rows.text),
                        function(rows.logit_scale),
                        None if rows.logit_bias is None else function(rows.logit_bias),
                    )
                    for rows in one.teachers
                ),
            )
            for one in self.texts
        )
        weights = None if self.weights is None else function(self.weights)
        attention = None if self.attention is None else function(self.attention)
        numbers = None if self.numbers is None else function(self.numbers)
        return replace(
            self,
            pixels=function(self.pixels),
            texts=texts,
            weights=weights,
            attention=attention,
            numbers=numbers,
        )
