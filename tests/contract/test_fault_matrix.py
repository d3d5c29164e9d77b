"""docs/faults.md promises nothing that no test proves."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROWS = [
    [cell.strip() for cell in line.strip("|\n").split("|")]
    for line in (ROOT / "docs" / "faults.md").read_text().splitlines()
    if line.startswith("| ") and not line.startswith("| fault ")
]


def functions(path: Path) -> set[str]:
    return {node.name for node in ast.parse(path.read_text()).body if hasattr(node, "name")}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:40])
def test_every_row_names_a_test_that_is_there(row):
    fault, outcome, code, proof = row
    assert fault and outcome and code in ("0", "1", "2", "3", "-")
    path, name = re.fullmatch(r"`([\w/]+\.py)::(test_\w+)`", proof).groups()
    assert name in functions(ROOT / path), f"{path} has no {name}"


def test_every_test_of_bad_input_has_its_row():
    named = {row[3].strip("`") for row in ROWS}
    tests = {
        f"tests/faults/{path.name}::{name}"
        for path in (ROOT / "tests" / "faults").glob("test_input_*.py")
        for name in functions(path)
        if name.startswith("test_")
    }
    assert len(tests) > 20 and not tests - named
