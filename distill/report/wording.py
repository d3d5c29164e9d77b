"""Numbers and keys as people read them, for the page and for the terminal."""

import math
import re

NOTHING = "\u2013"
_GLUE = "\u00a0"
_SUPERSCRIPTS = str.maketrans(
    "-0123456789", "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079"
)
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")
# Not \s, which would let a line break between a number and its unit.
_SPACE = re.compile(r"[\t-\r]")
_ARROWS = {"image_to_text": "image \u2192 text", "text_to_image": "text \u2192 image"}


def percent(fraction: float | int | None, *, digits: int = 1) -> str:
    """0.449 -> '44.9'; the unit stands in the column's head."""
    if fraction is None or not math.isfinite(fraction):
        return NOTHING
    return f"{100 * fraction:.{digits}f}"


def count(number: float | int) -> str:
    """Large counts in three digits: 1234567 -> '1.23 M'."""
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        # 999 500 is '1.00 M', not '1000 k'.
        if number >= 0.9995 * factor:
            return f"{_three_digits(number / factor)}{_GLUE}{unit}"
    return f"{number:g}"


def known(number: int) -> str:
    """A count where 0 says that nobody knows."""
    return count(number) if number else NOTHING


def tick(number: float | int) -> str:
    """An axis' label: as `count`, without needless zeros."""
    digits, space, unit = count(number).partition(_GLUE)
    return (digits.rstrip("0").rstrip(".") if "." in digits else digits) + space + unit


def size(num_bytes: int) -> str:
    """File sizes in powers of ten, as file managers show them."""
    return f"{num_bytes}{_GLUE}B" if num_bytes < 1000 else count(num_bytes) + "B"


def memory(num_bytes: int | None) -> str:
    """A size that may not be known."""
    return NOTHING if num_bytes is None else size(num_bytes)


def points_lost(of_model: float | None, score: float | None) -> str:
    """What a score is below the model's, in points: 0.40, 0.39 -> '1.0'."""
    if of_model is None or score is None:
        return NOTHING
    return f"{100 * (of_model - score):.1f}".replace("-", "\u2212").replace("\u22120.0", "0.0")


def duration(seconds: float | int) -> str:
    """Seconds as '0.4 s', '42 s', '3 min 05 s' or '2 h 10 min'."""
    if seconds < 9.95:
        return f"{seconds:.1f}{_GLUE}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}{_GLUE}s"
    if whole < 3600:
        return f"{whole // 60}{_GLUE}min {whole % 60:02d}{_GLUE}s"
    return f"{whole // 3600}{_GLUE}h {whole % 3600 // 60:02d}{_GLUE}min"


def milliseconds(number: float | int | None) -> str:
    """A latency."""
    return NOTHING if number is None else f"{_three_digits(number)}{_GLUE}ms"


def scientific(number: float | int | None) -> str:
    """A small error: 3.2e-06 -> '3.2 x 10^-6' with real superscripts."""
    if number is None or not math.isfinite(number):
        return NOTHING
    if number == 0:
        return "0"
    mantissa, exponent = f"{number:.1e}".split("e")
    power = str(int(exponent)).translate(_SUPERSCRIPTS)
    return f"{mantissa}{_GLUE}\u00d7{_GLUE}10{power}"


def split_name(key: str) -> str:
    """'unseen_pairs/top1' -> 'unseen pairs'; no split, no name."""
    return key.rpartition("/")[0].replace("_", " ")


def metric_name(key: str) -> str:
    """'unseen_pairs/image_to_text_r10' -> 'image -> text R@10' with a real arrow."""
    name = key.rpartition("/")[2]
    for prefix, arrow in _ARROWS.items():
        if name.startswith(f"{prefix}_r"):
            return f"{arrow} R@{name.removeprefix(f'{prefix}_r')}"
    if name.startswith("top") and name[3:].isdigit():
        return f"top-{name[3:]}"
    return name.replace("_", " ")


def is_fraction(key: str) -> bool:
    """Whether a curve's values are fractions, shown in percent: "seen/top1", not "logit scale"."""
    return "/" in key or metric_name(key) != key.replace("_", " ") or "retention" in key


def printable(text: str) -> str:
    """Replace what could break a page or a terminal: controls, surrogates, direction overrides."""
    return _UNPRINTABLE.sub("\ufffd", _SPACE.sub(" ", text))


def _three_digits(number: float) -> str:
    digits = 2 if number < 9.995 else 1 if number < 99.95 else 0
    return f"{number:.{digits}f}"
