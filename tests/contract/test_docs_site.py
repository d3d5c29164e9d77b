"""The site of documentation: nothing missing from it, nothing in it that leads nowhere.

`make docs` builds it with MkDocs in strict mode; none of this needs MkDocs.
"""

import ast
import contextlib
import csv
import io
import re
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS / "build"))

import command_line  # noqa: E402
import hooks  # noqa: E402
import markdown_text  # noqa: E402
import results  # noqa: E402

PAGES = sorted(DOCS.glob("*.md"))
TOP = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")]
SOURCES = [*PAGES, *TOP, ROOT / "reinforced_data" / "README.md"]
PACKAGES = ("distill", "students", "reinforced_data", "teachers")


@cache
def rendered(page: Path) -> str:
    """What MkDocs gets of a page."""
    return hooks.rendered(page, page.read_text())


def nav_pages(entries) -> list[str]:
    """List the files of a nav."""
    if isinstance(entries, str):
        return [entries]
    parts = entries.values() if isinstance(entries, dict) else entries
    return [page for part in parts for page in nav_pages(part)]


def test_every_page_is_in_the_nav_once():
    nav = nav_pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert sorted(nav) == [page.name for page in PAGES]
    assert not list(DOCS.glob("*/*.md"))


@pytest.mark.parametrize("page", SOURCES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_anchors_lead_somewhere(page):
    for target in markdown_text.links(page.read_text()):
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), f"{page.name} links to {target}, which is not there"
        if anchor:
            text = rendered(file) if file in PAGES else file.read_text()
            assert anchor in markdown_text.anchors(text), f"{page.name}: no {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_of_the_rendered_page_stay_on_the_site(page):
    for target in markdown_text.links(rendered(page)):
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file in PAGES, f"{page.name} as rendered links to {target}"
        if anchor:
            shown = rendered(file)
            assert anchor in markdown_text.anchors(shown), f"{page.name} as rendered: no {target}"


@pytest.mark.parametrize("package", PACKAGES)
def test_the_reference_has_every_public_name_and_no_other(package):
    page = (DOCS / f"api-{package.replace('_', '-')}.md").read_text()
    shown = re.findall(rf"^::: {package}\.(\w+)$", page, re.MULTILINE)
    tree = ast.parse((ROOT / package / "api.py").read_text())
    (public,) = (node.value for node in tree.body if ast.unparse(node).startswith("__all__ ="))
    assert sorted(shown) == sorted(ast.literal_eval(public))


# A recipe's options need all of PyTorch's neighbours loaded; the others none of them.
VERBS = [
    pytest.param(verb, marks=pytest.mark.slow) if verb in command_line.RECIPE_VERBS else verb
    for verb in command_line.summaries()
]


@pytest.mark.parametrize("verb", VERBS)
def test_the_command_line_reference_is_what_help_says(verb):
    from distill.cli import main
    from distill.cli.verbs import VERBS

    assert command_line.summaries()[verb] == VERBS[verb].summary
    recipe = ["demo"] if verb in command_line.RECIPE_VERBS else []
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert main([verb, *recipe, "--help"]) == 0
    # An option begins its line, after the frame, or stands behind another form of itself.
    found = re.findall(r"(?:^\W*?|, )(--[a-z][\w.-]*)", said.getvalue(), re.MULTILINE)
    in_help = {name.rstrip(".") for name in found}
    ours = {option.name for option in command_line.options(verb) if not option.positional}
    # So may a text's line that speaks of another verb's option.
    others = set().union(*(command_line.accepted(other) for other in command_line.summaries()))
    assert ours <= in_help and in_help <= command_line.accepted(verb) | others


def test_every_verb_is_in_the_reference():
    from distill.cli.verbs import VERBS

    assert list(command_line.summaries()) == list(VERBS)
    shown = rendered(DOCS / "command-line.md")
    assert {f"distill-{verb}" for verb in VERBS} <= markdown_text.anchors(shown)


def test_every_file_of_results_is_on_the_results_page():
    files = {path.stem for path in results.RESULTS.glob("*.csv")}
    assert {name for name in files if not name.startswith("ladder-")} == set(results.FILES)
    shown = rendered(DOCS / "results.md")
    for path in results.RESULTS.glob("ladder-*.csv"):
        rows, _ = results.read(path)
        for row in rows:
            assert f"| {row['row']} | {row['metric']} | {row['mean']} |" in shown
    for name in results.FILES:
        with (results.RESULTS / f"{name}.csv").open() as file:
            last = list(csv.reader(line for line in file if not line.startswith("#")))[-1]
        said = [part for cell in last for part in cell.removeprefix("commit ").split(", ")]
        assert all(part in shown for part in said)
