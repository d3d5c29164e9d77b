"""A student that merges tokens when it is used, not only in training: faster files, other rows.

    export(merging(student, keep=0.6), "out/")

Token merging needs no training (arXiv:2210.09461, section 4): the files compute fewer tokens, and
embeddings change a little; evaluate the copy before you ship it. The `student.json` and weights
beside the files are the ordinary student's.
"""

import copy

from students.student import Student
from students.tokens.checking import check_policy
from students.tokens.merging import Merging, per_block
from students.tokens.policy import TokenPolicy
from teachers.vision_transformers import find_vit


def merging(student: Student, *, keep: float) -> Student:
    """Return a copy whose image tower always merges, down to `keep` of its patches.

    Raises:
        ValueError: the tower cannot merge, or `keep` leaves all patches.
    """
    check_policy(student, TokenPolicy(image="merge", image_keep=keep))
    merged = Student(
        copy.deepcopy(student.module),
        name=student.name,
        preprocess=student.preprocess,
        tokenizer=student.tokenizer,
        source=student.source,
    ).eval()
    vit = find_vit(merged.module)
    assert vit is not None
    Merging(vit).plan = per_block(vit.patches, len(vit.blocks), keep)
    return merged
