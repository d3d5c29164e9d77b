"""A specification survives JSON and refuses impossible sizes."""

import json

import pytest

from students import StudentSpec, TextSpec

TEXT = TextSpec(width=64, layers=2, heads=4, context_length=16)


def test_a_specification_survives_json() -> None:
    spec = StudentSpec(
        image="test_vit",
        text=TEXT,
        embed_dim=32,
        image_size=64,
        mean=(0.0, 0.1, 0.2),
        std=(1.0, 0.9, 0.8),
        interpolation="bilinear",
    )
    assert StudentSpec.from_config(json.loads(json.dumps(spec.config()))) == spec


def test_the_preprocessing_is_the_specifications() -> None:
    spec = StudentSpec(image="test_vit", text=TEXT, embed_dim=8, image_size=40, std=(1.0, 2.0, 3.0))
    assert spec.preprocess.image_size == 40
    assert spec.preprocess.std == (1.0, 2.0, 3.0)


def test_width_must_be_a_multiple_of_heads() -> None:
    with pytest.raises(ValueError, match=r"width 65 is no multiple of its 4 heads.* 64"):
        TextSpec(width=65, layers=1, heads=4)


@pytest.mark.parametrize("field", ["width", "layers", "heads", "context_length"])
def test_text_sizes_are_positive(field: str) -> None:
    with pytest.raises(ValueError, match=f"TextSpec.{field} must be at least 1"):
        TextSpec(**{**TEXT.__dict__, field: 0})


@pytest.mark.parametrize("field", ["embed_dim", "image_size"])
def test_student_sizes_are_positive(field: str) -> None:
    sizes = {"embed_dim": 8, "image_size": 32, field: 0}
    with pytest.raises(ValueError, match=f"{field} must be at least 1"):
        StudentSpec(image="test_vit", text=TEXT, **sizes)
