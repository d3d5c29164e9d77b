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


@dataclass(frozen=True, kw_only=True)
class Locked:
    """What a run froze.

    Attributes:
        modules: to be kept in eval mode.
        names: parameters of the student that would learn without the lock.
    """

    modules: tuple[nn.Module, ...] = ()
    names: frozenset[str] = frozenset()

    def unlock(self, student: nn.Module | None) -> None:
        """Let them learn again, in the student or a copy: the next run may lock nothing."""
        for name, parameter in student.named_parameters() if student is not None else ():
            if name in self.names:
                parameter.requires_grad_(True)


def lock_tower(student: Student, tower: str) -> Locked:
    """Freeze a tower of the student, or none."""
    if tower == "none":
        return Locked()
    locked = list((student.image_tower if tower == "image" else student.text_tower).parameters())
    frozen = {id(parameter) for parameter in locked}
    names = {n for n, p in student.named_parameters() if id(p) in frozen and p.requires_grad}
    for parameter in locked:
        parameter.requires_grad_(False)
    modules = tuple(
        module
        for module in student.modules()
        if (own := list(module.parameters())) and all(id(p) in frozen for p in own)
    )
    return Locked(modules=modules, names=frozenset(names))
