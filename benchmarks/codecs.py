"""What each codec costs and loses: bytes, rates, and how far it moves the affinity targets.

    python benchmarks/codecs.py --teacher runs/demo/teacher-a --source runs/demo/glyphs/train

A teacher embeds a source's pictures (whole) and captions in float32; every codec stores and reads
those rows. The loss is KL(exact || read) of the row-softmaxes in batches of 256, at the teacher's
own scale and at 0.3 of it (what the demo trains with), beside the entropy of the exact targets.
"""

import argparse
import csv
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from ladder_table import provenance
from rich.console import Console
from rich.table import Table

from reinforced_data.codecs.codec import CODECS, Codec
from reinforced_data.codecs.product_quantization import NUM_BYTES, fit_codebook, product_codec
from reinforced_data.decoding import decode_image
from reinforced_data.embedding import ImageEmbedder, embed_texts
from reinforced_data.source import open_source
from students import load_student
from teachers import ClipModel

_BATCH = 256
_SCALES = (1.0, 0.3)


def embed(teacher: ClipModel, source: str, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Float32 unit rows of up to `most` pictures and of their first captions."""
    images, texts = ImageEmbedder(teacher, _BATCH), []
    for sample in open_source(source):
        images.add(teacher.preprocess.whole_view(decode_image(sample.image)))
        texts.append(sample.captions[0])
        if len(texts) == most:
            break
    return images.finish().unit, embed_texts(teacher, texts, _BATCH).unit


def codecs(images: np.ndarray, texts: np.ndarray) -> dict[str, tuple[Codec, Codec]]:
    """Every codec that the width allows, for images and for texts."""
    found = {name: (codec, codec) for name, codec in CODECS.items()}
    for name, size in NUM_BYTES.items():
        if images.shape[1] % size == 0:
            pair = [product_codec(fit_codebook(rows, size)) for rows in (images, texts)]
            found[name] = (pair[0], pair[1])
    return found


def divergence(exact: list[np.ndarray], read: list[np.ndarray], scale: float) -> tuple[float, ...]:
    """Mean KL of the targets, and their mean entropy, in nats."""
    losses, entropies = [], []
    for start in range(0, len(exact[0]) - _BATCH + 1, _BATCH):
        part = slice(start, start + _BATCH)
        logs = [
            torch.log_softmax(torch.from_numpy(scale * (x[part] @ y[part].T)).double(), dim=1)
            for x, y in (exact, read)
        ]
        losses.append(float((logs[0].exp() * (logs[0] - logs[1])).sum(1).mean()))
        entropies.append(float(-(logs[0].exp() * logs[0]).sum(1).mean()))
    return float(np.mean(losses)), float(np.mean(entropies))


def rate(work: Callable[..., object], rows: np.ndarray, *more: object) -> float:
    """Rows per CPU second, the best of three."""
    times = []
    for _ in range(3):
        started = time.process_time()
        work(rows, *more)
        times.append(time.process_time() - started)
    return len(rows) / max(min(times), 1e-9)


def main() -> None:
    """Embed once, try every codec, print, write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", default="runs/demo/teacher-a")
    parser.add_argument("--source", default="runs/demo/glyphs/train")
    parser.add_argument("--samples", type=int, default=16_384)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    teacher = load_student(asked.teacher)
    exact = list(embed(teacher, asked.source, asked.samples))
    own = float(teacher.logit_scale.detach().exp())
    rows = []
    for name, pair in codecs(*exact).items():
        values = [codec.encode(part) for codec, part in zip(pair, exact, strict=True)]
        dim = exact[0].shape[1]
        read = [codec.unit_rows(part, dim) for codec, part in zip(pair, values, strict=True)]
        row = {
            "codec": name,
            "bytes_per_row": values[0][0].nbytes,
            "one_minus_cosine": f"{1 - (read[0].astype(np.float64) * exact[0]).sum(1).mean():.1e}",
        }
        for part in _SCALES:
            loss, entropy = divergence(exact, read, part * own)
            row |= {f"kl_at_{part:g}": f"{loss:.1e}", f"entropy_at_{part:g}": f"{entropy:.3f}"}
        row["encode_rows_per_s"] = f"{rate(pair[0].encode, exact[0]):.0f}"
        decode = rate(pair[0].unit_rows, values[0], dim)
        rows.append({**row, "decode_rows_per_s": f"{decode:.0f}"})
    _write(asked.results / "codecs.csv", rows, f"{asked.teacher}, width {exact[0].shape[1]}")


def _write(path: Path, rows: list[dict], what: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = Table(*rows[0], title=what)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        for row in rows:
            writer.writerow(row)
            table.add_row(*map(str, row.values()))
        file.write(f"# {what}; {provenance()}\n")
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
