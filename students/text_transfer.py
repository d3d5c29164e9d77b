"""Take a donor's text tower over as it is.

The simplest inheritance, and at small scale the one that saves most steps: what captions mean is
known before the first picture is seen. Needs equal shapes; changing shapes is another capability.
"""

import torch

from students.student import Student
from teachers.clip_model import ClipModel


def copy_text_tower(student: Student, donor: ClipModel) -> int:
    """Copy the donor's text weights, its logit scale and bias into the student.

    Args:
        student: changed in place.
        donor: any model whose text tower has the same parameter names and shapes.

    Returns:
        How many numbers were copied.

    Raises:
        ValueError: the towers or tokenizers differ; names the first difference. Nothing is copied.
    """
    if student.tokenizer.config() != donor.tokenizer.config():
        raise ValueError(
            f"{student.name} and {donor.name} tokenise differently; build the student with "
            "tokenizer=donor.tokenizer"
        )
    theirs = dict(donor.module.named_parameters())
    mine = dict(student.module.named_parameters())
    names = [*sorted(student.tower_names["text"]), "logit_scale"]
    # A softmax donor has no bias to give: the student keeps the one it begins with.
    names += ["logit_bias"] if "logit_bias" in mine and "logit_bias" in theirs else []
    for name in names:
        if name not in theirs:
            raise ValueError(f"{donor.name} has no parameter {name} that {student.name} has")
        if theirs[name].shape != mine[name].shape:
            raise ValueError(
                f"{name} is {tuple(theirs[name].shape)} in {donor.name} and "
                f"{tuple(mine[name].shape)} in {student.name}; give the student the donor's "
                "TextSpec and embed_dim"
            )
    with torch.no_grad():
        for name in names:
            mine[name].copy_(theirs[name])
    return sum(mine[name].numel() for name in names)
