"""What the labels of an input are called: numbers and ids say nothing to a text tower.

Names are in a text file, one a line, in a JSON object, or ImageNet's own (open_clip's list, which
CLIP's authors curated: arXiv:2103.00020, and timm's order of the WordNet ids). Left out: names of
ImageNet-21k and of other data sets, which a file gives.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

IMAGENET = "imagenet"
# More digits are no line number, and Python refuses to read thousands of them.
_NUMBER = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True, kw_only=True)
class ClassNames:
    """Names of labels.

    Attributes:
        numbered: the name of each number, from 0; "" where there is none.
        by_label: the names of other labels.
        origin: "imagenet", or a file's name and hash, wherever it lies.
    """

    numbered: Sequence[str]
    by_label: Mapping[str, str]
    origin: str

    def find(self, label: str) -> str | None:
        """Return a label's name, or None where it has none."""
        name = self.by_label.get(label)
        if name is None and _NUMBER.fullmatch(label) and int(label) < len(self.numbered):
            name = self.numbered[int(label)]
        return name or None

    def __str__(self) -> str:
        """What a stopped pack compares."""
        return self.origin


def open_class_names(given: str | Path) -> ClassNames:
    """Read names from a file, or take ImageNet's.

    Args:
        given: a text file of one name a line, where the label 0 is the first; a .json object of
            labels and names; or "imagenet".

    Raises:
        ValueError: the file is not there, is no UTF-8, has no name, or is no JSON object of texts.
    """
    if str(given) == IMAGENET:
        return imagenet_names()
    path = Path(given)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"class_names: {path} is not UTF-8 text ({error}); save it as UTF-8"
        ) from error
    except OSError as error:
        raise ValueError(
            f"class_names: {path} cannot be read ({error.strerror}); give a text file of one name "
            f'a line, a .json object of labels and names, or "{IMAGENET}"'
        ) from error
    by_label = _read_json(path, text) if path.suffix.lower() == ".json" else {}
    # Not splitlines: it also splits where no editor shows a new line.
    lines = [] if by_label else [line.strip() for line in text.rstrip().split("\n")]
    if not any(lines) and not by_label:
        raise ValueError(f"class_names: {path} names no class; write one a line")
    digest = hashlib.sha256(text.encode()).hexdigest()
    return ClassNames(numbered=lines, by_label=by_label, origin=f"{path.name} ({digest[:16]})")


def imagenet_names() -> ClassNames:
    """The names of ImageNet-1k's numbers 0 to 999, and of their WordNet ids.

    The 1,000 names are 998: 657 and 744 are both "missile", 836 and 837 both "sunglasses". Nobody
    could tell those apart by name, so each pair is one class here, and a picture of either is
    right. Tools that keep 1,000 classes must get one of each pair wrong, which lowers their top-1
    by up to 0.2 points.
    """
    # Here, since both take seconds to load.
    from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES
    from timm.data import ImageNetInfo

    ids = ImageNetInfo("imagenet1k").label_names()
    return ClassNames(
        numbered=IMAGENET_CLASSNAMES,
        by_label=dict(zip(ids, IMAGENET_CLASSNAMES, strict=True)),
        origin=IMAGENET,
    )


def _read_json(path: Path, text: str) -> dict[str, str]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"class_names: {path} is not JSON: {error}") from error
    if not isinstance(found, dict) or not found:
        raise ValueError(
            f'class_names: {path} needs an object of labels and names, such as {{"n01440764": '
            f'"tench"}}, got {text.strip():.40}'
        )
    for label, name in found.items():
        if not isinstance(name, str) or not name.strip():
            raise ValueError(
                f"class_names: {path}: the label {label!r} needs a name as text, got {name!r:.40}"
            )
    return {label.strip(): name.strip() for label, name in found.items()}
