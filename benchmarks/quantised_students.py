"""Students on which precisions are compared: over 2 million numbers a tower, one for each seed.

A small residual network whose late stages are wide, which is cheap at 48 pixels, and a text tower
on CLIP's own table of 49,408 tokens, taught by the demo's two teachers on glyphs. Steps are few,
for one core: about two minutes of it a seed.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from ladder_world import World, glyphs
from rich.console import Console

from distill.config import RunConfig, StudentConfig
from distill.recipes.demo import demo, teacher_precision
from distill.side_by_side import train_side_by_side
from students import StudentSpec, TextSpec, build_student
from students.student import CONFIG_FILE

SPEC = StudentSpec(
    image="resnet10t",
    image_options={"stem_width": 16, "channels": (32, 64, 128, 384)},
    text=TextSpec(width=128, layers=1, heads=4, context_length=16),
    embed_dim=128,
    image_size=48,
)
STEPS = 140


def train(seeds: Sequence[int], out: Path, console: Console) -> tuple[World, list[str]]:
    """Train a student for each seed; what is trained stays. Returns the data and the folders."""
    world = glyphs(out)
    world.prepare(1, console)
    configs = [_config(world, seed, out) for seed in seeds]
    train_side_by_side(configs, processes=1, console=console)
    return world, [config.out for config in configs]


def _config(world: World, seed: int, out: Path) -> RunConfig:
    """Name a student of this seed, built but not trained yet, and how it is taught."""
    recipe = demo()
    start = out / f"start-{seed}"
    if not (start / CONFIG_FILE).is_file():
        torch.manual_seed(seed)
        build_student(SPEC, name="wide").save(start)
    return replace(
        recipe,
        student=StudentConfig(name=str(start)),
        data=replace(recipe.data, store=str(world.store)),
        optimizer=replace(recipe.optimizer, lr=4e-3),
        schedule=recipe.schedule.of_length(STEPS),
        precision="bf16" if teacher_precision() == "bf16" else "no",
        channels_last=True,
        evaluate_on={"validation": world.splits["validation"]},
        out=str(out / f"wide-{seed}"),
        save_every=50,
        seed=seed,
    )
