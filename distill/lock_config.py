"""What of a student does not learn, and what of it is not even loaded while the rest does.

A tower can be locked and run all the same (`tower`), or stand in the store (`stored_image`,
`stored_text`): then the teacher's stored rows take its place, no picture is decoded or no text
tokenised for it, and it is loaded once, when training is over. LiT locks the image side so,
ViTamin's locked-text tuning the text side, SAIL both, with a head on each.
"""

from dataclasses import dataclass
from typing import Literal

from students.heads import HeadKind


@dataclass(frozen=True, kw_only=True)
class LockConfig:
    """Which parts of the student stay as they are.

    Attributes:
        tower: a tower of the student that stays as it starts (see student.text_from, donor), and
            runs in every step.
        stored_image: a teacher of the store, as `load_teacher` takes it, whose image encoder is the
            student's: its stored rows are read instead of pictures.
        stored_text: likewise for the text encoder.
        image_head: what is trained on the stored image rows: none, linear, mlp, or glu (SAIL's).
        text_head: likewise.
        embed_dim: the width that two heads map to.
    """

    tower: Literal["none", "image", "text"] = "none"
    stored_image: str | None = None
    stored_text: str | None = None
    image_head: HeadKind = "none"
    text_head: HeadKind = "none"
    embed_dim: int = 512

    def __post_init__(self) -> None:
        """Refuse what locks one side twice, heads on nothing, and students that learn nothing."""
        for side in ("image", "text"):
            stored, head = getattr(self, f"stored_{side}"), getattr(self, f"{side}_head")
            if head != "none" and stored is None:
                raise ValueError(
                    f"lock.{side}_head={head!r} needs lock.stored_{side}: a head is trained on a "
                    "teacher's stored rows"
                )
            if stored is not None and self.tower == side:
                raise ValueError(
                    f"lock.tower={side!r} keeps the student's own tower, lock.stored_{side}="
                    f"{stored!r} takes a teacher's: give one of the two"
                )
        if len(self.sides) == 2 and {self.image_head, self.text_head} == {"none"}:
            raise ValueError(
                "lock.stored_image and lock.stored_text lock both sides and nothing would learn: "
                "add lock.image_head or lock.text_head (linear, mlp or glu)"
            )

    @property
    def sides(self) -> dict[str, str]:
        """The sides that are read from the store, with their teachers."""
        given = {"image": self.stored_image, "text": self.stored_text}
        return {side: teacher for side, teacher in given.items() if teacher is not None}
