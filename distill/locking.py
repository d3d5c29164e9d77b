"""Locked towers in a training step: frozen where they run, rows of the store where they do not."""

from dataclasses import dataclass

from torch import Tensor, nn

from reinforced_data import Batch
from reinforced_data.reading.batch import Texts
from students import Student


@dataclass(frozen=True, kw_only=True)
class LockedRows:
    """Where the rows of encoders that are not there are found in a batch.

    Attributes:
        image: which of the batch's teachers stands for the image encoder; None when there is one.
        text: likewise for the text encoder.
    """

    image: int | None = None
    text: int | None = None

    def images(self, batch: Batch, part: slice) -> Tensor | None:
        """What the image side is given in place of pixels; None where it wants pixels."""
        return None if self.image is None else batch.teachers[self.image].image[part]

    def texts(self, texts: Texts) -> Tensor | None:
        """What the text side is given in place of token ids; None where it wants those."""
        return None if self.text is None else texts.teachers[self.text].text


def lock_tower(student: Student, tower: str) -> list[nn.Module]:
    """Freeze a tower of the student, or none; return the modules to keep in eval mode."""
    if tower == "none":
        return []
    locked = list((student.image_tower if tower == "image" else student.text_tower).parameters())
    for parameter in locked:
        parameter.requires_grad_(False)
    frozen = {id(parameter) for parameter in locked}
    return [
        module
        for module in student.modules()
        if (own := list(module.parameters())) and all(id(p) in frozen for p in own)
    ]
