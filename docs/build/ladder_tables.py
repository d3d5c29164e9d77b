"""Rows of the ladder as a table of Markdown, as pages have them.

    python docs/build/ladder_tables.py emoji64 heldout distilled interactive relational

Top-1 and image-to-text R@10 of one split, in %, mean and standard error over the seeds; points of
top-1 more than the row each is compared with, and whether that is beyond noise in every seed.
`tests/contract/test_docs_numbers.py` makes the tables of the pages anew and compares.
"""

import argparse
from collections.abc import Sequence

from results import RESULTS, of_metric, read, rounded, top1

# By ladder, the first column's head: which teachers a table's rows had (README).
HEADS = {
    "emoji64": "| ladder row |",
    "emoji64-fp32": "| ladder row, float32 teachers |",
}
COLUMNS = " compared with | top-1 | difference | R@10 |"
AT_WORK = " at equal work |"


def ladder_table(ladder: str, split: str, names: Sequence[str]) -> list[str]:
    """Return the table's lines; the last column only where a row has one of equal work.

    Raises:
        ValueError: a row has not been run.
    """
    rows, _ = read(RESULTS / f"ladder-{ladder}.csv")
    first, recall = top1(rows, split), of_metric(rows, f"{split}/image_to_text_r10")
    missing = [name for name in names if name not in first]
    if missing:
        raise ValueError(
            f"ladder-{ladder}.csv has no row {missing[0]!r} on {split!r}: run it first"
        )
    work = any(first[name]["minus_same_work"] for name in names)
    head = HEADS[ladder] + COLUMNS + AT_WORK * work
    lines = [head, "|---" * (head.count("|") - 1) + "|"]
    for name in names:
        line = first[name]
        cells = [f"`{name}`", f"`{line['base']}`" if line["base"] else "", _mean(line)]
        cells += [_against(line, "base"), _mean(recall[name])]
        cells += [_against(line, "same_work")] * work
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _mean(line: dict[str, str]) -> str:
    error = f" +- {rounded(line['standard_error'])}" if line["standard_error"] else ""
    return f"{rounded(line['mean'])}{error}"


def _against(line: dict[str, str], other: str) -> str:
    minus = line[f"minus_{other}"]
    return f"{rounded(minus):+}, {line[f'verdict_{other}']}" if minus else ""


def main() -> None:
    """Print the rows asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ladder", choices=list(HEADS))
    parser.add_argument("split")
    parser.add_argument("rows", nargs="+")
    asked = parser.parse_args()
    print("\n".join(ladder_table(asked.ladder, asked.split, asked.rows)))


if __name__ == "__main__":
    main()
