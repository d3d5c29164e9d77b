"""The embedded default: a small world (glyphs), two small teachers, a student 7 times smaller.

Starts from what a prototype measured at this scale: the teacher's own logit scale makes nearly
one-hot targets (x 0.3 is better), feature mimicking adds most, and a text tower taken from the
teacher saves most steps. Every term can be switched off from the command line. One thread of a
CPU core runs the student's 400 steps in under a minute:

    distill demo
"""

from distill.config import DataConfig, OptimizerConfig, RunConfig, ScheduleConfig
from distill.objective import Objective
from students import StudentSpec, TextSpec

_TEXT = TextSpec(width=128, layers=1, heads=4, context_length=16)

LARGE_TEACHER = StudentSpec(image="smallconv-32", text=_TEXT, embed_dim=128, image_size=32)
SMALL_TEACHER = StudentSpec(
    image="smallconv-24",
    text=TextSpec(width=96, layers=1, heads=4, context_length=16),
    embed_dim=96,
    image_size=24,
)
STUDENT = StudentSpec(image="smallconv-10", text=_TEXT, embed_dim=128, image_size=32)


def demo() -> RunConfig:
    """The distilled student: contrastive, affinity and feature terms."""
    return RunConfig(
        data=DataConfig(batch_size=256, num_workers=1),
        objective=Objective(contrastive=0.3, affinity=0.7, feature=4.0, teacher_scale=0.3),
        optimizer=OptimizerConfig(lr=1e-2, weight_decay=0.05, betas=(0.9, 0.98)),
        schedule=ScheduleConfig(num_steps=400, warmup_steps=40),
        channels_last=True,
        save_every=200,
    )
