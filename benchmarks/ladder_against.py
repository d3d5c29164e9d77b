"""What each row is compared with: the row it changes one thing of, and one of equal work.

Every row is compared with "undistilled" and "control" besides (ladder_table.py).
"""

from ladder_rows import ROWS, SMALL_BATCH
from ladder_tokens import SAME_WORK

# Rows whose name does not say it. A larger teacher trained on is compared with the teachers only.
_BASES = {
    "undistilled": None,
    "control": "undistilled",
    "distilled": "control",
    "vit": "distilled",
    "combined": "inherited",
    "early": "undistilled-narrow",
    "optimizer-lion8bit": "optimizer-lion",
    f"{SMALL_BATCH}-fastclip": SMALL_BATCH,
    # Trained by the undistilled loss, on rows of a teacher.
    "lit": "control",
    "sail": "control",
    "teacher-trained-on": None,
}
_FAMILIES = ("undistilled", "control", "vit", "combined", "cropped-views")


def base_of(name: str) -> str | None:
    """Return the row that this one changes one thing of; of a control what it is the control of."""
    if name in _BASES:
        return _BASES[name]
    trained_alike = name.removeprefix("control-")
    if trained_alike != name and trained_alike in ROWS:
        return trained_alike
    return next((base for base in _FAMILIES if name.startswith(f"{base}-")), "distilled")


def same_work_as(name: str) -> str | None:
    """Return the row without this one's means that had as much work, if there is one."""
    return SAME_WORK.get(name, "control-same-work" if name == "distilled" else None)
