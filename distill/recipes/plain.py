"""Recipes of single papers that need no locked teacher: SigLIP's loss, CLIP-KD's terms.

None of the papers' numbers was reproduced here.
"""

from distill.config import DataConfig, OptimizerConfig, RunConfig, ScheduleConfig, StudentConfig
from distill.objective import Objective


def siglip() -> RunConfig:
    """SigLIP (arXiv:2303.15343): the pairwise sigmoid loss, no distillation.

    The paper: batch 32,768 is enough; B/16 from scratch on WebLI, on TPU-v4 chips. The time in its
    abstract, two days on four of them, is for a locked image tower. Any store serves; one of views
    alone needs no teacher. Add `--objective.affinity 1` to distil from a SigLIP teacher.

        accelerate launch --config_file $(distill show accelerate ddp) -m distill train siglip \\
            --data.store store --out runs/siglip
    """
    return RunConfig(
        student=StudentConfig(name="MobileCLIP2-S0", kind="sigmoid"),
        data=DataConfig(batch_size=32_768, num_workers=8),
        optimizer=OptimizerConfig(lr=1e-3, weight_decay=1e-4, betas=(0.9, 0.95)),
        schedule=ScheduleConfig(num_steps=30_000, warmup_steps=2_000),
        max_logit_scale=200.0,
        precision="bf16",
        channels_last=True,
    )


def clip_kd() -> RunConfig:
    """CLIP-KD (arXiv:2307.12732): hard labels, affinity, feature mimicking, interactive contrast.

    The paper's ViT-T/16 on CC3M and CC12M: 30.6 % ImageNet zero-shot undistilled, 34.2 with the
    feature term alone, 34.9 with all; 8 GPUs, time not given. Its feature weight of 2,000 is on
    the mean square over 512 dimensions of both modalities added up, which is about 8 here. Gradient
    mimicking, the weakest of its terms, is left out.

        distill reinforce SOURCE store --teachers ViT-B-16/laion400m_e32
        distill train clip_kd --data.store store --out runs/clip-kd
    """
    return RunConfig(
        student=StudentConfig(name="ViT-S-16"),
        data=DataConfig(batch_size=1_024, num_workers=8),
        objective=Objective(contrastive=1.0, affinity=1.0, feature=8.0, interactive=1.0),
        optimizer=OptimizerConfig(lr=1e-3, weight_decay=0.1, betas=(0.9, 0.98)),
        schedule=ScheduleConfig(num_steps=450_000, warmup_steps=10_000),
        precision="bf16",
    )
