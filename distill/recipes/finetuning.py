"""Recipes that go on from good weights: FT-CLIP and EVA-CLIP.

Both let the rate fall from a tower's output to its input, so that early layers keep what they
know. `distill merge` afterwards weighs the result against what it started from (WiSE-FT).
"""

from distill.config import DataConfig, OptimizerConfig, RunConfig, ScheduleConfig, StudentConfig
from distill.objective import Objective


def ft_clip() -> RunConfig:
    """Fine-tune a CLIP on a store, after FT-CLIP (arXiv:2212.06138).

    Of the paper: a small rate, layer-wise decay (0.6 for ViT-B), a moving average, few and weak
    augmentations (the store's views say which). Its subject is ImageNet classification on one
    machine of V100s, and its configurations were never published; the rate, the length and the
    loss on pairs are this recipe's own. One GPU, some hours for 10 million pairs seen. Command:

        accelerate launch --config_file $(distill show accelerate gpu) -m distill train ft_clip \\
            --student.name ViT-B-16 --student.donor ViT-B-16/openai \\
            --data.store cc3m-dr --out runs/ft-clip
    """
    return RunConfig(
        student=StudentConfig(name="ViT-B-16", donor="ViT-B-16/openai"),
        data=DataConfig(batch_size=1_024, micro_batch_size=256, num_workers=8),
        objective=Objective(contrastive=0.3, affinity=0.7),
        optimizer=OptimizerConfig(
            lr=3e-5,
            image_layer_decay=0.6,
            text_layer_decay=0.6,
            weight_decay=0.05,
            betas=(0.9, 0.98),
        ),
        schedule=ScheduleConfig(num_steps=10_000, warmup_steps=1_000),
        ema_decay=0.9998,
        precision="bf16",
    )


def evaclip_finetune() -> RunConfig:
    """Train a CLIP whose towers are pretrained, after EVA-CLIP (arXiv:2303.15389).

    Rates, layer decays, LAMB, clipping, warm-up, batch and length are those of the published
    script for EVA02-CLIP-B/16: 64 A100 of 40 GB, 8 billion pairs seen; its time is not published.
    There the image tower comes from masked image modelling and the text tower
    from OpenAI's CLIP; here both come from the donor. Betas and epsilon are open_clip's for
    ViT. Command, for eight machines:

        accelerate launch --config_file $(distill show accelerate multi_node) --num_machines 8 \\
            --num_processes 64 --machine_rank $RANK --main_process_ip $HOST -m distill train \\
            evaclip_finetune --data.store merged2b-dr --out runs/evaclip
    """
    return RunConfig(
        student=StudentConfig(name="EVA02-B-16", donor="EVA02-B-16/merged2b_s8b_b131k"),
        data=DataConfig(batch_size=131_072, num_workers=8),
        objective=Objective(),
        optimizer=OptimizerConfig(
            name="lamb",
            lr=5e-4,
            image_lr=2e-4,
            text_lr=2e-5,
            image_layer_decay=0.75,
            text_layer_decay=0.75,
            weight_decay=0.05,
            betas=(0.9, 0.98),
            eps=1e-6,
            max_grad_norm=5.0,
        ),
        schedule=ScheduleConfig(num_steps=61_000, warmup_steps=2_000),
        precision="bf16",
        activation_checkpointing=True,
    )
