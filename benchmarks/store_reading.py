"""What it costs to read a store of a million rows: opening it, memory, and a batch.

    python benchmarks/store_reading.py

Makes a store of synthetic rows with the real column writers (one teacher, 768 numbers in float16,
two views, 100 shards of 10,000 rows: 4.5 GB) in a temporary folder, reads its files once so that
they are in memory, and then, in one thread of one process: opens it, and reads batches of 1024 in
training order through two windows of shards. A batch here is what the columns hold of it: keys,
captions, the numbers of one view and the decoded unit rows of one teacher's image and text per
sample. Decoding pictures and tokenising, which every training has to do, are not in it. The first
batch of all has to open a whole window and stands by itself; `cpu_ms_worst` is of all the others,
those that begin the next window among them.

Times are process CPU time, which other jobs on the machine disturb least. The wall clock stands
beside it (of opening, and the batches' median), and the load, without which it says nothing. Memory
is what the process holds of its own (RssAnon); pages of mapped files (RssFile) are the system's
cache. Each run appends one line to `results/store-reading.csv`.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from ladder_table import append_row, provenance

from reinforced_data import open_dataset
from reinforced_data.reading.batches import BatchDataset
from reinforced_data.testing import TOKENIZER
from reinforced_data.testing_stores import synthetic_store
from teachers import Preprocess

BATCH, WINDOW = 1024, 16


def main() -> None:
    """Make the store, or take one that is there; measure, print, append one line to a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=int, default=100)
    parser.add_argument("--shard-rows", type=int, default=10_000)
    parser.add_argument("--store", type=Path, help="one that `synthetic_store` has written")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.store is not None:
        row = measure(asked.store)
    else:
        with tempfile.TemporaryDirectory() as folder:
            shards = {"num_shards": asked.shards, "shard_rows": asked.shard_rows}
            row = measure(synthetic_store(Path(folder) / "made", embed_dim=768, **shards))
    append_row(asked.results / "store-reading.csv", row)
    print(row)


def measure(store: Path) -> dict[str, object]:
    """Open and read; return one line of the table."""
    size = warm(store)
    before, started, cpu_started = memory(), time.perf_counter(), time.process_time()
    dataset = open_dataset(store)
    loader = dataset.loader(
        preprocess=Preprocess(image_size=224),
        tokenizer=TOKENIZER,
        batch_size=BATCH,
        num_steps=1 << 30,
        window_shards=WINDOW,
    )
    opened, opened_cpu = time.perf_counter() - started, time.process_time() - cpu_started
    grown_open = memory()[0] - before[0]
    batches = loader.dataset
    assert isinstance(batches, BatchDataset)
    rows = [dataset.store.commit(dataset.columns[0], shard) for shard in range(WINDOW)]
    steps = 2 * sum(commit.rows for commit in rows if commit) // BATCH
    cpu, wall = zip(*(timed(batches, step) for step in range(steps)), strict=True)
    after = memory()
    return {
        "rows": dataset.num_samples,
        "store_mb": f"{size / 1e6:.0f}",
        "open_s": f"{opened:.3f}",
        "open_cpu_s": f"{opened_cpu:.3f}",
        "open_mb": f"{grown_open:.0f}",
        "batch": BATCH,
        "batches": steps,
        "cpu_ms_median": f"{statistics.median(cpu):.2f}",
        "cpu_ms_mean": f"{statistics.mean(cpu):.2f}",
        "cpu_ms_p95": f"{np.percentile(cpu, 95):.2f}",
        "cpu_ms_first": f"{cpu[0]:.2f}",
        "cpu_ms_worst": f"{max(cpu[1:]):.2f}",
        "wall_ms_median": f"{statistics.median(wall):.2f}",
        "read_own_mb": f"{after[0] - before[0]:.0f}",
        "read_mapped_mb": f"{after[1] - before[1]:.0f}",
        "load": f"{os.getloadavg()[0]:.1f}",
        "cpu": cpu_name(),
        "provenance": provenance(),
    }


def warm(store: Path) -> int:
    """Read every file once; return how many bytes they have."""
    size = 0
    for path in sorted(store.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                while block := file.read(1 << 24):
                    size += len(block)
    return size


def timed(batches: BatchDataset, step: int) -> tuple[float, float]:
    """Read one batch; return CPU and wall milliseconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    batches.embeddings(batches.rows(step))
    return 1e3 * (time.process_time() - cpu), 1e3 * (time.perf_counter() - wall)


def memory() -> tuple[float, float]:
    """This process's own and mapped memory in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    own, mapped = (int(fields[name].split()[0]) / 1e3 for name in ("RssAnon", "RssFile"))
    return own, mapped


def cpu_name() -> str:
    """What the processor calls itself."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else 'unknown'}, 1 core"


if __name__ == "__main__":
    main()
