"""TinyCLIP (arXiv:2309.12314): inherited weights, affinity mimicking at a fixed, soft temperature.

The released scripts train on the soft loss alone, with the scale of teacher and student held at
50. Here the usual teacher's scale, 100, is halved by `teacher_scale`, and the student's is learned
and capped at 50. Hardware of the paper: 32 GPUs, batch 32,768; time not given. Command:

    accelerate launch --config_file $(distill show accelerate ddp) -m distill train tinyclip \\
        --data.store laion400m-dr --out runs/tinyclip

The student starts from the paper's teacher, by the paper's manual rule (the first units), with
blocks spaced evenly where the paper's integer step is not; `--student.selector magnitude` and the
others are a flag away, `distill inherit` shows the plan. `tinyclip_progressive` goes down in the
paper's stages, 75, 50 and 25 % of the teacher's weights, each as long as the schedule; the same
command goes on in the stage where it stopped (`distill train tinyclip_progressive`). In
`distill train tinyclip_auto` no size is given: masks find it while the first steps train, and the
schedule goes on with what they left (docs/masks.md). The paper's own "auto" goes down in three such
steps.
"""

from dataclasses import replace

from distill.config import DataConfig, OptimizerConfig, RunConfig, ScheduleConfig, StudentConfig
from distill.mask_config import MaskConfig
from distill.objective import Objective


def tinyclip() -> RunConfig:
    """TinyCLIP's ViT-40M/32 + Text-19M, two thirds as wide as its donor, at the paper's rates."""
    return RunConfig(
        student=StudentConfig(
            name="TinyCLIP-ViT-40M-32-Text-19M", donor="ViT-B-32/laion2b_e16", selector="leading"
        ),
        data=DataConfig(batch_size=32_768, num_workers=8),
        objective=Objective(contrastive=0.0, affinity=1.0, teacher_scale=0.5),
        optimizer=OptimizerConfig(
            lr=1e-4, weight_decay=0.2, betas=(0.9, 0.98), eps=1e-6, max_grad_norm=5.0
        ),
        schedule=ScheduleConfig(num_steps=75_000, warmup_steps=2_000),
        max_logit_scale=50.0,
        precision="bf16",
        activation_checkpointing=True,
    )


def tinyclip_progressive() -> RunConfig:
    """TinyCLIP's 75, 50 and 25 % of ViT-B/32, each stage the next one's donor."""
    base = tinyclip()
    student = replace(
        base.student,
        name="TinyCLIP-auto-ViT-22M-32-Text-10M",
        stages=("TinyCLIP-ViT-61M-32-Text-29M", "TinyCLIP-ViT-40M-32-Text-19M"),
        selector="magnitude",
    )
    return replace(base, student=student)


def tinyclip_auto() -> RunConfig:
    """Half of ViT-B/32's weights, embeddings counted; where they go is learned."""
    base = tinyclip()
    student = replace(base.student, name="ViT-B-32")
    return replace(base, student=student, masks=MaskConfig(keep=0.5, steps=5_000))
