"""What MkDocs calls: generated parts put in, links to files outside the site taken off.

Two comments in a page are orders:

    <!-- generated: NAME -->      is replaced by what `GENERATORS[NAME]` writes
    <!-- include: PATH -->        the whole page is that file of the repository

A file that is in no page (a test, a CSV) cannot be linked to from a site: the link's words stay.
"""

import os
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import command_line
import ladder_lengths
import recipes
import results
from markdown_text import DOCS, ROOT, links, map_links

GENERATORS: dict[str, Callable[[], str]] = {
    "command line": command_line.as_markdown,
    "recipes": recipes.as_markdown,
    "results": results.as_markdown,
    "short ladder": ladder_lengths.as_markdown,
}

_GENERATED = re.compile(r"^<!-- generated: ([\w ]+) -->$", re.MULTILINE)
_INCLUDE = re.compile(r"^<!-- include: (\S+) -->$", re.MULTILINE)
_NOT_RUN = re.compile(r"^( *)<!-- not run: ([^>]+?) -->(\s*```\w*\n.*?\n *```)$", re.M | re.S)


def on_page_markdown(markdown: str, *, page, **_) -> str:
    """Give MkDocs the page as it is to be rendered."""
    return rendered(DOCS / page.file.src_uri, markdown)


def rendered(page: Path, text: str) -> str:
    """Return a page's Markdown with everything generated in it, its links ready for the site."""
    included = _INCLUDE.search(text)
    source = ROOT / included.group(1) if included else page
    text = source.read_text() if included else text
    text = _GENERATED.sub(lambda match: GENERATORS[match.group(1)](), text)
    text = _NOT_RUN.sub(r'\3\n\n\1<p class="not-run">Not run by the tests: \2.</p>', text)
    return map_links(text, {target: _on_site(target, source, page) for target in links(text)})


@cache
def included_files() -> dict[Path, Path]:
    """Map files of the repository to the pages that show them."""
    found = {}
    for page in DOCS.glob("*.md"):
        match = _INCLUDE.search(page.read_text())
        if match:
            found[ROOT / match.group(1)] = page
    return found


def _on_site(target: str, source: Path, page: Path) -> str | None:
    """Where a link of `source` leads when `page` shows it; None if to nothing on the site."""
    path, _, anchor = target.partition("#")
    if not path:
        return target
    file = Path(os.path.normpath(source.parent / path))
    file = included_files().get(file, file)
    if not file.is_relative_to(DOCS) or file.suffix != ".md":
        return None
    relative = Path(os.path.relpath(file, page.parent)).as_posix()
    return f"{relative}#{anchor}" if anchor else relative
