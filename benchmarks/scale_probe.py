"""What docs/scale.md's plan is measured on: pictures with captions, and two teachers 768 wide.

    python benchmarks/scale_probe.py FOLDER
    distill plan FOLDER/source --teachers FOLDER/one FOLDER/two --json > plan.json

512 pictures of 512 x 384 pixels as JPEGs, each with one caption of twelve words, in two shards. The
teachers are small and have random weights: bytes do not depend on it, their rates say nothing of
a ViT-L and are not used there.
"""

import argparse
import sys
from pathlib import Path

import torch

from reinforced_data.shard_writer import write_shards
from reinforced_data.testing import TOKENIZER, WORDS, encoded, photograph
from students import StudentSpec, TextSpec, build_student

SAMPLES, SHARDS = 512, 2


def main() -> None:
    """Write source and teachers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args(sys.argv[1:]).folder
    samples = (
        {
            "__key__": f"{number:06d}",
            "jpg": encoded(photograph(number, 512, 384), "jpg"),
            "txt": " ".join([*(WORDS[(number + i) % len(WORDS)] for i in range(11)), str(number)]),
        }
        for number in range(SAMPLES)
    )
    write_shards(folder / "source", samples, samples_per_shard=SAMPLES // SHARDS)
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        text = TextSpec(width=16, layers=1, heads=2, context_length=8)
        spec = StudentSpec(image="smallconv-4", text=text, embed_dim=768, image_size=224)
        build_student(spec, tokenizer=TOKENIZER, name=name).save(folder / name)


if __name__ == "__main__":
    main()
