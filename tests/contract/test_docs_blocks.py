"""The code in the documentation runs, or says why not.

Every block of Python, bash and console is run in the order of its page, in a folder of its own,
unless `<!-- not run: REASON -->` stands before it. What a page finds in its folder is named by
`<!-- given: NAME -->` and made here. Commands that are not run have to name verbs and options that
exist; Python that is not run has to import what exists.
"""

import ast
import hashlib
import importlib
import io
import json
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from distill.cli import main
from distill.recipes.demo import SPECS
from reinforced_data import reinforce
from reinforced_data.testing import encoded, sample, tiny_teacher, write_source
from students import build_student
from teachers import WordTokenizer

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs" / "build"))

import command_line  # noqa: E402
from markdown_text import Block, code_blocks, given, without_code  # noqa: E402

PAGES = [
    *sorted((ROOT / "docs").glob("*.md")),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    ROOT / "reinforced_data" / "README.md",
]
RUN = ("python", "bash", "console")
SHOWN = ("text", "js", "json", "")
# Minutes of training, for `make test-full`.
SLOW = {"README.md", "students.md"}

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220)}


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, *languages: str) -> list[Block]:
    return [b for b in code_blocks(page.read_text()) if b.language in languages]


# What pages are given.


def shades(first: int, last: int) -> Iterator[tuple[int, str, bytes]]:
    """Pictures in shades of three colours, and the colours' names."""
    for number in range(first, last):
        word = list(COLOURS)[number % 3]
        shade = tuple(min(255, channel + number // 12) for channel in COLOURS[word])
        yield number, word, encoded(Image.new("RGB", (32, 32), shade))


def source(folder: str, first: int, last: int) -> list[str]:
    samples = [
        sample(number, png=picture, txt=f"a {word} picture", cls=word)
        for number, word, picture in shades(first, last)
    ]
    return write_source(Path(folder), samples, samples_per_shard=88)


def photos() -> None:
    for split, first, last in (("train", 0, 132), ("test", 300, 324)):
        folder = Path("photos", split)
        folder.mkdir(parents=True)
        for number, word, picture in shades(first, last):
            (folder / f"{number:04d}.png").write_bytes(picture)
            (folder / f"{number:04d}.txt").write_text(f"a {word} picture")


def pictures() -> None:
    Path("pictures").mkdir()
    for number, _, picture in shades(0, 96):
        Path("pictures", f"{number:04d}.png").write_bytes(picture)


def saved(folder: str, spec: str, seed: int) -> None:
    torch.manual_seed(seed)
    words = WordTokenizer(["a", "picture", *COLOURS], 12)
    build_student(SPECS[spec], tokenizer=words, name=Path(folder).name).save(folder)


def cc3m_dr() -> None:
    shards = source("source", 0, 264)
    reinforce(shards, "cc3m-dr", teachers=[tiny_teacher()], num_views=2, progress=False)


def student() -> None:
    saved("runs/s0", "demo-student", 0)
    Path("names.txt").write_text("red\ngreen\nblue\n")


def datacompdr() -> None:
    """Pictures, and what Apple publishes of such: random rows of two teachers of 768 numbers."""
    random = np.random.default_rng(0)
    apple, own = [], []
    crop = json.dumps([[[2, 3, 20, 24], [[9, -0.27], [3, -30.453]]]] * 10)
    for number, word, picture in shades(0, 12):
        rows = {
            "image_emb": random.normal(size=(10, 1536)),
            "text_emb": random.normal(size=(3, 1536)),
        }
        file = io.BytesIO()
        np.savez(file, allow_pickle=False, **rows)
        about = {"uid": f"{number:032x}", "sha256": hashlib.sha256(picture).hexdigest()}
        texts = [f"something {word}", f"{word} all over"]
        apple.append(
            {
                "__key__": f"{number:06d}",
                "url.txt": f"http://x/{number}.png",
                "syn.json": json.dumps({"syn_text": texts}),
                "paug.json": json.dumps({"param_aug": crop}),
                "npz": file.getvalue(),
                "json": json.dumps(about),
            }
        )
        uid = json.dumps({"uid": about["uid"]})
        own.append(sample(number, png=picture, txt=f"a {word} picture", json=uid))
    write_source(Path("apple/DataCompDR-12M"), apple)
    write_source(Path("cc/pictures"), own)


def results() -> None:
    sizes, gains = (1e6, 2e6, 4e6, 8e6, 16e6), {"long": 0.4, "short": 0.35}
    lines = [
        f"{recipe},{size:.0f},{100 * (0.8 - 60 * size**-exponent):.4f}"
        for recipe, exponent in gains.items()
        for size in sizes
    ]
    Path("results.csv").write_text("\n".join(["recipe,samples,top1", *lines]))


GIVEN: dict[str, Callable[[], object]] = {
    "photos": photos,
    "pictures": pictures,
    "shards": lambda: source("shards", 0, 132),
    "held-out": lambda: source("held-out", 300, 324),
    "cc3m-dr": cc3m_dr,
    "student": student,
    "results": results,
    "datacompdr": datacompdr,
    "demo-teacher": lambda: saved("runs/demo/teacher-a", "demo-teacher-large", 0),
    "demo-teacher-b": lambda: saved("runs/demo/teacher-b", "demo-teacher-small", 1),
}

# What is looked at afterwards, in what the page's Python has named.


def after_custom_students(names: dict) -> None:
    assert names["result"].steps == 10
    assert Path("out", "onnx", "image.onnx").is_file()
    trained = names["result"].student.state_dict()
    again = names["again"].state_dict()
    assert all(torch.equal(again[name], value) for name, value in trained.items())


def after_readme(names: dict) -> None:
    """The example distils: the student of a seventh keeps most of its teacher."""
    result = names["result"]
    assert result.metrics["top1"] > 0.2 and result.retention["top1"] > 0.8
    assert Path("out", "onnx", "image.onnx").is_file()


AFTER: dict[str, Callable[[dict], None]] = {
    "docs/custom-students.md": after_custom_students,
    "README.md": after_readme,
}


# How blocks are read.


def commands(block: Block) -> Iterator[tuple[list[str], int]]:
    """List a block's commands, and the exit code that a comment `exit code N` announces."""
    lines = block.code.replace("\\\n", " ").splitlines()
    if block.language == "console":
        lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    for line in lines:
        announced = re.search(r"#.*\bexit code (\d)", line)
        words = shlex.split(line, comments=True)
        if words:
            yield words, int(announced.group(1)) if announced else 0


def calls(block: Block) -> Iterator[tuple[str, list[str]]]:
    """List the verbs that a block calls, with their arguments, whatever stands before them."""
    text = re.sub(r"\$\([^()]*\)", "CALLED", block.code.replace("\\\n", " "))
    for part in re.split(r"[;\n]|&&", text):
        found = re.match(r"(?:.*?-m )?\bdistill +(.*)", part.strip())
        if found:
            # A quotation that begins before the verb ends behind it.
            command = found.group(1)
            command = command.rstrip('"') if command.count('"') % 2 else command
            verb, *arguments = shlex.split(command, comments=True)
            yield verb, arguments


def needed(verb: str, arguments: list[str]) -> set[str]:
    """List the options that a verb cannot do without; `...` stands for them."""
    if {"...", "--students"} & set(arguments):
        return set()
    options = command_line.options(verb)
    always = {option.name for option in options if option.default is None and not option.positional}
    return always | ({"--data.store", "--out"} if verb in command_line.RECIPE_VERBS else set())


def run_page(page: Path) -> dict:
    """Run a page's blocks in the current folder; return what its Python has named."""
    for name in given(page.read_text()):
        GIVEN[name]()
    names: dict = {"__name__": "__main__"}
    for block in blocks(page, *RUN):
        if block.not_run:
            continue
        where = f"{name_of(page)}, line {block.line}"
        if block.language == "python":
            # Blank lines before it: a traceback names the page's own line.
            exec(compile("\n" * (block.line - 1) + block.code, str(page), "exec"), names)
            continue
        for words, code in commands(block):
            assert words[0] == "distill", f"{where}: only distill's verbs can be run: {words}"
            assert main(words[1:]) == code, f"{where}: {' '.join(words)}"
    return names


RUNNABLE = [
    pytest.param(page, id=name_of(page), marks=[pytest.mark.slow] if page.name in SLOW else [])
    for page in PAGES
    if any(not block.not_run for block in blocks(page, *RUN))
]


@pytest.mark.parametrize("page", RUNNABLE)
def test_the_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run_page(page)
    AFTER.get(name_of(page), lambda names: None)(names)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_is_fenced_and_of_a_known_language(page):
    text = page.read_text()
    assert {block.language for block in code_blocks(text)} <= {*RUN, *SHOWN}
    marked = sum(block.not_run is not None for block in code_blocks(text))
    assert without_code(text).count("<!-- not run:") == marked, "a mark without its block"
    before = ""
    for line in re.sub(r"```.*?```", "```\n```", text, flags=re.DOTALL).splitlines():
        in_list = re.match(r"\s*([-*]|\d+\.) |  ", before)
        assert in_list or not line.startswith("    "), f"code without a fence: {line}"
        before = line or before


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_what_is_made_or_benchmarked_is_there(page):
    text = page.read_text()
    targets = set(re.findall(r"^([\w-]+):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([\w-]+)", text, re.MULTILINE)) <= targets
    scripts = re.findall(r"\bpython (benchmarks/[\w/]+\.py)", text)
    assert all((ROOT / script).is_file() for script in scripts), scripts


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_what_is_not_run_names_what_exists(page):
    for block in blocks(page, "bash", "console"):
        for verb, arguments in calls(block):
            assert verb in command_line.summaries(), f"line {block.line}: distill {verb}"
            named = {word.partition("=")[0] for word in arguments if word.startswith("--")}
            unknown = named - command_line.accepted(verb)
            assert not unknown, f"line {block.line}: distill {verb} has no {unknown}"
            missing = needed(verb, arguments) - named
            assert not missing, f"line {block.line}: distill {verb} also needs {missing}"
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block.code)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module or "")
                assert all(hasattr(module, name.name) for name in node.names), node.names
