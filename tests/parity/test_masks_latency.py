"""What `--masks.cost latency` predicts is what a smaller student takes."""

import random
import time
from dataclasses import replace

import pytest
import torch
from scipy.stats import spearmanr

from distill.config import RunConfig, ScheduleConfig
from distill.mask_config import MaskConfig
from distill.mask_phase import measured_cost, pair_ms, shrink
from reinforced_data import open_dataset, reinforce
from reinforced_data.testing import write_source
from students import OpenClipSpec, StudentSpec, TextSpec, build_student
from students.inheritance import annotate
from students.inheritance.testing import WORDS
from students.masks import Size, shrunk_student, sizes_of
from students.masks.costs import latency_cost, latency_features
from students.masks.testing import open_clip_vit


def sized(sizes: tuple[Size, ...], image: float, text: float) -> dict[str, int]:
    shares = {"image": image, "text": text}
    return {
        size.name: max(size.least, int(shares[size.name[: size.name.index(".")]] * size.total))
        // size.step
        * size.step
        for size in sizes
    }


def test_a_linear_latency_is_found_from_the_measured_sizes() -> None:
    student = open_clip_vit()
    annotation = annotate(student)
    sizes = sizes_of(student, annotation)
    features = latency_features(annotation, sizes)
    assert () in features and ("image.heads", "image.layers", "image.mlp") in features

    def takes(asked: dict[str, int]) -> float:
        blocks = asked["image.heads"] * asked["image.layers"] * asked["image.mlp"]
        return 2.0 + 0.01 * blocks + 0.5 * asked["text.heads"]

    drawn = random.Random(0)
    asked = [
        {size.name: drawn.randrange(size.least, size.total + 1, size.step) for size in sizes}
        for _ in range(60)
    ]
    cost = latency_cost(features, [(each, takes(each)) for each in asked])
    other = sized(sizes, 0.6, 0.9)
    assert float(cost.of(other)) == pytest.approx(takes(other), rel=1e-3)


@pytest.mark.slow
def test_predicted_and_measured_times_rank_alike() -> None:
    # Large enough that products of matrices take the time, and no other program's share of it.
    vision = {"width": 384, "layers": 4, "patch_size": 8, "image_size": 64, "head_width": 48}
    text = {"width": 384, "heads": 8, "layers": 4, "context_length": 8}
    spec = OpenClipSpec(model="ViT-B-32", vision=vision, text=text, embed_dim=16)
    torch.manual_seed(0)
    student = build_student(spec, tokenizer=WORDS)
    annotation = annotate(student)
    sizes = sizes_of(student, annotation)
    cost = measured_cost(student, annotation, sizes, 0, time.process_time)
    pairs = [(1, 1), (0.3, 1), (1, 0.3), (0.5, 0.5), (0.25, 0.25), (0.75, 0.4), (0.4, 0.8)]
    asked = [sized(sizes, *pair) for pair in pairs]
    predicted = [float(cost.of(each)) for each in asked]
    measured = [pair_ms(shrunk_student(student, each).eval(), time.process_time) for each in asked]
    assert max(measured) > 2 * min(measured)
    assert spearmanr(predicted, measured).statistic >= 0.85, (predicted, measured)


def test_input_a_share_of_the_time_that_cannot_be_reached(tmp_path) -> None:
    source = write_source(tmp_path / "source", 4, samples_per_shard=4)
    reinforce(source, tmp_path / "store", teachers=(), num_views=1, progress=False)
    # Masks do not know the image tower, which takes nearly all of the time.
    sizes = {"depths": (1, 1, 2, 1), "dims": (32, 64, 64, 64)}
    text = TextSpec(width=32, layers=1, heads=2, context_length=8)
    spec = StudentSpec(
        image="convnext_tiny", text=text, embed_dim=8, image_size=128, image_options=sizes
    )
    student = build_student(spec, tokenizer=WORDS)
    masks = MaskConfig(keep=0.3, cost="latency", steps=2, warmup_steps=0, towers=("text",))
    run = RunConfig(schedule=ScheduleConfig(num_steps=4, warmup_steps=1), masks=masks)
    run = replace(run, out=str(tmp_path / "run"))
    wrong = r"masks.keep=0.3 cannot be reached: at the smallest sizes \d+.\d% of the ms stay"
    with pytest.raises(ValueError, match=wrong):
        shrink(student, open_dataset(tmp_path / "store"), run, show=False)
    assert not (tmp_path / "run" / "checkpoints").exists()
