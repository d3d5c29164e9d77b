"""What each row is compared with, one of equal work too, and whose rate it takes.

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
    "early": "undistilled-narrow",
    "best": "optimizer-muon",
    "best-quarter": "undistilled-muon",
    "best-long": "best",
    "optimizer-lion8bit": "optimizer-lion",
    f"{SMALL_BATCH}-fastclip": SMALL_BATCH,
    # Trained by the undistilled loss, on rows of a teacher.
    "lit": "control",
    "sail": "control",
    "teacher-trained-on": None,
}
_FAMILIES = ("undistilled", "control", "vit", "cropped-views")


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


_RATES = {
    "optimizer-lion8bit": "optimizer-lion",
    "best-quarter": "best",
    "best-long": "best",
    "control-best": "control-muon",
    "control-best-long": "control-muon",
    "teacher-trained-on": "undistilled",
}
# A row takes the rate of the one it varies. These look for their own: other weights learn, or by
# another optimizer, or with no teacher to hold them.
SWEEPING = (
    *("best", "undistilled-muon", "control-muon"),
    *(
        "undistilled",
        "control",
        "distilled",
        "gentle-text",
        "early",
        "vit",
        "lit",
        "locked-text",
        "sail",
    ),
    *(name for name in ROWS if name.startswith("optimizer-") and not name.endswith("8bit")),
)


def rate_from(name: str) -> str:
    """Return the row whose learning rate this one takes; itself if it looks for one."""
    if name in SWEEPING:
        return name
    if name in _RATES:
        return _RATES[name]
    for base in ("undistilled", "control", "vit"):
        if name == base or name.startswith(f"{base}-"):
            return base
    return "distilled"
