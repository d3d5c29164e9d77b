"""Glyphs: a small image-text world that needs no download, for the demo, tests and ladder.

The pictures are the named Unicode characters that matplotlib's own DejaVu and STIX faces draw, the
captions are their names. LastResort (its boxes stand for everything) and the TeX faces (their
tables are not Unicode) are left out, and so are blank glyphs and characters without a name.
Pictures are the same for one FreeType version, not for every one.
"""

import hashlib
import io
import json
import random
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageFont

from reinforced_data.shard_writer import ShardSample, published_folder, write_shards

# Hard enough for a small teacher to leave room, and not out of reach: at 400 steps a 0.1 M tower
# gets 15 % of the pairs right here and 33 % with DejaVuSerif, which is too like its own italic.
HELD_OUT_FACE = "STIXGeneral"
SPLITS = ("train", "validation", "unseen_pairs", "unseen_characters")
_SAMPLES_PER_SHARD = 6000
_REPORT = "glyphs.json"


@dataclass(frozen=True, kw_only=True)
class Glyph:
    """One character in one face.

    Attributes:
        face: the font file's stem, such as `DejaVuSans-Bold`.
        codepoint: the character.
        caption: its Unicode name in lower case.
        pixels: `size_px` x `size_px` grey values, row by row, black on white.
    """

    face: str
    codepoint: int
    caption: str
    pixels: bytes


def pack_glyphs(
    out: str | Path, *, size_px: int = 32, held_out_face: str = HELD_OUT_FACE, seed: int = 0
) -> dict[str, Path]:
    """Render the world and pack it as WebDataset shards, one folder per split.

    `unseen_pairs` is the held-out face with names that training knows from other faces;
    `unseen_characters` is that face with a tenth of the names, never trained on in any face;
    `validation` is a twentieth of the remaining pairs, for choosing learning rates. A picture that
    is byte for byte in `train` is in no other split. `glyphs.json` has the counts.

    Args:
        out: where to write; a folder finished by an equal call is returned as it is.
        size_px: the side of the square pictures.
        held_out_face: the stem of a font file; see `faces()`.
        seed: the order of the samples in the shards; which sample is in which split is fixed.

    Returns:
        Split name -> folder.

    Raises:
        ValueError: an unknown face, a size too small, or `out` holds something else.
    """
    out = Path(out)
    if size_px < 12:
        raise ValueError(f"size_px must be at least 12 for glyphs to be legible, got {size_px}")
    if held_out_face not in faces():
        raise ValueError(f"no face named {held_out_face!r} to hold out; faces: {sorted(faces())}")
    settings = {"size_px": size_px, "held_out_face": held_out_face, "seed": seed}
    if not _is_finished(out, settings):
        try:
            with published_folder(out) as folder:
                _write_splits(folder, settings)
        except FileExistsError:
            if not _is_finished(out, settings):  # another process may have been faster
                raise
    return {split: out / split for split in SPLITS}


def faces() -> dict[str, Path]:
    """List the faces the world is drawn with: name -> font file."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    files = [*folder.glob("DejaVu*.ttf"), *folder.glob("STIX*.ttf")]
    return {file.stem: file for file in sorted(files)}


def render_face(face: str, *, size_px: int = 32) -> Iterator[Glyph]:
    """Draw every named character of a face that leaves ink.

    The ink is centred across; up and down it stays where the face puts it, because that is what
    tells a comma from an apostrophe. Ink that does not fit is shrunk.
    """
    file = str(faces()[face])
    # The basic layout does not depend on libraqm being there.
    font = ImageFont.truetype(file, round(size_px * 0.7), layout_engine=ImageFont.Layout.BASIC)
    missing, _ = _ink(font, "\U0010ffff")
    for codepoint in sorted(FT2Font(file).get_charmap()):
        caption = unicodedata.name(chr(codepoint), "").lower()
        if not caption:
            continue
        ink, top = _fitting_ink(font, chr(codepoint), size_px - 2)
        if not ink.any() or np.array_equal(ink, missing):
            continue
        height, width = ink.shape
        left = (size_px - width) // 2
        top = min(max(1, round(size_px * 0.72) + top), size_px - 1 - height)
        picture = np.full((size_px, size_px), 255, np.uint8)
        picture[top : top + height, left : left + width] -= ink
        yield Glyph(face=face, codepoint=codepoint, caption=caption, pixels=picture.tobytes())


def _ink(font: ImageFont.FreeTypeFont, character: str) -> tuple[np.ndarray, int]:
    """Return the coverage of the ink's bounding box, and its top relative to the baseline."""
    mask: Any
    mask, (_, top) = font.getmask2(character, mode="L", anchor="ls")
    width, height = mask.size
    return np.frombuffer(bytes(mask), np.uint8).reshape(height, width), round(top)


def _fitting_ink(
    font: ImageFont.FreeTypeFont, character: str, limit: int
) -> tuple[np.ndarray, int]:
    """Draw at the font's size, or at the largest size whose ink is within `limit` pixels."""
    ink, top = _ink(font, character)
    size = float(font.size)
    while max(ink.shape) > limit:
        size = min(size - 0.5, size * limit / max(ink.shape))
        ink, top = _ink(font.font_variant(size=size), character)
    return ink, top


def _split_of(glyph: Glyph, held_out_face: str) -> str | None:
    """Name the split of a picture, or None for an unseen character in a face of training."""
    unseen = _fraction("name", glyph.caption) < 0.10
    if glyph.face == held_out_face:
        return "unseen_characters" if unseen else "unseen_pairs"
    if unseen:
        return None
    validation = _fraction("pair", glyph.face, glyph.caption) < 0.05
    return "validation" if validation else "train"


def _fraction(*parts: str) -> float:
    """Hash `parts` to [0, 1), the same on every machine."""
    digest = hashlib.sha256("\n".join(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _split_glyphs(
    world: list[Glyph], held_out_face: str
) -> tuple[dict[str, list[Glyph]], Counter[str]]:
    """Deal the pictures out; also count what was dropped, and why."""
    splits: dict[str, list[Glyph]] = {split: [] for split in SPLITS}
    dropped: Counter[str] = Counter()
    for glyph in world:
        split = _split_of(glyph, held_out_face)
        if split is None:
            dropped["unseen character in a face of training"] += 1
        else:
            splits[split].append(glyph)
    train_pixels = {glyph.pixels for glyph in splits["train"]}
    train_names = {glyph.caption for glyph in splits["train"]}
    for split in SPLITS[1:]:
        fresh = [glyph for glyph in splits[split] if glyph.pixels not in train_pixels]
        dropped[f"{split}: same picture in train"] += len(splits[split]) - len(fresh)
        known = [g for g in fresh if split == "unseen_characters" or g.caption in train_names]
        dropped[f"{split}: name not in train"] += len(fresh) - len(known)
        splits[split] = known
    return splits, dropped


def _write_splits(folder: Path, settings: dict[str, Any]) -> None:
    """Write the shards, then the report that marks the folder as finished."""
    size_px = settings["size_px"]
    world = [glyph for face in faces() for glyph in render_face(face, size_px=size_px)]
    splits, dropped = _split_glyphs(world, settings["held_out_face"])
    counts = {"world": _counts(world)}
    for split, glyphs in splits.items():
        random.Random(f"{settings['seed']} {split}").shuffle(glyphs)
        samples = (_sample(glyph, size_px) for glyph in glyphs)
        write_shards(folder / split, samples, samples_per_shard=_SAMPLES_PER_SHARD)
        counts[split] = _counts(glyphs)
    report = {"settings": settings, "counts": counts, "dropped": dropped, "faces": list(faces())}
    (folder / _REPORT).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _counts(glyphs: list[Glyph]) -> dict[str, int]:
    return {
        "pictures": len(glyphs),
        "names": len({glyph.caption for glyph in glyphs}),
        "distinct_pictures": len({glyph.pixels for glyph in glyphs}),
    }


def _sample(glyph: Glyph, size_px: int) -> ShardSample:
    """Encode one picture as a WebDataset sample."""
    png = io.BytesIO()
    Image.frombytes("L", (size_px, size_px), glyph.pixels).save(png, "PNG")
    return {
        "__key__": f"{glyph.face}-{glyph.codepoint:05x}",
        "png": png.getvalue(),
        "txt": glyph.caption,
        "cls": glyph.caption,
    }


def _is_finished(out: Path, settings: dict[str, Any]) -> bool:
    """Tell whether `out` came from an equal call; raise if it is something else."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    report = out / _REPORT
    found = json.loads(report.read_text(encoding="utf-8")) if report.is_file() else {}
    if found.get("settings") != settings:
        raise ValueError(
            f"{out} is not empty and holds no glyphs made with {settings} (found: "
            f"{found.get('settings', 'other files')}); choose another folder or remove this one"
        )
    return True
