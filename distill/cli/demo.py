"""`distill demo`: the whole job on embedded pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from distill.cli.outcome import Outcome
from distill.cli.parsing import parse


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Render glyphs, train two teachers, reinforce, caption, train students, export, report.

    No network and no download. The same command goes on where it was stopped.

    Attributes:
        out: where everything goes; runs/demo, or runs/demo-quick.
        teacher_steps: training steps of each teacher; 700 when left out.
        student_steps: training steps of each student; 400 when left out.
        processes: how many trainings run side by side, one thread each; one a core when left out.
        quick: a few steps of everything: shows that it runs, not that it learns.
    """

    out: Path | None = None
    teacher_steps: int | None = None
    student_steps: int | None = None
    processes: int | None = None
    quick: bool = False


def run(arguments: Sequence[str], console: Console) -> Outcome:
    """Run it and say what happened."""
    asked = parse(Demo, "demo", arguments)
    from distill.demo import DemoSettings, run_demo

    quick = asked.quick
    settings = DemoSettings(
        out=asked.out or Path("runs/demo-quick" if quick else "runs/demo"),
        teacher_steps=asked.teacher_steps or (20 if quick else DemoSettings.teacher_steps),
        student_steps=asked.student_steps or (10 if quick else DemoSettings.student_steps),
        processes=asked.processes,
    )
    return Outcome(values=run_demo(settings, console))
