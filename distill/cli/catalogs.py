"""`distill list`, `distill show` and `distill doctor`: what there is."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from distill.cli.outcome import Outcome
from distill.cli.parsing import parse
from teachers.suggestions import unknown_name


@dataclass(frozen=True, kw_only=True)
class List:
    """Print what can be named: teachers, students, recipes or captioners.

    Attributes:
        what: teachers, students, recipes or captioners.
    """

    what: Annotated[str, tyro.conf.Positional]


def _teachers() -> tuple[list[str], list[dict[str, Any]]]:
    from teachers import list_teachers

    return ["name", "licence"], [
        {"name": row.spec, "licence": row.licence or "see its model card"}
        for row in list_teachers()
    ]


def _students() -> tuple[list[str], list[dict[str, Any]]]:
    from students import CATALOG

    columns = ["name", "image_params", "text_params", "remark"]
    return columns, [
        {"name": name} | {column: getattr(row, column) for column in columns[1:]}
        for name, row in CATALOG.items()
    ]


def _recipes() -> tuple[list[str], list[dict[str, Any]]]:
    from distill.recipes import RECIPES

    return ["name", "summary"], [
        {"name": name, "summary": (recipe.__doc__ or "").splitlines()[0]}
        for name, recipe in RECIPES.items()
    ]


def _captioners() -> tuple[list[str], list[dict[str, Any]]]:
    from teachers.captioners.catalog import CAPTIONERS

    return ["name", "summary"], [
        {"name": entry.form, "summary": entry.summary} for entry in CAPTIONERS.values()
    ]


_LISTS: dict[str, Callable[[], tuple[list[str], list[dict[str, Any]]]]] = {
    "teachers": _teachers,
    "students": _students,
    "recipes": _recipes,
    "captioners": _captioners,
}


def run_list(arguments: Sequence[str], console: Console) -> Outcome:
    """Print one catalog."""
    what = parse(List, "list", arguments).what
    if what not in _LISTS:
        raise unknown_name("list", what, _LISTS)
    columns, rows = _LISTS[what]()
    table = Table(*(column.replace("_", " ") for column in columns))
    for row in rows:
        table.add_row(*(_cell(row[column]) for column in columns))
    console.print(table)
    return Outcome(values={what: rows})


def _cell(value: object) -> str:
    return f"{value / 1e6:.2f} M" if isinstance(value, int) else str(value)


@dataclass(frozen=True, kw_only=True)
class Show:
    """Print a recipe with every value, or the path of an accelerate configuration.

    Attributes:
        what: a recipe's name, or `accelerate` followed by cpu, cpu2, gpu, ddp, multi_node, fsdp2.
    """

    what: Annotated[tuple[str, ...], tyro.conf.Positional]


def run_show(arguments: Sequence[str], console: Console) -> Outcome:
    """Print JSON, or a bare path for use in `$( )`."""
    match parse(Show, "show", arguments).what:
        case ("accelerate", name):
            from distill.accelerate_configs import config_path

            path = str(config_path(name))
            console.print(path, soft_wrap=True, highlight=False)
            return Outcome(values={"path": path})
        case (name,):
            from distill.recipes import find_recipe

            values = find_recipe(name).as_json()
            console.print_json(json.dumps(values))
            return Outcome(values=values)
        case other:
            raise ValueError(
                f"distill show takes a recipe or `accelerate NAME`, got {' '.join(other)!r}"
            )


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Say what this machine has, what it lacks, and how to get it.

    Attributes:
        path: a store's or a run's folder, to say how that is instead.
    """

    path: Annotated[str | None, tyro.conf.Positional] = None


def run_doctor(arguments: Sequence[str], console: Console) -> Outcome:
    """Print findings; exit code 1 when something needed is broken."""
    asked = parse(Doctor, "doctor", arguments)
    from distill.doctor import diagnose, examine, print_findings

    findings = diagnose() if asked.path is None else examine(asked.path)
    print_findings(findings, console)
    broken = any(finding.status == "fail" for finding in findings)
    return Outcome(
        values={"findings": [asdict(finding) for finding in findings]}, exit_code=int(broken)
    )
