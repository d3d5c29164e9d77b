"""What fewer tokens save of an image tower's training step.

    python benchmarks/token_dropping.py

One ViT, forward and backward of a batch, every policy in turn in one process, so that what else the
machine does meets all alike. The share is of the medians of process CPU time (on a GPU: of the time
between two waits for it); the share of the multiplications, counted, stands beside it. Each run
appends its rows to `results/token-dropping.csv`.
"""

import argparse
import copy
import csv
import statistics
import time
from pathlib import Path

import torch
from ladder_table import provenance
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from students import StudentSpec, TextSpec, build_student
from students.tokens.choosing import sample_seeds
from students.tokens.policy import TokenPolicy
from students.tokens.reduction import TokenReduction
from teachers.patch_attention import PatchAttention, attention_tower

POLICIES = {
    "all": TokenPolicy(),
    "random": TokenPolicy(image="random", image_keep=0.5),
    "grid": TokenPolicy(image="grid", image_keep=0.5),
    "block": TokenPolicy(image="block", image_keep=0.5),
    "attentive, stored": TokenPolicy(image="attentive", image_keep=0.5),
    "attentive, ema": TokenPolicy(image="attentive", image_keep=0.5, image_scores="ema"),
    "merge": TokenPolicy(image="merge", image_keep=0.5),
    "resize": TokenPolicy(image="resize", image_keep=0.5),
    "random, quarter": TokenPolicy(image="random", image_keep=0.25),
}


_GRID = 14  # a teacher's map has this many rows and columns


class Contender:
    """One image tower, a copy that scores patches, and a batch of pictures."""

    def __init__(self, image: str, batch_size: int, device: str) -> None:
        """Build both with random weights."""
        text = TextSpec(width=32, layers=1, heads=2)
        spec = StudentSpec(image=image, text=text, embed_dim=256, image_size=224)
        self.student = build_student(spec).to(device).train()
        self.scorer = copy.deepcopy(self.student).eval()
        self.watched = PatchAttention(attention_tower(self.scorer.module, image))
        self.reduction = TokenReduction(self.student, list(POLICIES.values()))
        self.images = torch.randn(batch_size, 3, 224, 224, device=device)
        self.stored = torch.rand(batch_size, _GRID, _GRID, device=device)
        self.keys = [str(number) for number in range(batch_size)]

    def step(self, policy: TokenPolicy, number: int) -> None:
        """Choose the patches, forward and backward."""
        seeds = sample_seeds(0, number, self.keys).to(self.images.device)
        scores = self.stored
        if policy.image == "attentive" and policy.image_scores == "ema":
            with torch.no_grad():
                self.scorer.module.encode_image(self.images)
            scores = self.watched.take()
        kept = self.reduction.choose(policy, seeds, scores)
        with self.reduction.active(policy), self.reduction.rows(kept):
            rows = self.student.encode_image(self.reduction.sized(self.images, policy))
            (rows[:, 0] * seeds.double().cos().float()).mean().backward()
        self.student.zero_grad()

    def timed(self, policy: TokenPolicy, number: int) -> float:
        """Seconds of one step: of this process's CPU, or of a GPU."""
        if self.images.is_cuda:
            torch.cuda.synchronize()
            began = time.perf_counter()
            self.step(policy, number)
            torch.cuda.synchronize()
            return time.perf_counter() - began
        began = time.process_time()
        self.step(policy, number)
        return time.process_time() - began

    def flops(self, policy: TokenPolicy) -> int:
        """Multiplications and additions of a step, counted; attention spelled out."""
        counter = FlopCounterMode(display=False)
        with counter, sdpa_kernel(SDPBackend.MATH):
            self.step(policy, 0)
        return counter.get_total_flops()


def main() -> None:
    """Take turns, print, append rows to a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image", default="vit_tiny_patch16_224", help="a timm ViT")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    contender = Contender(asked.image, asked.batch_size, asked.device)
    times: dict[str, list[float]] = {name: [] for name in POLICIES}
    for number in range(asked.steps + 1):
        for name, policy in POLICIES.items():
            times[name].append(contender.timed(policy, number))
    medians = {name: statistics.median(values[1:]) for name, values in times.items()}
    flops = {name: contender.flops(policy) for name, policy in POLICIES.items()}
    rows = [
        {
            "image": asked.image,
            "batch": asked.batch_size,
            "policy": name,
            "keep": POLICIES[name].image_keep,
            "tokens": f"{contender.reduction.image_tokens(POLICIES[name]):.1f}",
            "step_ms": f"{1e3 * medians[name]:.1f}",
            "share_of_time": f"{medians[name] / medians['all']:.3f}",
            "share_of_flops": f"{flops[name] / flops['all']:.3f}",
            "steps": asked.steps,
            "device": asked.device,
            "provenance": provenance(),
        }
        for name in POLICIES
    ]
    _append(asked.results / "token-dropping.csv", rows)
    for row in rows:
        print(row)


def _append(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        if new:
            writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
