"""What the demo trains, as configurations: five models, and the best one changed in one thing."""

from dataclasses import dataclass, replace
from pathlib import Path

from distill.config import RunConfig
from distill.recipes.demo import demo, demo_teacher
from distill.recipes.variants import VARIANTS
from reinforced_data.captions.policy import CaptionPolicy

TEACHERS = {"teacher-a": "demo-teacher-large", "teacher-b": "demo-teacher-small"}
SPLITS = ("unseen_pairs", "unseen_characters")
COMPARED = ("undistilled", "control", "distilled")
BEST = "student-distilled"
# Folders in ablations/, and what the distilled student lacks there, or has besides.
LEFT_OUT = {
    "without-affinity": "affinity mimicking",
    "without-feature": "feature mimicking",
    "without-scale-calibration": "calibrating the teachers' scale",
    "without-teacher-text": "taking over the teacher's text tower",
}
ADDED = {"with-captions": "with captions by rules"}


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
    from_teacher = replace(best.student, text_from=str(settings.out / "teacher-a"))
    best = replace(best, student=from_teacher)
    return [
        replace(
            _placed(
                settings, VARIANTS[variant](best), f"student-{variant}", settings.student_steps
            ),
            compare_to=str(settings.out / "teacher-a" / "result.json"),
        )
        for variant in COMPARED
    ]


def ablation_configs(settings: DemoSettings) -> list[RunConfig]:
    """The distilled student without one thing at a time, then with captions that rules wrote."""
    best = student_configs(settings)[-1]
    changed = {name: VARIANTS[name](best) for name in LEFT_OUT}
    both = replace(best.data, captions=CaptionPolicy(kind="mix"))
    changed |= {name: replace(best, data=both) for name in ADDED}
    return [
        replace(config, out=str(settings.out / "ablations" / name))
        for name, config in changed.items()
    ]


def _placed(settings: DemoSettings, config: RunConfig, name: str, steps: int) -> RunConfig:
    """Give a run its folder, its data, its evaluation and its length."""
    return replace(
        config,
        out=str(settings.out / name),
        data=replace(config.data, store=str(settings.store)),
        schedule=config.schedule.of_length(steps),
        evaluate_on=settings.evaluate_on(),
    )
