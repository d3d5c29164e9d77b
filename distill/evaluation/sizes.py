"""A model at another picture size than its own, as a phone may run it (mode switching).

Pictures are rendered at that size and the tower runs at it: towers of convolutions as they are,
transformers with learned positions resampled (students/tokens/sizing.py). Left out: towers whose
layers know their size (attention pooling, windows); they refuse.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace

from students.tokens.sizing import fitted_positions, takes
from teachers.clip_model import ClipModel, evaluating
from teachers.vision_transformers import find_vit


@contextmanager
def at_size(model: ClipModel, size: int) -> Iterator[None]:
    """Let a model make and take pictures of `size` pixels a side until the context ends.

    Raises:
        ValueError: see `check_size`.
    """
    check_size(model, size)
    own, vit = model.preprocess, find_vit(model.module)
    resampled = vit is not None and size != own.image_size
    model.preprocess = replace(own, image_size=size)
    try:
        with fitted_positions(vit, size) if vit and resampled else nullcontext():
            yield
    finally:
        model.preprocess = own


def check_size(model: ClipModel, size: int) -> None:
    """Refuse a size that a model's image tower cannot take, after trying it on a black picture.

    Raises:
        ValueError: says which tower, why, its own size, and what to ask instead.
    """
    if size < 1:
        raise ValueError(f"a size must be at least 1 pixel, got {size}")
    own = model.preprocess.image_size
    if size == own:
        return
    vit = find_vit(model.module)
    if vit is not None and size % vit.patch:
        reason = f"its patches are {vit.patch} pixels a side, give a multiple"
    else:
        # Batch norm would learn from the black picture in training mode.
        with evaluating(model):
            reason = takes(model, vit, size)
    if reason is not None:
        tower = type(getattr(model.module, "visual", model.module)).__name__
        raise ValueError(
            f"{model.name}: its image tower ({tower}, {own} pixels) does not take pictures of "
            f"{size} pixels ({reason}). Leave {size} out of the sizes, or test coarser pictures "
            f"at {own} pixels with --tests resolutions --resolutions {size}"
        )
