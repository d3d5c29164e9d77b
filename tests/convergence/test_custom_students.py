"""docs/custom-students.md's example, as it stands there, line for line."""

import re
from pathlib import Path

import torch
from PIL import Image

from reinforced_data import reinforce
from reinforced_data.testing import encoded, sample, tiny_teacher, write_source

PAGE = Path(__file__).parents[2] / "docs" / "custom-students.md"
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220)}


def pictures(first, last):
    """Shades of each of three colours."""
    for number in range(first, last):
        word = list(COLOURS)[number % 3]
        shade = tuple(min(255, channel + number // 12) for channel in COLOURS[word])
        picture = encoded(Image.new("RGB", (32, 32), shade))
        yield sample(number, png=picture, txt=f"a {word} picture", cls=word)


def test_the_example_trains_evaluates_and_exports(tmp_path, monkeypatch, capsys):
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    source = write_source(tmp_path / "source", list(pictures(0, 264)), samples_per_shard=88)
    write_source(tmp_path / "held-out", list(pictures(300, 324)), samples_per_shard=24)
    reinforce(source, "cc3m-dr", teachers=[tiny_teacher()], num_views=2, progress=False)
    names: dict = {}
    exec(compile(block, str(PAGE), "exec"), names)
    assert "'top1'" in capsys.readouterr().out
    assert names["result"].steps == 20
    assert (tmp_path / "out" / "onnx" / "image.onnx").is_file()
    trained = names["result"].student.state_dict()
    again = names["again"].state_dict()
    assert all(torch.equal(again[name], value) for name, value in trained.items())
