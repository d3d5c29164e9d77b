"""Recipes that train against a locked teacher's stored rows: its encoder is not run once.

Stage 1 embeds the data once; a step then costs what is trained, a tower or a head. Each writes a
whole student at the end, the teacher's encoder in it. None of the papers' numbers was reproduced
here; hardware and time are the papers' where given. Every name can be changed from the command
line: `--lock.stored-image`, `--lock.stored-text`, `--student.name`.
"""

from distill.config import DataConfig, OptimizerConfig, RunConfig, ScheduleConfig, StudentConfig
from distill.lock_config import LockConfig
from distill.objective import Objective


def lit() -> RunConfig:
    """LiT (arXiv:2111.07991): a text tower learns to read a locked image tower's embeddings.

    85.2 % ImageNet zero-shot with g/14 (the paper, on TPUs; its training data is not public). No
    picture is decoded and no image tower runs: one GPU that holds the text tower and the batch.

        distill reinforce SOURCE store --teachers ViT-L-14/datacomp_xl_s13b_b90k
        distill train lit --data.store store --out runs/lit
    """
    return RunConfig(
        student=StudentConfig(name="ViT-B-16"),
        lock=LockConfig(stored_image="ViT-L-14/datacomp_xl_s13b_b90k"),
        data=DataConfig(batch_size=16_384, num_workers=4),
        optimizer=OptimizerConfig(lr=1e-3, weight_decay=1e-4, betas=(0.9, 0.95)),
        schedule=ScheduleConfig(num_steps=30_000, warmup_steps=2_000),
        precision="bf16",
    )


def locked_text() -> RunConfig:
    """ViTamin's locked-text tuning (arXiv:2404.02132): an image tower, a large text tower locked.

    The text side is stored; the student's image tower learns to speak to it, with the teacher's
    affinities and image rows beside the captions. A step costs the small image tower; text towers
    are most of a small CLIP, so what is shipped has the teacher's large one. Hardware: the small
    tower's, 8 GPUs for MobileCLIP2's batch.

        distill reinforce SOURCE store --teachers ViT-B-16/datacomp_xl_s13b_b90k
        distill train locked_text --data.store store --out runs/locked-text
    """
    return RunConfig(
        student=StudentConfig(name="MobileCLIP2-S0"),
        lock=LockConfig(stored_text="ViT-B-16/datacomp_xl_s13b_b90k"),
        data=DataConfig(batch_size=8_192, num_workers=8),
        objective=Objective(contrastive=0.3, affinity=0.7, feature=4.0, teacher_scale=0.5),
        optimizer=OptimizerConfig(lr=1e-3, weight_decay=0.2),
        schedule=ScheduleConfig(num_steps=30_000, warmup_steps=2_000),
        precision="bf16",
        channels_last=True,
    )


def sail() -> RunConfig:
    """SAIL (arXiv:2412.04616): a gated head on either of two frozen unimodal encoders.

    The paper's setting: sigmoid loss, batch 32,768, 1,024 dimensions; 73.4 % ImageNet zero-shot
    after 5 hours on one A100. Ours has AdamW in place of Lion, the loss summed and divided by the
    batch where SAIL's code takes the mean over all pairs (its rate of 1e-5 belongs to that), and
    SigLIP's first scale, 10, where it has 20. A second, written caption adds its loss with
    `--data.captions.kind sum`.

        distill reinforce SOURCE store --teachers timm/vit_large_patch14_dinov2.lvd142m \\
            hf-text:sentence-transformers/all-mpnet-base-v2
        distill train sail --data.store store --out runs/sail
    """
    return RunConfig(
        student=StudentConfig(name="sail", kind="sigmoid"),
        lock=LockConfig(
            stored_image="timm/vit_large_patch14_dinov2.lvd142m",
            stored_text="hf-text:sentence-transformers/all-mpnet-base-v2",
            image_head="glu",
            text_head="glu",
            embed_dim=1_024,
        ),
        data=DataConfig(batch_size=32_768, num_workers=4),
        optimizer=OptimizerConfig(lr=3e-4, weight_decay=1e-4, betas=(0.9, 0.95)),
        schedule=ScheduleConfig(num_steps=50_000, warmup_steps=500),
        max_logit_scale=200.0,
    )


def llm2clip() -> RunConfig:
    """LLM2CLIP (arXiv:2411.04997), second stage: an image tower against a language model.

    The language model is frozen and read once, in stage 1; an adapter on its stored embeddings and
    a pretrained image tower learn at a low rate. The first stage, which tunes the language model on
    captions, is left out: name a model that was tuned so. Hardware: 8 GPUs in the paper.

        distill reinforce SOURCE store \\
            --teachers hf-text:microsoft/LLM2CLIP-Llama-3.2-1B-Instruct-CC-Finetuned
        distill train llm2clip --data.store store --out runs/llm2clip
    """
    return RunConfig(
        student=StudentConfig(name="ViT-B-16/openai"),
        lock=LockConfig(
            stored_text="hf-text:microsoft/LLM2CLIP-Llama-3.2-1B-Instruct-CC-Finetuned",
            text_head="mlp",
        ),
        data=DataConfig(batch_size=4_096, num_workers=8),
        optimizer=OptimizerConfig(lr=1e-5, weight_decay=0.05, betas=(0.9, 0.98)),
        schedule=ScheduleConfig(num_steps=20_000, warmup_steps=500),
        precision="bf16",
    )
