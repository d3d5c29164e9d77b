"""FastCLIP (arXiv:2407.01445): small batches, held against the whole data set.

A contrastive loss sees the negatives of its batch alone, so CLIP wants large ones. FastCLIP-v3
keeps, for every sample, a running mean of what it has seen (8 bytes a sample, in the checkpoint
too), and learns one temperature against a constant. The values are those of the published CC3M
script: a ResNet-50, 4 GPUs, batch 1,024, 37 epochs of 2.7 million pairs; its time is not
published. The paper reports 4 points more on ImageNet and its variants than OpenCLIP's loss there.
Command:

    accelerate launch --config_file $(distill show accelerate ddp) -m distill train fastclip \\
        --data.store cc3m-dr --out runs/fastclip

For more data: rho 8.5 (CC12M) to 16 (LAION), gamma 0.8 at batch 5,120, and
`--objective.fastclip-gamma-epochs` half of the epochs. v1 keeps the temperature as it is:
`--objective.fastclip-version v1`. v2 learns a temperature for each image and each text, at twice
the loss's work and 36 bytes a sample: `--objective.fastclip-version v2 --objective.fastclip-rho 7`,
the rest of its published setting being the defaults. As in the paper nothing is distilled;
`--objective.affinity 0.7` does, with the teachers in the store. Leaves out: a rate of v3's
temperature of its own (2e-4, and a third of it once the temperature is below 0.03).
"""

from distill.config import DataConfig, OptimizerConfig, RunConfig, ScheduleConfig, StudentConfig
from distill.objective import Objective


def fastclip() -> RunConfig:
    """FastCLIP-v3 on CC3M."""
    return RunConfig(
        student=StudentConfig(name="RN50"),
        data=DataConfig(batch_size=1_024, num_workers=8),
        objective=Objective(
            contrastive=0.0,
            fastclip=1.0,
            fastclip_version="v3",
            fastclip_gamma=0.2,
            fastclip_gamma_epochs=18,
            fastclip_rho=6.5,
        ),
        optimizer=OptimizerConfig(lr=1e-3, weight_decay=0.1, betas=(0.9, 0.999)),
        schedule=ScheduleConfig(num_steps=98_400, warmup_steps=10_000),
        precision="bf16",
    )
