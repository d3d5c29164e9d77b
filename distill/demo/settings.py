"""What the demo trains, as configurations: five models, and one ablation a term."""

from dataclasses import dataclass, replace
from pathlib import Path

from distill.config import RunConfig, ScheduleConfig, StudentConfig
from distill.objective import Objective
from distill.recipes.demo import demo, demo_teacher

TEACHERS = {"teacher-a": "demo-teacher-large", "teacher-b": "demo-teacher-small"}
SPLITS = ("unseen_pairs", "unseen_characters")
BEST = "student-distilled"


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """How long the demo takes.

    Attributes:
        out: where everything goes.
        teacher_steps: training steps of each teacher.
        student_steps: training steps of each student.
        num_views: stored views per picture.
        processes: trainings side by side; one a core when None.
    """

    out: Path = Path("runs/demo")
    teacher_steps: int = 700
    student_steps: int = 400
    num_views: int = 4
    processes: int | None = None

    @property
    def store(self) -> Path:
        """The reinforced dataset."""
        return self.out / "reinforced"

    @property
    def glyphs(self) -> Path:
        """The source shards, one folder a split."""
        return self.out / "glyphs"

    def evaluate_on(self) -> dict[str, str]:
        """The held-out splits."""
        return {split: str(self.glyphs / split) for split in SPLITS}


def teacher_configs(settings: DemoSettings) -> list[RunConfig]:
    """Two different teachers, trained on the pictures alone."""
    return [
        _placed(settings, demo_teacher(spec), name, settings.teacher_steps)
        for name, spec in TEACHERS.items()
    ]


def student_configs(settings: DemoSettings) -> list[RunConfig]:
    """Equal steps, seed, schedule and start; what they learn from differs."""
    best = demo()
    plain = Objective()
    own_text = StudentConfig(name=best.student.name)
    from_teacher = replace(own_text, text_from=str(settings.out / "teacher-a"))
    variants = {
        "student-undistilled": replace(best, objective=plain, student=own_text),
        "student-control": replace(best, objective=plain, student=from_teacher),
        BEST: replace(best, student=from_teacher),
    }
    return [
        _taught(settings, _placed(settings, config, name, settings.student_steps))
        for name, config in variants.items()
    ]


def ablation_configs(settings: DemoSettings) -> list[RunConfig]:
    """The distilled student without one thing at a time."""
    best = student_configs(settings)[-1]
    goal = best.objective
    own_text = replace(best.student, text_from=None)
    variants = {
        "without-affinity": replace(best, objective=replace(goal, affinity=0.0)),
        "without-feature": replace(best, objective=replace(goal, feature=0.0)),
        "without-scale-calibration": replace(best, objective=replace(goal, teacher_scale=1.0)),
        "without-teacher-text": replace(best, student=own_text),
    }
    return [
        replace(config, out=str(settings.out / "ablations" / name))
        for name, config in variants.items()
    ]


def _placed(settings: DemoSettings, config: RunConfig, name: str, steps: int) -> RunConfig:
    """Give a run its folder, its data, its evaluation and its length."""
    warmup = min(config.schedule.warmup_steps, steps // 10)
    schedule: ScheduleConfig = replace(config.schedule, num_steps=steps, warmup_steps=warmup)
    return replace(
        config,
        out=str(settings.out / name),
        data=replace(config.data, store=str(settings.store)),
        schedule=schedule,
        evaluate_on=settings.evaluate_on(),
    )


def _taught(settings: DemoSettings, config: RunConfig) -> RunConfig:
    """Compare with the larger teacher."""
    return replace(config, compare_to=str(settings.out / "teacher-a" / "result.json"))
