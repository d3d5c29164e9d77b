"""How much of a teacher's bare forward rate is left when `reinforce` feeds it.

    python benchmarks/teacher_throughput.py

Per round, taking turns in one process: the bare model, which gets the same number of views and of
different captions as tensors that lie ready, in batches of the same size and precision; then
`reinforce` on small PNGs, everything in it (reading the shard, decoding, drawing and rendering
views, tokenising, encoding, writing and syncing the columns). Weights are random, which costs the
same. A second kind of row repeats every caption ten times: it shows what embedding equal captions
once saves, against the same pictures with captions that all differ.

`cpu_ratio` is of process CPU time, which other jobs on the machine disturb least, and on a CPU the
stricter one, because decoding takes its time from the model there; `ratio` is of the wall clock.
On a GPU look at `ratio`. Each run adds its lines to `results/teacher-throughput.csv`.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import open_clip
import torch
from ladder_table import append_row, provenance

from reinforced_data import ViewPolicy, reinforce
from reinforced_data.testing import encoded, picture, sample, write_source
from teachers import Preprocess, Teacher, WordTokenizer, load_teacher

REPEATED = 10


def main() -> None:
    """Measure, print, append two lines to a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--samples", type=int, default=40)
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    teacher = random_teacher(asked.model, asked.precision, asked.device, asked.samples)
    for row in (efficiency(teacher, asked), repeated_captions(teacher, asked)):
        common = {
            "model": asked.model,
            "precision": asked.precision,
            "batch": asked.batch_size,
            "threads": asked.threads,
            "load": f"{os.getloadavg()[0]:.1f}",
        }
        append_row(
            asked.results / "teacher-throughput.csv", {**common, **row, "provenance": provenance()}
        )
        print(row)


def efficiency(teacher: Teacher, asked: argparse.Namespace) -> dict[str, object]:
    """Bare model against `reinforce`, in turns."""
    with tempfile.TemporaryDirectory() as folder:
        source = pictures(Path(folder) / "source", asked.samples, 1)
        views, texts = asked.samples * asked.views, asked.samples
        bare, whole = [], []
        for number in range(asked.rounds):
            bare.append(timed(lambda: forward(teacher, views, texts, asked.batch_size)))
            out = Path(folder) / f"store-{number}"
            whole.append(timed(lambda out=out: write(source, out, teacher, asked, asked.views)))
        cpu = [statistics.median(turn[0] for turn in turns) for turns in (bare, whole)]
        wall = [statistics.median(turn[1] for turn in turns) for turns in (bare, whole)]
    return {
        "what": "reinforce / bare model",
        "views": views,
        "texts": texts,
        "bare_s": f"{wall[0]:.2f}",
        "reinforce_s": f"{wall[1]:.2f}",
        "bare_cpu_s": f"{cpu[0]:.2f}",
        "reinforce_cpu_s": f"{cpu[1]:.2f}",
        "ratio": f"{wall[0] / wall[1]:.3f}",
        "cpu_ratio": f"{cpu[0] / cpu[1]:.3f}",
    }


def repeated_captions(teacher: Teacher, asked: argparse.Namespace) -> dict[str, object]:
    """Captions that all differ against each of them ten times, one view a picture."""
    with tempfile.TemporaryDirectory() as folder:
        found = []
        for repeated in (1, REPEATED):
            source = pictures(Path(folder) / f"source-{repeated}", asked.samples, repeated)
            out = Path(folder) / f"store-{repeated}"
            found.append(
                timed(lambda source=source, out=out: write(source, out, teacher, asked, 1))
            )
    (cpu, wall), (cpu_repeated, wall_repeated) = found
    return {
        "what": f"each caption {REPEATED} times / all different (bare_* is the latter)",
        "views": asked.samples,
        "texts": -(-asked.samples // REPEATED),
        "bare_s": f"{wall:.2f}",
        "reinforce_s": f"{wall_repeated:.2f}",
        "bare_cpu_s": f"{cpu:.2f}",
        "reinforce_cpu_s": f"{cpu_repeated:.2f}",
        "ratio": f"{wall / wall_repeated:.3f}",
        "cpu_ratio": f"{cpu / cpu_repeated:.3f}",
    }


def random_teacher(model: str, precision: str, device: str, words: int) -> Teacher:
    """An open_clip model with the weights it is born with, and a tokenizer of numbers."""
    torch.manual_seed(0)
    module = open_clip.create_model(model)
    size = module.visual.image_size
    return load_teacher(
        module,
        name="random",
        preprocess=Preprocess(image_size=size if isinstance(size, int) else size[0]),
        tokenizer=WordTokenizer(["picture", *map(str, range(words))], module.context_length),
        precision=precision,
        device=device,
    )


def pictures(folder: Path, samples: int, repeated: int) -> Path:
    """One shard of 64 x 48 PNGs; each caption comes `repeated` times."""
    data = encoded(picture(0, 64, 48))
    content = [sample(i, png=data, txt=f"picture {i // repeated}") for i in range(samples)]
    write_source(folder, content, samples_per_shard=samples)
    return folder


@torch.no_grad()
def forward(teacher: Teacher, views: int, texts: int, batch_size: int) -> None:
    """The towers alone."""
    size, dtype = teacher.preprocess.image_size, torch.float32
    if teacher.precision == "bf16":
        dtype = torch.bfloat16
    pixels = torch.zeros(batch_size, 3, size, size, device=teacher.device, dtype=dtype)
    tokens = teacher.tokenizer(["picture 1"] * batch_size).to(teacher.device)
    for encode, batch, count in (
        (teacher.module.encode_image, pixels, views),
        (teacher.module.encode_text, tokens, texts),
    ):
        for start in range(0, count, batch_size):
            rows = encode(batch[: min(batch_size, count - start)])
    rows.cpu()  # a GPU has not finished before


def write(source: Path, out: Path, teacher: Teacher, asked: argparse.Namespace, views: int) -> None:
    """Stage 1, whole."""
    report = reinforce(
        source,
        out,
        teachers=teacher,
        num_views=views,
        policy=ViewPolicy(),
        batch_size=asked.batch_size,
        progress=False,
    )
    assert report.samples == asked.samples and not report.skipped


def timed(function: Callable[[], None]) -> tuple[float, float]:
    """Run it; return CPU and wall seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    function()
    return time.process_time() - cpu, time.perf_counter() - wall


if __name__ == "__main__":
    main()
