"""Several teachers side by side.

Nothing is averaged here: each teacher keeps its own image size, tokenizer, width, head and scale,
and a store holds one column per teacher. Losses weigh them (distill/losses).
"""

from collections import Counter
from collections.abc import Iterator
from typing import Union

from teachers.teacher import Teacher


class Ensemble:
    """An ordered collection of teachers with distinct names.

    Args:
        teachers: teachers, or other ensembles, whose teachers are taken over in order.

    Raises:
        ValueError: when there is none, or two have the same name.
    """

    def __init__(self, *teachers: Union[Teacher, "Ensemble"]) -> None:
        """Flatten and check the names."""
        for member in teachers:
            if not isinstance(member, Teacher | Ensemble):
                raise ValueError(
                    f"an Ensemble takes teachers, got {type(member).__name__}: "
                    "pass Ensemble(load_teacher(...), load_teacher(...))"
                )
        self.teachers: tuple[Teacher, ...] = tuple(
            teacher
            for member in teachers
            for teacher in (member if isinstance(member, Ensemble) else (member,))
        )
        if not self.teachers:
            raise ValueError("an Ensemble needs at least one teacher")
        counts = Counter(teacher.name for teacher in self.teachers)
        doubles = sorted(name for name, count in counts.items() if count > 1)
        if doubles:
            raise ValueError(
                f"two teachers of the ensemble are both named {doubles[0]!r}: reports and store "
                "columns tell teachers apart by name. Give one its own: load_teacher(..., name=...)"
            )

    def __iter__(self) -> Iterator[Teacher]:
        """Iterate in the order given."""
        return iter(self.teachers)

    def __len__(self) -> int:
        """Return the number of teachers."""
        return len(self.teachers)

    def __getitem__(self, index: int) -> Teacher:
        """Return one teacher by position."""
        return self.teachers[index]

    def __repr__(self) -> str:
        """Show the names."""
        return f"Ensemble({', '.join(teacher.name for teacher in self.teachers)})"
