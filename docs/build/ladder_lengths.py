"""What a ladder of 72 steps says of one of 400: the verdicts of the rows that both have, counted.

Each row of both is compared with the row that it changes one thing of; a row of its own length
("best-long") is another training in each, and is compared all the same.
"""

from collections import Counter
from itertools import combinations

from results import RESULTS, read, top1

SHORT, LONG, SPLIT = "emoji64-fp32-72-steps", "emoji64-fp32", "heldout"
VERDICTS = ("wins", "noise", "loses")


def as_markdown() -> str:
    """Write a table of verdicts, and how many rows and pairs of rows stand as they do later."""
    short, long = (top1(read(RESULTS / f"ladder-{name}.csv")[0], SPLIT) for name in (SHORT, LONG))
    both = [row for row in long if row in short and long[row]["minus_base"]]
    counts = Counter((long[row]["verdict_base"], short[row]["verdict_base"]) for row in both)
    lines = [
        f"| at 400 steps | {' | '.join(f'{name} at 72' for name in VERDICTS)} |",
        "|---" * 4 + "|",
    ]
    for verdict in VERDICTS:
        cells = [str(counts[verdict, other]) for other in VERDICTS]
        lines.append(f"| {verdict} | {' | '.join(cells)} |")
    ranked = [row for row in long if row in short and long[row]["learning_rate"]]
    pairs = list(combinations(ranked, 2))
    kept = sum(_higher(short, *pair) == _higher(long, *pair) for pair in pairs)
    said = (
        f"{len(both)} rows are in both, each beside the row that it changes one thing of. Of all "
        f"pairs of rows {100 * kept / len(pairs):.0f} % stand in the same order of top-1."
    )
    return "\n".join([said, "", *lines])


def _higher(rows: dict[str, dict[str, str]], first: str, second: str) -> bool:
    return float(rows[first]["mean"]) > float(rows[second]["mean"])
