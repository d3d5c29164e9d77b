"""The command line reference, read from the verbs' own source: nothing is imported, nothing is old.

A verb is a frozen dataclass that is handed to `parse(KIND, "verb", ...)`; its docstring describes
the options. Fields that are dataclasses themselves are written out with dotted names.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

from markdown_text import ROOT

PACKAGES = ("teachers", "students", "reinforced_data", "distill")
# Two verbs take a recipe first, whose fields are the options; their text is in `_USAGE`.
RECIPE_VERBS = {"train": "RunConfig", "calibrate": "CalibrateArguments"}


@dataclass(frozen=True, kw_only=True)
class Option:
    """One argument of a verb.

    Attributes:
        name: as it is typed; of a positional argument in capitals.
        kind: what a value looks like; empty for a switch.
        default: what holds without it; None when it has to be given.
        text: what its class says of it.
        positional: is it given without a name.
        origin: the class that it is a field of.
    """

    name: str
    kind: str
    default: str | None
    text: str
    positional: bool
    origin: str


@dataclass(frozen=True, kw_only=True)
class Sources:
    """The classes and aliases of the four packages, and the class that each verb parses."""

    classes: dict[str, ast.ClassDef]
    aliases: dict[str, ast.expr]
    verbs: dict[str, ast.ClassDef]


@cache
def _sources() -> Sources:
    classes: dict[str, ast.ClassDef] = {}
    aliases: dict[str, ast.expr] = {}
    verbs: dict[str, ast.ClassDef] = {}
    for path in sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py")):
        tree = ast.parse(path.read_text())
        own = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
        classes.update(own)
        for node in tree.body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                aliases[node.targets[0].id] = node.value
        if path.parent.name == "cli":
            verbs.update({verb: own[kind] for verb, kind in _parsed_kinds(tree) if kind in own})
    verbs.update({verb: classes[kind] for verb, kind in RECIPE_VERBS.items()})
    return Sources(classes=classes, aliases=aliases, verbs=verbs)


def _parsed_kinds(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        match node:
            case ast.Call(
                func=ast.Name(id="parse"), args=[ast.Name(id=kind), ast.Constant(value=verb), *_]
            ):
                yield verb, kind


@cache
def summaries() -> dict[str, str]:
    """Return the table of verbs: name -> one line."""
    tree = ast.parse((ROOT / "distill" / "cli" / "verbs.py").read_text())
    table = next(
        node.value
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "VERBS"
    )
    assert isinstance(table, ast.Dict)
    found = {}
    for key, value in zip(table.keys, table.values, strict=True):
        assert isinstance(key, ast.Constant) and isinstance(value, ast.Call)
        (summary,) = (word.value for word in value.keywords if word.arg == "summary")
        found[key.value] = ast.literal_eval(summary)
    return found


@cache
def options(verb: str) -> tuple[Option, ...]:
    """List the arguments of a verb, in the order of its class."""
    return tuple(_fields(_sources().verbs[verb], ""))


def accepted(verb: str) -> set[str]:
    """List the names of a verb's options, both forms of a switch among them."""
    names = {option.name for option in options(verb) if not option.positional}
    switches = {option.name for option in options(verb) if not option.kind}
    said = set(re.findall(r"--[a-z][\w.-]*\w", _usage(verb) or ""))
    return names | {_opposite(name) for name in switches} | said | {"--json", "--help"}


@cache
def _usage(verb: str) -> str | None:
    """Return what a verb that takes a recipe says of itself: its class does not know all."""
    if verb not in RECIPE_VERBS:
        return None
    tree = ast.parse((ROOT / "distill" / "cli" / f"{verb}.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_USAGE":
            return ast.literal_eval(node.value)
    return None


def _opposite(switch: str) -> str:
    group, _, name = switch.removeprefix("--").rpartition(".")
    name = name.removeprefix("no-") if name.startswith("no-") else f"no-{name}"
    return f"--{group}.{name}" if group else f"--{name}"


def _fields(node: ast.ClassDef, prefix: str) -> Iterator[Option]:
    texts = _attribute_texts(ast.get_docstring(node) or "")
    for field in node.body:
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        name, kind, words = field.target.id, _type(field.annotation), ast.unparse(field.annotation)
        dotted = prefix + name.replace("_", "-")
        renamed = re.search(r"arg\(name='([\w-]*)'", words)
        if renamed:
            dotted = prefix + renamed.group(1)
        if isinstance(kind, ast.Name) and kind.id in _sources().classes:
            yield from _fields(_sources().classes[kind.id], f"{dotted}." if dotted else "")
        elif not _in_python_only(kind):
            positional = "Positional" in words
            option = Option(
                name=dotted.upper() if positional else f"--{dotted}",
                kind=_kind(kind),
                default=_default(field.value),
                text=texts.get(name, ""),
                positional=positional,
                origin=node.name,
            )
            yield _as_switch(option) if option.kind == "bool" else option


def _type(annotation: ast.expr) -> ast.expr:
    """Take what tyro is told, and that None is allowed, off a type."""
    match annotation:
        case ast.Subscript(value=ast.Name(id="Annotated"), slice=ast.Tuple(elts=[inner, *_])):
            return _type(inner)
        case ast.BinOp(left=left, op=ast.BitOr(), right=ast.Constant(value=None)):
            return _type(left)
        case ast.Name(id=name) if name in _sources().aliases:
            return _type(_sources().aliases[name])
    return annotation


def _in_python_only(kind: ast.expr) -> bool:
    """Functions, and lists of dataclasses, cannot be typed on a command line."""
    names = {node.id for node in ast.walk(kind) if isinstance(node, ast.Name)}
    return bool(names & ({"Callable", "CustomTerm"} | set(_sources().classes)))


def _as_switch(option: Option) -> Option:
    if option.default == "True":
        return replace(option, name=_opposite(option.name), kind="", default="")
    return replace(option, kind="", default="")


def _kind(kind: ast.expr) -> str:
    """Say what a value looks like: `a | b` for choices, else the type's own words."""
    match kind:
        case ast.Subscript(value=ast.Name(id="Literal"), slice=ast.Tuple(elts=choices)):
            return " | ".join(str(ast.literal_eval(choice)) for choice in choices)
        case ast.Subscript(value=ast.Name(id="tuple"), slice=ast.Tuple(elts=[inner, *rest])):
            several = rest and ast.unparse(rest[0]) == "..."
            return f"{_kind(_type(inner))} ..." if several else " ".join(map(_kind, [inner, *rest]))
        case ast.Subscript(value=ast.Name(id="Mapping" | "dict"), slice=ast.Tuple(elts=pair)):
            return " ".join(_kind(_type(part)) for part in pair) + " ..."
    words = {"str": "text", "Path": "path", "int": "number", "float": "number"}
    text = ast.unparse(kind)
    return words.get(text, text)


def _default(value: ast.expr | None) -> str | None:
    """Write the default as it would be typed; None where there is none."""
    if value is None:
        return None
    if isinstance(value, ast.Name) and value.id in _sources().aliases:
        return _default(_sources().aliases[value.id])
    try:
        plain = ast.literal_eval(value)
    except ValueError:
        return "" if isinstance(value, ast.Call) else ast.unparse(value).rpartition(".")[2]
    if plain is None or plain in ((), ""):
        return ""
    if isinstance(plain, tuple):
        return " ".join(map(str, plain))
    return str(plain)


def _attribute_texts(docstring: str) -> dict[str, str]:
    """Read a docstring's `Attributes:`; one text may be of several fields, `a, b: ...`."""
    section = re.search(r"^Attributes:\n(.*?)(?=^\S|\Z)", docstring, re.MULTILINE | re.DOTALL)
    found: dict[str, str] = {}
    names: list[str] = []
    for line in section.group(1).splitlines() if section else ():
        entry = re.match(r" {4}(\w+(?:, \w+)*): (.*)", line)
        if entry:
            names = entry.group(1).split(", ")
            found.update(dict.fromkeys(names, entry.group(2)))
        elif line.strip():
            found.update({name: f"{found[name]} {line.strip()}" for name in names})
    return found


def _description(verb: str) -> str:
    text = ast.get_docstring(_sources().verbs[verb]) or ""
    return re.split(r"^Attributes:", text, flags=re.MULTILINE)[0].strip()


def as_markdown() -> str:
    """Write every verb: what it does, its arguments, its options."""
    parts = []
    for verb in summaries():
        shown = [option for option in options(verb) if _belongs(option, verb)]
        words = ["distill", verb]
        words += [o.name if o.default is None else f"[{o.name}]" for o in shown if o.positional]
        usage = _usage(verb) or " ".join([*words, "[OPTIONS]", "[--json]"])
        about = "" if verb in RECIPE_VERBS else _description(verb)
        parts += [f"## distill {verb}", about, f"```text\n{usage.strip()}\n```"]
        if verb in RECIPE_VERBS:
            parts.append(
                "The recipe's values hold where an option is left out, not the defaults here."
            )
        if len(shown) < len(options(verb)):
            parts.append("It takes every option of [distill train](#distill-train) too.")
        parts.append(_table(shown))
    return "\n\n".join(parts) + "\n"


def _belongs(option: Option, verb: str) -> bool:
    """A run's fields are listed once, at `distill train`."""
    if verb != "calibrate":
        return True
    return option.origin == RECIPE_VERBS["calibrate"]


def _table(shown: list[Option]) -> str:
    lines = ["| argument | value | default | |", "|---|---|---|---|"]
    for option in shown:
        default = f"`{option.default}`" if option.default else ""
        if option.default is None:
            default = "required"
        cells = (f"`{option.name}`", option.kind, default, option.text)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)
