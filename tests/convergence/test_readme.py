"""The README's example, as it stands there, line for line."""

import re
from pathlib import Path

import pytest

README = (Path(__file__).parents[2] / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_every_block_is_python():
    assert len(BLOCKS) == 2
    for block in BLOCKS:
        compile(block, "README.md", "exec")


@pytest.mark.slow
def test_the_glyphs_example_runs_and_distils(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(BLOCKS[0], "README.md", "exec"), {})
    top1, kept = map(float, capsys.readouterr().out.split()[-2:])
    assert top1 > 0.2 and kept > 0.8
    assert (tmp_path / "out" / "onnx" / "image.onnx").is_file()
