"""Stock open_clip builds and loads our open_clip students at sizes of their own: equal rows."""

import open_clip
import pytest
import torch

from students import inherit, save_for_open_clip
from students.inheritance.testing import inputs_for, randomise
from students.masks import fold
from students.masks.testing import FAMILIES, masked, smaller
from students.student import Student


def rows_of_stock(student: Student, folder) -> tuple[torch.Tensor, torch.Tensor]:
    save_for_open_clip(student, folder)
    stock = open_clip.create_model(f"local-dir:{folder}").eval()
    pixels, tokens = inputs_for(student)
    with torch.no_grad():
        return stock.encode_image(pixels), stock.encode_text(tokens)


def same(student: Student, folder) -> None:
    pixels, tokens = inputs_for(student)
    with torch.no_grad():
        ours = (student.module.encode_image(pixels), student.module.encode_text(tokens))
    for one, two in zip(ours, rows_of_stock(student, folder), strict=True):
        torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-6)


# The two last have sizes that only timm's and transformers' own configurations can say.
@pytest.mark.parametrize(
    "family", ["open_clip ViT", "open_clip ResNet", "open_clip SigLIP", "RoBERTa"]
)
def test_stock_open_clip_loads_a_folded_student(family: str, tmp_path) -> None:
    student = randomise(FAMILIES[family](), 1)
    masks = masked(student)
    same(fold(student, masks, smaller(masks)).student.float(), tmp_path)


def test_stock_open_clip_loads_an_inherited_student(tmp_path) -> None:
    donor, student = (randomise(FAMILIES["open_clip SigLIP"](), seed) for seed in (1, 2))
    inherit(student, donor)
    same(student.float(), tmp_path)


def test_a_student_that_open_clip_cannot_build_says_so(tmp_path) -> None:
    with pytest.raises(ValueError, match="is no open_clip model"):
        save_for_open_clip(FAMILIES["SmallConv"](), tmp_path / "out")
    assert not (tmp_path / "out").exists()
