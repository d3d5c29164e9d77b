"""Exported files behind the face of a model, so that they are evaluated by the same code."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from students.exporters.parity import Runner
from students.student import Student
from teachers.clip_model import ClipModel
from teachers.contract import Preprocess


class _Files(nn.Module):
    """Two files as a dual encoder; its one parameter is the scale."""

    def __init__(
        self, image: Runner, text: Runner, preprocess: Preprocess, *, inside: bool, scale: Tensor
    ) -> None:
        super().__init__()
        self._image, self._text = image, text
        self._preprocess, self._inside = preprocess, inside
        self.logit_scale = nn.Parameter(scale.detach().cpu().clone(), requires_grad=False)

    def encode_image(self, images: Float[Tensor, "n 3 size size"]) -> Float[Tensor, "n d"]:
        given = _to_bytes(images, self._preprocess) if self._inside else images
        return torch.from_numpy(self._image(given.numpy()))

    def encode_text(self, tokens: Tensor) -> Float[Tensor, "n d"]:
        return torch.from_numpy(self._text(tokens.numpy()))


def files_as_model(student: Student, image: Runner, text: Runner, *, inside: bool) -> ClipModel:
    """Put the files of a student's towers in the place of its modules; they run on the CPU.

    Args:
        student: whose files they are; its preprocessing, tokenizer and scale are used.
        image: runs the picture file, on any number of rows.
        text: runs the text file.
        inside: whether the picture file takes bytes.
    """
    preprocess = student.preprocess
    module = _Files(image, text, preprocess, inside=inside, scale=student.logit_scale)
    return ClipModel(
        module, name=student.name, preprocess=preprocess, tokenizer=student.tokenizer
    ).eval()


def _to_bytes(pixels: Tensor, preprocess: Preprocess) -> Tensor:
    """Undo the normalisation; exact, as the numbers were bytes."""
    mean, std = torch.tensor(preprocess.mean) * 255, torch.tensor(preprocess.std) * 255
    return (pixels.permute(0, 2, 3, 1) * std + mean).round().clamp(0, 255).byte()
