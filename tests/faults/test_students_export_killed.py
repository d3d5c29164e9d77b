"""An export that dies half-way leaves nothing that looks finished."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from students import load_student

PROGRAM = """
import sys
from students import StudentSpec, TextSpec, build_student, export
from teachers.tokenizers import WordTokenizer
text = TextSpec(width=16, layers=1, heads=2, context_length=8)
spec = StudentSpec(image="smallconv-8", text=text, embed_dim=8, image_size=32)
export(build_student(spec, tokenizer=WordTokenizer(["a", "b", "c"], 8)), sys.argv[1])
"""


def test_a_killed_export_leaves_no_folder(tmp_path: Path) -> None:
    out, partial = tmp_path / "out", tmp_path / ".out.partial"
    with subprocess.Popen([sys.executable, "-c", PROGRAM, str(out)]) as process:
        deadline = time.monotonic() + 120
        while not (partial / "onnx" / "image.onnx").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert not out.exists()
    assert not (partial / "metadata.json").exists()
    with pytest.raises(ValueError, match=r"student.json is missing"):
        load_student(partial)
