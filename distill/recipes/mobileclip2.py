"""MobileCLIP2 (arXiv:2508.20691): a hybrid mobile student on a reinforced dataset.

Affinity mimicking alone (the paper's lambda = 1), student and teachers on the same stored view.
Hardware and time of the paper's 12M runs: 32 GPUs, batch 8,192, 30,000 steps. Command:

    accelerate launch --config_file $(distill show accelerate ddp) -m distill train mobileclip2 \\
        --data.store datacompdr-12m --out runs/mobileclip2-s0

The paper's other students, S2 and B among them, are the same recipe with
`--student.name MobileCLIP2-S2` and `--student.name MobileCLIP2-B`; hours are not published.
Where the paper and its published scripts differ (warm-up, moving average, precision) this follows
the paper. Leaves out its second loss on synthetic captions.
"""

from distill.config import DataConfig, OptimizerConfig, RunConfig, ScheduleConfig, StudentConfig
from distill.objective import Objective


def mobileclip2() -> RunConfig:
    """MobileCLIP2-S0 at the 12M budget."""
    return RunConfig(
        student=StudentConfig(name="MobileCLIP2-S0"),
        data=DataConfig(batch_size=8_192, num_workers=8),
        objective=Objective(contrastive=0.0, affinity=1.0),
        optimizer=OptimizerConfig(lr=1e-3, weight_decay=0.2, betas=(0.9, 0.95)),
        schedule=ScheduleConfig(num_steps=30_000, warmup_steps=2_000, final_lr=1e-3),
        precision="bf16",
        ema_decay=0.9995,
        channels_last=True,
    )
