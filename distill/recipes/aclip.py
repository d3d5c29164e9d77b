"""A-CLIP (arXiv:2212.08653): the half of the patches that is looked at.

The moving average of the student's own image tower sees the whole view and says by its attention,
averaged over all blocks, which half the student computes. The paper trains ViT-B/16 on YFCC-15M for
25 epochs, batch 4,096: with one masked view 39.5 % on ImageNet, 35.0 % with random masking and
37.6 % with all tokens; its 43.9 % adds a second view and two self-supervised losses, which are left
out here. Hardware and time are not stated there beyond 0.86 to 1.16 times plain CLIP's time.
Command:

    accelerate launch --config_file $(distill show accelerate ddp) -m distill train aclip \\
        --data.store yfcc15m-dr --out runs/aclip

The scoring pass costs a forward without gradient. A store that was written with
`distill reinforce --attention TEACHER` makes it free: `--tokens.image-scores teacher`.
"""

from distill.config import DataConfig, OptimizerConfig, RunConfig, ScheduleConfig, StudentConfig
from students.tokens.policy import TokenPolicy


def aclip() -> RunConfig:
    """Half of the patches by the moving average's attention; all for the last 4 %."""
    return RunConfig(
        student=StudentConfig(name="ViT-S-16"),
        data=DataConfig(batch_size=4_096, num_workers=8),
        optimizer=OptimizerConfig(lr=5e-4, weight_decay=0.5, betas=(0.9, 0.98), eps=1e-6),
        schedule=ScheduleConfig(num_steps=91_500, warmup_steps=3_660),
        tokens=TokenPolicy(image="attentive", image_keep=0.5, image_scores="ema", until=0.96),
        ema_decay=0.996,
        precision="bf16",
    )
