"""Labels that cannot be scored, refused before a number comes of them.

A label is its class's name, which a text tower reads. Numbers and WordNet ids in its place give
scores near chance and no other sign.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import chain

from reinforced_data.source import expand_sources, scan_shard
from teachers.suggestions import did_you_mean

_ID = re.compile(r"-?[0-9]+|n[0-9]{8}")
# How far is looked before work begins: so many samples until one has a label, and so many labels,
# of two classes or more, until one is a name: a sorted source's first may well be called "747".
_FOR_A_LABEL, _FOR_A_NAME = 16, 1000


def label_places(labels: Sequence[str], class_names: Sequence[str]) -> list[int]:
    """Return each label's place among the classes.

    Raises:
        ValueError: a label is no class.
    """
    index = {name: place for place, name in enumerate(class_names)}
    for label in labels:
        if label not in index:
            hint = did_you_mean(label, class_names)
            raise ValueError(f"the label {label!r} is none of the {len(index)} classes{hint}")
    return [index[label] for label in labels]


def check_first_labels(source: str) -> None:
    """Look at the first labels of a source that will be evaluated without given classes.

    Raises:
        ValueError: they are numbers or ids.
    """
    labels, seen = 0, set[str]()
    shards = (scan_shard(shard, with_images=False) for shard in expand_sources(source))
    for number, sample in enumerate(chain.from_iterable(shards)):
        if sample.label is not None:
            labels += 1
            seen.add(sample.label)
            if not _ID.fullmatch(sample.label):
                return
        if (labels >= _FOR_A_NAME and len(seen) > 1) or (number >= _FOR_A_LABEL and not seen):
            break
    refuse_ids(seen, source)


def no_labels(source: str, task: str) -> ValueError:
    """The error for a source in which nothing has a label."""
    return ValueError(
        f"{task} needs labels, and no sample of {source} has one (a cls member, or label in its "
        "json): take a source that has, or leave this out"
    )


def refuse_ids(labels: Iterable[str], source: str) -> None:
    """Raise a ValueError where all labels are numbers or WordNet ids."""
    found = sorted(set(labels))
    if not found or not all(_ID.fullmatch(label) for label in found):
        return
    raise ValueError(
        f"the labels of {source} look like numbers or ids and not like names (such as "
        f"{found[0]!r}), and a text tower knows classes by their names. Pack it again with their "
        "names: distill pack SOURCE OUT --layout img2dataset --class-names FILE, or imagenet. "
        "Where the numbers are the names, as of digits, evaluate with --classes FILE that lists "
        "exactly these labels"
    )
