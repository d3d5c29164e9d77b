"""Images per second and core: our views against open_clip's transform and torchvision's v2.

    python benchmarks/views.py

Every contender starts from the bytes of a JPEG (quality 90, 4:2:0, made here: noise of all
frequencies and shapes), decodes it, draws or reads a random crop of one policy and resizes it,
antialiased bicubic, in one thread. "view" is ours in training: one stored view of a picture.
"10 views" is ours at stage 1, per view: one picture, ten views. open_clip's training transform
decodes and resizes with Pillow and normalises to float; torchvision's is `decode_jpeg`, then
`RandomResizedCrop` on uint8 pixels; both make one crop per decode. Contenders take turns on the
same pictures, so that a busy machine hits all; figures are medians over rounds of process CPU
time, the wall clock's beside them. Writes `results/views.csv`, all rows, won or lost.
"""

import argparse
import csv
import io
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from ladder_table import provenance
from open_clip.transform import image_transform
from PIL import Image
from rich.console import Console
from rich.table import Table
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import InterpolationMode, v2

from reinforced_data.pictures import Picture
from reinforced_data.store.columns import library_versions
from reinforced_data.testing import photograph
from reinforced_data.view_policy import ViewPolicy
from reinforced_data.views import render_view, sample_view
from teachers import Preprocess

_VIEWS = 10
_PEERS = ("open_clip", "torchvision v2")
Contender = Callable[[bytes, int], int]
"""(JPEG, round) -> how many images it made."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One block of the table.

    Attributes:
        side: of the square JPEGs, in pixels.
        size: of the output.
        crop: least and greatest part of the area: 0.08 is DataCompDR's and our default, 0.9
            open_clip's.
        operations: whether two RandAugment operations follow; open_clip's transform has none.
    """

    side: int
    size: int
    crop: tuple[float, float]
    operations: bool = False


SETTINGS = [
    *(
        Setting(side=side, size=size, crop=crop)
        for side in (256, 512)
        for size in (224, 256)
        for crop in ((0.08, 1.0), (0.9, 1.0))
    ),
    Setting(side=512, size=224, crop=(0.08, 1.0), operations=True),
]


def contenders(setting: Setting) -> dict[str, Contender]:
    """Build all contenders of a setting."""
    look = Preprocess(image_size=setting.size)
    policy = ViewPolicy(scale=setting.crop, num_ops=2 if setting.operations else 0)
    stored = [sample_view(policy, 1, "stored", index) for index in range(256)]

    def view(data: bytes, turn: int) -> int:
        render_view(Picture(data, known_good=True), stored[turn % len(stored)], look)
        return 1

    def ten_views(data: bytes, turn: int) -> int:
        picture = Picture(data)
        for index in range(_VIEWS):
            render_view(picture, sample_view(policy, turn, "drawn", index), look)
        return _VIEWS

    crop = v2.RandomResizedCrop(
        setting.size, setting.crop, interpolation=InterpolationMode.BICUBIC, antialias=True
    )
    transform = v2.Compose([crop, v2.RandAugment(2, 9)]) if setting.operations else crop

    def torchvision(data: bytes, turn: int) -> int:
        encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        transform(decode_jpeg(encoded, mode=ImageReadMode.RGB))
        return 1

    found = {"ours, view": view, f"ours, {_VIEWS} views": ten_views, "torchvision v2": torchvision}
    if not setting.operations:
        size = (setting.size, setting.size)
        theirs = image_transform(size, is_train=True, aug_cfg={"scale": setting.crop})

        def open_clip(data: bytes, turn: int) -> int:
            theirs(Image.open(io.BytesIO(data)))
            return 1

        found["open_clip"] = open_clip
    return found


def measure(setting: Setting, pictures: list[bytes], rounds: int) -> dict[str, tuple[float, float]]:
    """Take turns; contender -> CPU and wall seconds per image, medians over rounds."""
    running = contenders(setting)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in running}
    for turn in range(-1, rounds):
        for name, contender in running.items():
            cpu, wall, made = time.process_time(), time.perf_counter(), 0
            for number, data in enumerate(pictures):
                made += contender(data, turn * len(pictures) + number)
            took = (time.process_time() - cpu) / made, (time.perf_counter() - wall) / made
            if turn >= 0:
                times[name].append(took)
    return {
        name: (statistics.median(t[0] for t in taken), statistics.median(t[1] for t in taken))
        for name, taken in times.items()
    }


def rows(setting: Setting, pictures: list[bytes], rounds: int) -> list[dict[str, object]]:
    """Measure one setting: a row per contender, with its ratio to the better peer."""
    taken = measure(setting, pictures, rounds)
    peer = min(taken[name][0] for name in _PEERS if name in taken)
    versions = library_versions()
    return [
        {
            "jpeg_pixels": setting.side,
            "jpeg_bytes": round(sum(map(len, pictures)) / len(pictures)),
            "output": setting.size,
            "crop_area": f"{setting.crop[0]:g} to {setting.crop[1]:g}",
            "randaugment": 2 if setting.operations else 0,
            "contender": name,
            "images_per_cpu_second": round(1 / cpu),
            "images_per_wall_second": round(1 / wall),
            "times_the_better_peer": f"{peer / cpu:.2f}",
            "rounds": rounds,
            "libraries": " ".join(
                f"{name} {versions[name]}"
                for name in ("torch", "torchvision", "Pillow", "simplejpeg", "open_clip_torch")
            ),
            "provenance": provenance(),
        }
        for name, (cpu, wall) in taken.items()
    ]


def main() -> None:
    """Measure all settings, print, write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--pictures", type=int, default=12)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", UserWarning)
    found = []
    for setting in SETTINGS:
        pictures = [jpeg(number, setting.side) for number in range(asked.pictures)]
        found += rows(setting, pictures, asked.rounds)
    _print(found)
    with (asked.results / "views.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, found[0])
        writer.writeheader()
        writer.writerows(found)


def jpeg(seed: int, side: int) -> bytes:
    """A square JPEG of noise and shapes, side pixels wide."""
    buffer = io.BytesIO()
    photograph(seed, side, side).save(buffer, "JPEG", quality=90, subsampling=2)
    return buffer.getvalue()


def _print(found: list[dict[str, object]]) -> None:
    table = Table(title="images per second and core, bicubic, from JPEG bytes")
    shown = [name for name in found[0] if name not in ("rounds", "libraries", "provenance")]
    for name in shown:
        table.add_column(name.replace("_", " "))
    for row in found:
        table.add_row(*(str(row[name]) for name in shown))
    Console().print(table)


if __name__ == "__main__":
    main()
