"""`distill inherit DONOR STUDENT OUT`: start a student from a donor's weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from distill.cli.outcome import Outcome
from distill.cli.parsing import parse


@dataclass(frozen=True, kw_only=True)
class Inherit:
    """Start a student from a donor's weights, print what it inherits, and save it.

    Attributes:
        donor: a student's folder, or a teacher: open_clip name/tag, hf-hub:ID, local folder.
        student: a student by name (distill list students), or a student's folder.
        out: the folder to write: the student and inheritance.json, the plan.
        selector: which units a narrower student keeps: leading, uniform, magnitude, or, measured
            on data, activation, taylor; learned takes a donor's folder that masks wrote
            (OUT/stages/1-masks of a run of tinyclip_auto).
        depth: which blocks a shallower one keeps: uniform, leading, or, measured, similarity.
        towers: which towers inherit.
        data: shards of pictures with captions, or a store, to measure the donor on; with magnitude
            it only fits the gains of LayerNorms.
        plan_only: write the plan and no student.
        seed: of what is not inherited.
    """

    donor: Annotated[str, tyro.conf.Positional]
    student: Annotated[str, tyro.conf.Positional]
    out: Annotated[Path, tyro.conf.Positional]
    selector: str = "magnitude"
    depth: str = "uniform"
    towers: tuple[Literal["image", "text"], ...] = ("image", "text")
    data: str | None = None
    plan_only: bool = False
    seed: int = 0


def run(arguments: Sequence[str], console: Console) -> Outcome:
    """Plan, print, apply, save."""
    asked = parse(Inherit, "inherit", arguments)
    import torch

    from distill.inheriting import plan_from_data
    from distill.model_loading import load_model
    from students import apply_plan, build_student, load_student
    from students.inheritance.plan import coverage_table
    from students.student import CONFIG_FILE

    donor = load_model(asked.donor)
    # After the donor is loaded: that draws random weights too.
    torch.manual_seed(asked.seed)
    saved = (Path(asked.student) / CONFIG_FILE).is_file()
    student = load_student(asked.student) if saved else build_student(asked.student)
    plan = plan_from_data(
        student,
        donor,
        selector=asked.selector,
        depth=asked.depth,
        towers=asked.towers,
        data=asked.data,
        folder=asked.donor,
    )
    console.print(coverage_table(plan))
    asked.out.mkdir(parents=True, exist_ok=True)
    if not asked.plan_only:
        apply_plan(plan, student, donor)
        student.save(asked.out)
    plan.save(asked.out / "inheritance.json")
    console.print(f"{plan.inherited:.1%} of {plan.student} starts from {plan.donor}: {asked.out}")
    values = {
        "student": plan.student,
        "donor": plan.donor,
        "inherited": plan.inherited,
        "coverage": plan.coverage,
        "own": {name: tower.own for name, tower in plan.towers.items()},
        "plan": str(asked.out / "inheritance.json"),
        "saved": not asked.plan_only,
    }
    return Outcome(values=values)
