"""Quantisation-aware distillation: a few steps more in which a student learns to bear rounding.

Jacob et al. (arXiv:1712.05877) train with rounded weights and activations; here the teacher is the
store's, as in every recipe. `students.rounding` says how numbers are rounded. What comes out is an
ordinary student, for `distill export --quantize int8`.
"""

from distill.config import DataConfig, OptimizerConfig, RunConfig, ScheduleConfig, StudentConfig
from distill.objective import Objective


def quantization_aware() -> RunConfig:
    """Go on from a trained student with the numbers of int8 files, or of 4-bit ones.

    A thirtieth of MobileCLIP2's steps at a tenth of its rate, without decay; length and rate are
    this recipe's own. float32, as bfloat16 would round the rounded once more. `--quantize
    4bit-weights` rounds weights alone, to 4 bits. Whether it gains anything for a student, the
    same command with `--quantize none` and another `--out` says. One GPU; its time was not
    measured. Command:

        distill train quantization_aware --student.name RUN --data.store store --out runs/rounded
        distill export runs/rounded out/ --quantize int8
    """
    return RunConfig(
        student=StudentConfig(name="MobileCLIP2-S0"),
        quantize="int8",
        data=DataConfig(batch_size=1_024, micro_batch_size=256, num_workers=8),
        objective=Objective(contrastive=0.3, affinity=0.7, feature=4.0, teacher_scale=0.5),
        optimizer=OptimizerConfig(lr=1e-4, weight_decay=0.0),
        schedule=ScheduleConfig(num_steps=1_000, warmup_steps=100),
        channels_last=True,
    )
