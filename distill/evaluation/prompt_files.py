"""More texts for a class than its name in a template.

CuPL (Pratt et al., arXiv:2209.03320): sentences about each class, written by a language model, in
a JSON file. SHiNe (Liu et al., arXiv:2405.10053): a sentence for each way up a hierarchy, "a X,
which is a Y, which is a Z". Left out: writing CuPL's sentences, SHiNe's children of inner nodes.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path


def read_sentences(path: Path) -> dict[str, list[str]]:
    """Read CuPL's file: class name -> sentences.

    Raises:
        ValueError: it is not JSON of that form, or a class has no sentence.
    """
    found = _read_json(path)
    for name, texts in found.items():
        if not (isinstance(texts, list) and texts and all(isinstance(t, str) for t in texts)):
            raise ValueError(
                f"{path}: the class {name!r} needs a list of sentences, got {texts!r:.80}"
            )
    return found


def read_hierarchy(path: Path) -> dict[str, list[str]]:
    """Read a hierarchy: name -> its parent, or a list of parents; roots need no line.

    Raises:
        ValueError: it is not JSON of that form.
    """
    parents: dict[str, list[str]] = {}
    for name, above in _read_json(path).items():
        parents[name] = [above] if isinstance(above, str) else above
        if not (isinstance(parents[name], list) and all(isinstance(p, str) for p in parents[name])):
            raise ValueError(
                f"{path}: {name!r} needs a parent or a list of them, got {above!r:.80}"
            )
    return parents


def hierarchy_sentences(
    class_names: Sequence[str], parents: Mapping[str, Sequence[str]]
) -> dict[str, list[str]]:
    """Return for each class a sentence for each way to a root; none for a class without parents.

    Raises:
        ValueError: a name is above itself, or no class is in the hierarchy.
    """
    sentences = {
        name: [_sentence(way) for way in _ways(name, parents, ())]
        for name in class_names
        if parents.get(name)
    }
    if not sentences:
        raise ValueError(
            f"none of the {len(class_names)} classes has a parent in the hierarchy: class names "
            f"are {', '.join(class_names[:3])}, the hierarchy has {', '.join(list(parents)[:3])}"
        )
    return sentences


def classes_without(sentences: Mapping[str, Sequence[str]], class_names: Sequence[str]) -> int:
    """Count the classes that have no sentence.

    Raises:
        ValueError: none has one.
    """
    without = sum(name not in sentences for name in class_names)
    if without == len(class_names):
        raise ValueError(
            f"none of the {len(class_names)} classes has a sentence: class names are "
            f"{', '.join(class_names[:3])}, sentences are for {', '.join(list(sentences)[:3])}; "
            "spell them alike"
        )
    return without


def _ways(
    name: str, parents: Mapping[str, Sequence[str]], below: tuple[str, ...]
) -> list[tuple[str, ...]]:
    if name in below:
        raise ValueError(f"the hierarchy goes in a circle: {' < '.join((*below, name))}")
    way = (*below, name)
    above = parents.get(name, ())
    return (
        [longer for parent in above for longer in _ways(parent, parents, way)] if above else [way]
    )


def _sentence(way: Sequence[str]) -> str:
    return ", which is ".join(f"{_article(name)} {name}" for name in way)


def _article(name: str) -> str:
    return "an" if name[:1].lower() in {*"aeiou"} else "a"


def _read_json(path: Path) -> dict:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not (isinstance(found, dict) and found):
        raise ValueError(f"{path} needs an object with a line a class, got {type(found).__name__}")
    return found
