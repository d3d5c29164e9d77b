"""Tiny sources and teachers for tests: real shards, real modules, milliseconds."""

import contextlib
import dataclasses
import hashlib
import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from reinforced_data.pictures import Picture
from reinforced_data.shard_writer import ShardSample, write_shards
from reinforced_data.store.arrow_rows import to_ipc
from reinforced_data.store.commits import commit_path
from reinforced_data.store.layout import open_store
from teachers import Preprocess, Teacher, WordTokenizer, load_teacher

WORDS = ("red", "green", "blue", "dark", "light", "picture", "of", "a", "number")
TOKENIZER = WordTokenizer([*WORDS, *map(str, range(10))], 8)


def picture(seed: int, width: int = 24, height: int = 16) -> Image.Image:
    """Make a smooth picture of its own colours."""
    noise = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def photograph(seed: int, width: int, height: int) -> Image.Image:
    """Make what a camera might: noise at every frequency, mostly grey, and shapes with edges."""
    generator = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for octave in range(2, 11):
        cells = (min(2**octave, height), min(2**octave, width))
        grey, colours = generator.normal(size=(*cells, 1)), generator.normal(size=(*cells, 3))
        layer = (0.8 * grey + 0.2 * colours).astype(np.float32)
        planes = [Image.fromarray(plane) for plane in np.moveaxis(layer, 2, 0)]
        large = [plane.resize((width, height), Image.Resampling.BICUBIC) for plane in planes]
        total += np.stack([np.asarray(plane) for plane in large], -1) * 2.0 ** (-0.8 * octave)
    image = Image.fromarray((128 + 45 * total / total.std()).clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for number in range(12):
        x, y, side = (int(generator.integers(1, bound)) for bound in (width, height, width // 5))
        colour = tuple(int(value) for value in generator.integers(0, 256, 3))
        shape = draw.ellipse if number % 2 else draw.rectangle
        shape((x, y, x + side, y + side), fill=colour)
    return image


def encoded(image: Image.Image, extension: str = "png") -> bytes:
    """Encode without loss where the format can."""
    buffer = io.BytesIO()
    names = {"jpg": "JPEG", "jpeg": "JPEG", "png": "PNG", "webp": "WEBP"}
    image.save(buffer, names[extension])
    return buffer.getvalue()


def as_picture(image: Image.Image) -> Picture:
    """Hand an image to `render_view`, through a PNG."""
    return Picture(encoded(image))


def sample(number: int, **members: bytes | str) -> ShardSample:
    """Make sample `number`: a picture and a caption; `members` replace and add."""
    caption = f"a {WORDS[number % 5]} picture of number {number}"
    content: Mapping[str, bytes | str] = {"png": encoded(picture(number)), "txt": caption}
    return {"__key__": f"{number:04d}", **content, **members}


def write_source(
    folder: Path, samples: int | Sequence[ShardSample] = 12, *, samples_per_shard: int = 5
) -> list[str]:
    """Write shards and return their paths."""
    if isinstance(samples, int):
        samples = [sample(number) for number in range(samples)]
    shards = write_shards(folder, samples, samples_per_shard=samples_per_shard)
    return [str(shard) for shard in shards]


class TinyEncoder(nn.Module):
    """Pooled pixels and bags of words, each through one matrix."""

    def __init__(self, embed_dim: int = 16, *, seed: int = 0, sigmoid: bool = False) -> None:
        """Draw the weights."""
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.image = nn.Parameter(torch.randn(48, embed_dim, generator=generator))
        self.text = nn.Parameter(torch.randn(TOKENIZER.vocab_size, embed_dim, generator=generator))
        self.logit_scale = nn.Parameter(torch.tensor(3.0))
        if sigmoid:
            self.logit_bias = nn.Parameter(torch.tensor(-10.0))

    def encode_image(self, images: Tensor, /) -> Tensor:
        """Pool to 4 x 4 and project."""
        return nn.functional.adaptive_avg_pool2d(images, 4).flatten(1) @ self.image

    def encode_text(self, tokens: Tensor, /) -> Tensor:
        """Add up the words' rows; padding counts as nothing."""
        return (self.text[tokens] * (tokens > 0).unsqueeze(-1)).sum(1)


def tiny_teacher(
    name: str = "tiny",
    *,
    embed_dim: int = 16,
    image_size: int = 16,
    seed: int = 0,
    module: nn.Module | None = None,
) -> Teacher:
    """Make a teacher of a `TinyEncoder`, or of `module`."""
    return load_teacher(
        module or TinyEncoder(embed_dim, seed=seed),
        name=name,
        preprocess=Preprocess(image_size=image_size, interpolation="bilinear"),
        tokenizer=TOKENIZER,
    )


def rewrite_unit(
    folder: Path, column: str, change: Callable[[pa.RecordBatch], pa.RecordBatch], shard: int = 1
) -> Path:
    """Change a unit's rows and mend its record, a fault that no checksum sees; return the file.

    Args:
        folder: the store.
        column: how the column's name begins.
        change: gives the new rows; the digest of the keys is kept.
        shard: which shard.
    """
    store = open_store(folder)
    (found,) = [c for c in store.columns() if c.name.startswith(f"{column}-")]
    commit = store.commit(found, shard)
    assert commit is not None
    batch = store.rows(found, shard)
    data = to_ipc(change(batch).replace_schema_metadata(batch.schema.metadata))
    store.storage.write(commit.data, data)
    digest = hashlib.sha256(data).hexdigest()
    mended = dataclasses.replace(commit, sha256=digest, num_bytes=len(data))
    store.storage.write(commit_path(found.name, shard), mended.to_json())
    return Path(folder) / commit.data


def contents(store: Path) -> dict[str, tuple[object, ...]]:
    """List what equal stores share: unit -> sha256, rows and skipped samples with reasons."""
    found = [json.loads(path.read_text()) for path in (store / "commits").rglob("*.json")]
    return {
        f"{c['column']}/{c['shard']}": (c["sha256"], c["rows"], json.dumps(c["skipped"]))
        for c in found
    }


def pids_at(store: Path) -> dict[int, set[int]]:
    """List who is at a shard, or died at it: shard -> process numbers."""
    found: dict[int, set[int]] = {}
    for path in (store / "attempts").glob("*.json"):
        with contextlib.suppress(FileNotFoundError, ValueError):  # just removed, or half written
            record = json.loads(path.read_text())
            found.setdefault(record["shard"], set()).add(record["pid"])
    return found


def wait_until(condition: Callable[[], object], seconds: float = 900) -> None:
    """Look every ten milliseconds whether something has happened.

    Raises:
        TimeoutError: it has not.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"nothing happened in {seconds:.0f} s")
        time.sleep(0.01)
