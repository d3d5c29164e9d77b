"""What a run's configuration says of the student: taught by teachers, given a part of one, neither.

Taught: the objective has a term that reads the teachers. Given: weights of a teacher, or its own
encoder in place of a tower (lock.stored_image, lock.stored_text), or published weights that a
locked tower keeps.
"""

from collections.abc import Mapping
from typing import Any

from distill.objective import TAUGHT


def is_taught(config: Mapping[str, Any]) -> bool:
    """Whether a term reads the teachers, one of the caller's own included."""
    objective = config["objective"]
    # A term of one's own is handed the teachers; whether it looks at them its weight cannot say.
    return any(objective.get(term) for term in TAUGHT) or any(
        (objective.get("custom") or {}).values()
    )


def is_given(config: Mapping[str, Any]) -> bool:
    """Whether the student has a part of a teacher without having learned it."""
    student = config["student"]
    return bool(
        student.get("text_from") or student.get("donor") or locked(config) or _kept_tower(config)
    )


def locked(config: Mapping[str, Any]) -> dict[str, str]:
    """The sides that a teacher's stored rows take the place of, with the teachers' names."""
    lock = config.get("lock") or {}
    stored = {side: lock.get(f"stored_{side}") for side in ("image", "text")}
    return {side: str(teacher) for side, teacher in stored.items() if teacher}


def locked_tower(config: Mapping[str, Any]) -> str:
    """The side of the student's own tower that stays as it starts; empty where both learn."""
    tower = (config.get("lock") or {}).get("tower") or "none"
    return "" if tower == "none" else str(tower)


def head(config: Mapping[str, Any], side: str) -> str:
    """The head that is trained on a locked side; empty where there is none."""
    kind = (config.get("lock") or {}).get(f"{side}_head") or "none"
    return "" if kind == "none" else str(kind)


def _kept_tower(config: Mapping[str, Any]) -> bool:
    """Whether a locked tower came with weights: names with a slash do, as `distill train` says."""
    return bool(locked_tower(config)) and "/" in str(config["student"].get("name") or "")
