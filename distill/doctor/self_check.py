"""The main job in two seconds: a picture, a stored row, a loss, each compared with the truth."""

import io
import time

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from distill.doctor.findings import Finding
from distill.ops import Embeddings, image_text_loss
from reinforced_data.decoding import decode_image
from reinforced_data.pictures import Picture
from reinforced_data.store.arrow_rows import from_ipc, to_ipc
from reinforced_data.view_policy import ViewPolicy
from reinforced_data.views import render_view, sample_view
from teachers.clip_model import unit_rows
from teachers.contract import Preprocess

_HINT = "install again in a new environment: pip install --force-reinstall clip-distill"


def check_itself() -> Finding:
    """Decode, render, write, read, and one loss with its gradient."""
    began = time.perf_counter()
    for what, wrong in {"JPEG": _decoding, "views": _views, "Arrow": _arrow, "loss": _loss}.items():
        found = wrong()
        if found:
            detail = f"{what}: {found}"
            return Finding(name="self-check", status="fail", detail=detail, hint=_HINT)
    seconds = time.perf_counter() - began
    detail = f"a picture decoded, viewed and stored, a loss and its gradient, in {seconds:.1f} s"
    return Finding(name="self-check", status="ok", detail=detail)


def _picture() -> Image.Image:
    rows, columns = np.mgrid[0:48, 0:64].astype(np.uint8)
    return Image.fromarray(np.stack([4 * columns, 5 * rows, columns + rows], axis=-1))


def _decoding() -> str:
    buffer = io.BytesIO()
    _picture().save(buffer, "JPEG", quality=90)
    ours = np.asarray(decode_image(buffer.getvalue()), dtype=int)
    pillows = np.asarray(Image.open(buffer).convert("RGB"), dtype=int)
    worst = int(abs(ours - pillows).max())
    return f"simplejpeg and Pillow differ by {worst} of 255" if worst > 2 else ""


def _views() -> str:
    look = Preprocess(image_size=32)
    view = sample_view(ViewPolicy(), 0, "self-check", 0)
    data = io.BytesIO()
    _picture().save(data, "PNG")
    first, second = (render_view(Picture(data.getvalue()), view, look) for _ in range(2))
    return "" if np.array_equal(first, second) else "the same view is rendered in two ways"


def _arrow() -> str:
    batch = pa.record_batch({"row": pa.array([1.5, None, 2.5], pa.float32())})
    same = from_ipc(pa.py_buffer(to_ipc(batch)), "self-check").equals(batch)
    return "" if same else "what is read is not what was written"


def _loss() -> str:
    """Compare with InfoNCE written out in float64, and the gradient with a small step."""
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(2, 8, 16, generator=generator, dtype=torch.float64)

    def loss(shift: torch.Tensor) -> torch.Tensor:
        image, text = unit_rows(raw[0] + shift), unit_rows(raw[1])
        student = Embeddings(image, text, torch.tensor(10.0, dtype=torch.float64))
        return image_text_loss(student).contrastive

    shift = torch.zeros((), dtype=torch.float64, requires_grad=True)
    value = loss(shift)
    (slope,) = torch.autograd.grad(value, shift)
    logits = 10 * unit_rows(raw[0]) @ unit_rows(raw[1]).T
    truth = -(logits.log_softmax(0).diag().mean() + logits.log_softmax(1).diag().mean()) / 2
    step = torch.tensor(1e-5, dtype=torch.float64)
    difference = (loss(step) - loss(-step)) / (2 * step)
    if abs(value - truth) > 1e-9 * abs(truth):
        return f"{value.item():.9f} instead of {truth.item():.9f}"
    if abs(slope - difference) > 1e-6:
        return f"its gradient is {slope.item():.9f} instead of {difference.item():.9f}"
    return ""
