"""The embedded default: a small world (glyphs), two small teachers, a student 7 times smaller.

Starts from what a prototype measured at this scale: the teacher's own logit scale makes nearly
one-hot targets (x 0.3 is better), feature mimicking adds most, and a text tower taken from the
teacher saves most steps. Every term can be switched off from the command line. One thread of a
CPU core runs the student's 400 steps in under a minute:

    distill demo
"""

from typing import Literal

from distill.config import DataConfig, OptimizerConfig, RunConfig, ScheduleConfig, StudentConfig
from distill.doctor.machine import multiplies_bfloat16
from distill.objective import Objective
from reinforced_data import ViewPolicy
from students import StudentSpec, TextSpec

# A glyph keeps its meaning under small shifts and turns, not under flips or strong crops. Twice
# this magnitude cost an undistilled student 4 to 8 of its 20 points in 400 steps (one seed).
GLYPH_VIEWS = ViewPolicy(
    scale=(0.8, 1.0),
    ratio=(0.9, 1.1),
    num_ops=1,
    magnitude=0.15,
    operations=("rotate", "shear_x", "shear_y", "translate_x", "translate_y"),
    fill=255,
)

_TEXT = TextSpec(width=128, layers=1, heads=4, context_length=12)

# What `student.name` may be besides catalog names: towers that train in minutes on one core.
SPECS = {
    "demo-teacher-large": StudentSpec(
        image="smallconv-32", text=_TEXT, embed_dim=128, image_size=32
    ),
    "demo-teacher-small": StudentSpec(
        image="smallconv-24",
        text=TextSpec(width=96, layers=1, heads=4, context_length=12),
        embed_dim=96,
        image_size=24,
    ),
    "demo-student": StudentSpec(image="smallconv-10", text=_TEXT, embed_dim=128, image_size=32),
    "demo-student-narrow": StudentSpec(
        image="smallconv-9", text=_TEXT, embed_dim=128, image_size=32
    ),
    "demo-vit": StudentSpec(image="smallvit-32", text=_TEXT, embed_dim=128, image_size=32),
}


def demo() -> RunConfig:
    """The distilled student: contrastive, affinity and feature terms."""
    return RunConfig(
        student=StudentConfig(name="demo-student"),
        data=DataConfig(batch_size=256, num_workers=1),
        objective=Objective(contrastive=0.3, affinity=0.7, feature=4.0, teacher_scale=0.3),
        optimizer=OptimizerConfig(lr=8e-3, weight_decay=0.05, betas=(0.9, 0.98)),
        schedule=ScheduleConfig(num_steps=400, warmup_steps=40),
        channels_last=True,
        save_every=200,
    )


def demo_teacher(name: str = "demo-teacher-large") -> RunConfig:
    """A teacher from `SPECS`, trained on the pictures alone."""
    return RunConfig(
        student=StudentConfig(name=name),
        data=DataConfig(batch_size=256, num_workers=1),
        precision="bf16" if teacher_precision() == "bf16" else "no",
        optimizer=OptimizerConfig(lr=6e-3, weight_decay=0.05, betas=(0.9, 0.98)),
        schedule=ScheduleConfig(num_steps=700, warmup_steps=60),
        channels_last=True,
        save_every=200,
    )


def teacher_precision() -> Literal["bf16", "fp32"]:
    """bf16 where the processor multiplies it, which takes 0.6 of the larger teacher's time.

    Elsewhere bfloat16 would be slower than float32.
    """
    return "bf16" if multiplies_bfloat16() else "fp32"
