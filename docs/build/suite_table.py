"""The suite on the ladder's students as a table of Markdown, as docs/evaluation.md has it.

    python docs/build/suite_table.py

A line a metric, a column a row of the ladder: the mean in %, and "wins" or "loses" where the
difference from "distilled" is beyond noise in every seed. `tests/contract/test_docs_numbers.py`
makes the table anew and compares.
"""

from results import RESULTS, read, rounded

SUITE = "suite-emoji64-fp32"
HEAD = "| held-out artist, % |"
METRICS = {
    "top1": "top-1",
    "image_to_text_r10": "image-to-text R@10",
    "text_to_image_r10": "text-to-image R@10",
    "probe_top1": "linear probe, 200 names",
    "agreement": "`agreement` with teacher-a",
    "kept_right": "`kept_right` of teacher-a",
    "ece": "`ece` (lower is better)",
    "ece_fitted": "`ece`, scale fitted on validation",
    "corrupted/top1": "top-1, corrupted",
    "corrupted/kept": "of the clean top-1: corrupted",
    "typographic/kept": "name written on",
    "size/24/kept": "tower at 24 pixels",
    "size/48/kept": "tower at 48 pixels",
    "alike": "class names that have a double (lower)",
}


def suite_table() -> list[str]:
    """Return the table's lines."""
    found, _ = read(RESULTS / f"{SUITE}.csv")
    names = list(dict.fromkeys(line["row"] for line in found))
    cells = {(line["row"], line["metric"]): _cell(line) for line in found}
    head = f"{HEAD} {' | '.join(f'`{name}`' for name in names)} |"
    lines = [head, "|---" * (len(names) + 1) + "|"]
    for metric, title in METRICS.items():
        values = [cells.get((name, metric), "") for name in names]
        lines.append(f"| {title} | {' | '.join(values)} |")
    return lines


def _cell(line: dict[str, str]) -> str:
    called = line["verdict"] if line["verdict"] in ("wins", "loses") else ""
    return f"{rounded(line['mean'])} {called}".strip()


if __name__ == "__main__":
    print("\n".join(suite_table()))
