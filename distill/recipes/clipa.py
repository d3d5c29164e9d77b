"""CLIPA (arXiv:2305.07017): nearly all of the training on few tokens, a short tuning on all.

The paper's B/16 sees pictures of 112 pixels (49 patches of 196) and texts of 16 tokens for 6 epochs
of LAION-400M, then 0.36 epochs at full size: 63.2 % on ImageNet in 2 days on 8 A100. Here that is
one run of two phases under one cosine; the paper restarts with a learning rate of its own
(2.56e-5, batch 8,192), which is a second run with `--student.name runs/clipa --tokens.image all`.
The paper's law is inverse: the smaller the model, the less it can do without. For students below
ViT-S take `--tokens.image-keep 0.5 --tokens.text-length 32`. Command:

    accelerate launch --config_file $(distill show accelerate ddp) -m distill train clipa \\
        --data.store laion400m-dr --out runs/clipa

As in the paper nothing is distilled; `--objective.contrastive 0.3 --objective.affinity 0.7` does
with the teachers in the store. Leaves out: fixed sine positions (learned ones are resampled), and
NLTK's tagger for syntax masking (students/tokens/words.py says what stands in for it).
"""

from distill.config import DataConfig, OptimizerConfig, RunConfig, ScheduleConfig, StudentConfig
from students.tokens.policy import TokenPolicy


def clipa() -> RunConfig:
    """A quarter of the picture's area, 16 tokens of text; all of both for the last 6 %."""
    return RunConfig(
        student=StudentConfig(name="ViT-S-16"),
        data=DataConfig(batch_size=65_536, micro_batch_size=4_096, num_workers=8),
        optimizer=OptimizerConfig(lr=2.048e-3, weight_decay=0.2, betas=(0.9, 0.95), eps=1e-6),
        schedule=ScheduleConfig(num_steps=38_800, warmup_steps=782),
        tokens=TokenPolicy(
            image="resize", image_keep=0.25, text="syntax", text_length=16, until=0.94
        ),
        precision="bf16",
    )
