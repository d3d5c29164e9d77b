"""Files that `pack` is pointed at: giant ones, endless ones, ones that are not there."""

import json
import os

from reinforced_data import open_source, pack
from reinforced_data.sample_texts import MAX_TEXT_BYTES
from reinforced_data.shard_reader import MAX_IMAGE_BYTES
from reinforced_data.testing import encoded, picture


def test_endless_and_giant_files_are_counted_and_not_read(tmp_path):
    (tmp_path / "good.png").write_bytes(encoded(picture(0)))
    os.mkfifo(tmp_path / "pipe.png")
    with open(tmp_path / "giant.png", "wb") as file:
        file.truncate(MAX_IMAGE_BYTES + 1)
    paths = ["good.png", "/dev/zero", "pipe.png", "giant.png", "nowhere.png", ".", "good.png/x"]
    rows = [{"path": path, "caption": "a cat"} for path in paths]
    (tmp_path / "table.jsonl").write_text("\n".join(map(json.dumps, rows)))
    report = pack(tmp_path / "table.jsonl", tmp_path / "out")
    assert report.skipped == {"unreadable file": 4, "missing file": 2}
    assert report.samples == len(list(open_source(tmp_path / "out"))) == 1


def test_a_giant_caption_file_is_counted_and_not_read(tmp_path):
    for name in ("good", "giant"):
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / f"{name}.png").write_bytes(encoded(picture(0)))
        (tmp_path / "in" / f"{name}.txt").write_text("a cat")
    os.truncate(tmp_path / "in" / "giant.txt", MAX_TEXT_BYTES + 1)
    report = pack(tmp_path / "in", tmp_path / "out")
    assert (report.samples, report.skipped) == (1, {"unreadable caption file": 1})
