"""What tests and the site's build read from a page: code blocks, headings, links.

Pages are Markdown with fenced code alone. Two comments mean something:

    <!-- not run: REASON -->          the next block is not run by the tests
    <!-- given: NAME NAME -->         what lies in the folder that a page's blocks run in
"""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

_FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```\s*?$", re.MULTILINE | re.DOTALL)
_NOT_RUN = re.compile(r"<!-- not run: ([^>]+?) -->\s*\Z")
_GIVEN = re.compile(r"^<!-- given: ([\w -]+?) -->$", re.MULTILINE)
_HEADING = re.compile(r"^#{1,6} +(.+?)(?: *\{ *#([\w-]+) *\})?$", re.MULTILINE)
_LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")


@dataclass(frozen=True, kw_only=True)
class Block:
    """One fenced block of code.

    Attributes:
        language: what stands behind the fence.
        code: its text, without the fence's indentation.
        line: of the page, where the code begins.
        not_run: why the tests do not run it; None when they do.
    """

    language: str
    code: str
    line: int
    not_run: str | None


def code_blocks(text: str) -> list[Block]:
    """List a page's fenced blocks in order."""
    found = []
    for match in _FENCE.finditer(text):
        indent, language, code = match.groups()
        marked = _NOT_RUN.search(text[: match.start()])
        found.append(
            Block(
                language=language,
                code=re.sub(rf"^{indent}", "", code, flags=re.MULTILINE),
                line=text.count("\n", 0, match.start(3)) + 1,
                not_run=marked.group(1) if marked else None,
            )
        )
    return found


def given(text: str) -> list[str]:
    """List what a page's blocks find in their folder."""
    return [name for match in _GIVEN.finditer(text) for name in match.group(1).split()]


def without_code(text: str) -> str:
    """Blank out fenced blocks and code spans; lines stay where they are."""
    blank = _FENCE.sub(lambda match: "\n" * match.group().count("\n"), text)
    return re.sub(r"`[^`\n]+`", lambda match: "`" * len(match.group()), blank)


def anchors(text: str) -> set[str]:
    """List the anchors of a page's headings, as Python-Markdown and GitHub make them."""
    found: set[str] = set()
    plain = _FENCE.sub("", text)
    for title, given_id in _HEADING.findall(plain):
        title = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", title)
        slug = given_id or re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", title.lower()).strip())
        number, base = 0, slug
        while slug in found:
            number += 1
            slug = f"{base}_{number}"
        found.add(slug)
    return found


def links(text: str) -> list[str]:
    """List the targets of a page's links to files and headings of this repository."""
    found = [target for _, target in _LINK.findall(without_code(text))]
    return [target for target in found if not re.match(r"\w+:", target)]


def map_links(text: str, change: dict[str, str | None]) -> str:
    """Give links new targets; where it is None the text stays and the link goes."""

    def replace(match: re.Match[str]) -> str:
        words, target = match.groups()
        if target not in change:
            return match.group()
        new = change[target]
        return words if new is None else f"[{words}]({new})"

    return _LINK.sub(replace, text)
