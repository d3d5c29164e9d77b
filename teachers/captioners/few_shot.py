"""Pairs of a web caption and a better wording: what a language model is shown before it rewrites.

LaCLIP collected such pairs from chat models, from COCO and from people. The list here is ours; a
user's own file, in the style and language of their data, will do better.
"""

import json
from dataclasses import dataclass
from pathlib import Path

_MAX_BYTES = 1 << 22


@dataclass(frozen=True, kw_only=True)
class Example:
    """One pair: a caption as it was found, and the same said otherwise."""

    original: str
    rewritten: str


_PAIRS = (
    ("dog beach ball", "A dog runs along the beach after a ball."),
    ("Vintage bicycle leaning on wall, Lisbon", "An old bicycle leans against a wall in Lisbon."),
    ("IMG_0432 sunset @ lake", "The sun sets over a lake."),
    ("women's blue rain jacket w/ hood", "A blue rain jacket with a hood, cut for women."),
    ("two kids making snowman in garden", "In a garden, two children are building a snowman."),
    ("the old town seen from the castle hill", "A view over the old town from the castle hill."),
    ("Homemade pizza, tomato + basil", "A pizza baked at home, topped with tomato and basil."),
    ("red fishing boats harbour morning", "Red fishing boats lie in the harbour in the morning."),
    ("Living room ideas - grey sofa, wood floor", "A living room with a grey sofa and wood floor."),
    ("a man is playing guitar on a street", "A street musician plays his guitar."),
    ("Close up of bee on lavender", "A bee sits on a lavender flower, seen from very near."),
    ("train crossing stone bridge in the alps", "High in the Alps a train crosses a stone bridge."),
    (
        "Birthday cake with number 5 candle",
        "A candle shaped like a five stands on a birthday cake.",
    ),
    ("empty football stadium at night, lights on", "Lights shine on a football stadium at night."),
    ("cat sleeps on laptop keyboard", "A sleeping cat covers the keyboard of a laptop."),
    ("Market stall selling spices, Marrakech", "Spices are sold at a market stall in Marrakech."),
)
EXAMPLES = tuple(Example(original=first, rewritten=second) for first, second in _PAIRS)


def read_examples(path: str | Path) -> tuple[Example, ...]:
    """Read pairs from a file of lines.

    Args:
        path: JSON Lines with `original` and `rewritten`, or two texts a line with a tab between.
            Empty lines are passed over.

    Raises:
        ValueError: no such file, or a line that is neither; names the line.
    """
    path = Path(path).expanduser()
    if not path.is_file() or path.stat().st_size > _MAX_BYTES:
        raise ValueError(
            f"{path} is no file of examples: expected a text file of at most {_MAX_BYTES:,} bytes, "
            'a line a pair: {"original": ..., "rewritten": ...}, or two texts with a tab between'
        )
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error}") from error
    pairs = [_pair(line, f"{path}:{i}") for i, line in enumerate(lines, 1) if line.strip()]
    if not pairs:
        raise ValueError(f"{path} holds no examples")
    return tuple(pairs)


def _pair(line: str, where: str) -> Example:
    if line.lstrip().startswith("{"):
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where} is not JSON: {error}") from error
        texts = [fields.get("original"), fields.get("rewritten")]
    else:
        texts = line.split("\t")
    clean = [" ".join(text.split()) for text in texts if isinstance(text, str)]
    if len(texts) != 2 or len(clean) != 2 or not all(clean):
        raise ValueError(
            f'{where} is no pair: expected {{"original": ..., "rewritten": ...}}, or two texts '
            "with a tab between"
        )
    return Example(original=clean[0], rewritten=clean[1])
