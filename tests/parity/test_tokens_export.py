"""Merging that is shipped: the copy merges, the student does not, files agree with the copy."""

from pathlib import Path

import numpy as np
import pytest
import torch

from students import StudentSpec, TextSpec, build_student, export
from students.exporters.onnx import open_file
from students.tokens.exporting import merging
from students.tokens.policy import TokenPolicy
from students.tokens.reduction import TokenReduction
from teachers import WordTokenizer

TEXT = TextSpec(width=32, layers=1, heads=2, context_length=8)


def vit():
    torch.manual_seed(0)
    spec = StudentSpec(image="smallvit-32", text=TEXT, embed_dim=16, image_size=32)
    return build_student(spec, tokenizer=WordTokenizer(["wa", "wb"], context_length=8)).eval()


@torch.no_grad()
def test_a_copy_merges_as_training_does_and_the_student_stays_as_it_is():
    student, pixels = vit(), torch.randn(3, 3, 32, 32)
    whole = student.encode_image(pixels)
    merged = merging(student, keep=0.5)
    found = merged.encode_image(pixels)
    assert torch.equal(student.encode_image(pixels), whole)
    assert (found - whole).abs().max() > 1e-5
    policy = TokenPolicy(image="merge", image_keep=0.5)
    reduction = TokenReduction(student, [policy])
    with reduction.active(policy), reduction.rows(None):
        assert torch.equal(student.encode_image(pixels), found)
    folded = merged.reparameterize()  # a copy of the copy, as export makes one
    torch.testing.assert_close(folded.encode_image(pixels), found)
    with pytest.raises(ValueError, match="leaves all"):
        merging(student, keep=0.999)


@pytest.mark.slow
def test_files_merge(tmp_path):
    merged, pixels = merging(vit(), keep=0.5), torch.randn(5, 3, 32, 32)
    report = export(merged, tmp_path / "out")
    (path,) = [Path(row["path"]) for row in report.rows if row["tower"] == "image"]
    with torch.no_grad():
        expected = merged.encode_image(pixels).numpy()
    np.testing.assert_allclose(open_file(path)(pixels.numpy()), expected, atol=1e-4)
