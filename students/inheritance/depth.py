"""Which of the donor's blocks the student's blocks start from.

"uniform" spaces them evenly and keeps both ends (TinyCLIP's integer step, 9 -> 6, keeps 0 to 5
and throws the upper third of a text tower away); "leading" takes the first; "similarity" drops
the blocks whose output is most like their input (ShortGPT, arXiv:2403.03853), never an end.
Blocks are matched with blocks of their own class: a stage may mix convolutions and attention.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

DepthRule = Literal["uniform", "leading", "similarity"]
DEPTH_RULES: tuple[str, ...] = get_args(DepthRule)

# The same block in three libraries (students/inheritance/naming.py), and under three names in one.
_CLIP_BLOCK = (
    "ResidualAttentionBlock",
    "CustomResidualAttentionBlock",
    "Block",
    "CLIPEncoderLayer",
)
_BERT_BLOCK = ("BertLayer", "RobertaLayer", "XLMRobertaLayer")
_SAME: dict[str, str] = {
    **{name: "transformer block" for name in _CLIP_BLOCK},
    **{name: "BERT block" for name in _BERT_BLOCK},
}


def choose_blocks(
    rule: DepthRule,
    student: Sequence[str],
    donor: Sequence[str],
    changes: Mapping[int, float] | None = None,
) -> tuple[int | None, ...]:
    """Name a donor block for every student block; None for one that has none.

    Args:
        rule: how to choose.
        student: class of each of the student's blocks.
        donor: class of each of the donor's.
        changes: for "similarity", how much each donor block changes its input (1 - cosine).
    """
    chosen: list[int | None] = [None] * len(student)
    mine, theirs = ([_SAME.get(name, name) for name in names] for names in (student, donor))
    for name in dict.fromkeys(mine):
        places = [place for place, each in enumerate(mine) if each == name]
        sources = [place for place, each in enumerate(theirs) if each == name]
        kept = min(len(places), len(sources))
        if kept == 0:
            continue
        picked = [sources[at] for at in _pick(rule, kept, sources, changes)]
        # A deeper student: its blocks with a donor are spread evenly, the rest stay silent.
        for place, source in zip(_spread(kept, len(places)), picked, strict=True):
            chosen[places[place]] = source
    return tuple(chosen)


def _pick(
    rule: DepthRule, kept: int, sources: Sequence[int], changes: Mapping[int, float] | None
) -> list[int]:
    count = len(sources)
    if rule == "leading" or kept == count:
        return list(range(kept))
    if rule == "uniform" or kept < 3:
        return _spread(kept, count)
    assert rule == "similarity" and changes is not None
    inner = sorted(range(1, count - 1), key=lambda at: (-changes[sources[at]], at))
    return [0, *sorted(inner[: kept - 2]), count - 1]


def _spread(kept: int, count: int) -> list[int]:
    """`kept` of `count` places, both ends among them, evenly spaced."""
    if kept == 1:
        return [0]
    return [round(at * (count - 1) / (kept - 1)) for at in range(kept)]
