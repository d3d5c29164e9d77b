"""The tiled image-text loss against float64 autograd: values and every gradient.

An error may never exceed that of autograd in the same dtype by more than 1e-3 of the largest
entry. Where the truth is 0, 5e-6 is allowed: the log-sum-exp, a float32 about 100 at scale 100, is
known no better. Tiles are made small, so that every size here is cut, and cut unevenly.
"""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from distill.ops import Embeddings, IntraModal, image_text_loss
from distill.ops.image_text import tiled


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    monkeypatch.setattr(tiled, "tile_side", lambda problem: 48)


def model(n, d, seed=0, scale=20.0, bias=None):
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(2, n, d, generator=generator, dtype=torch.float64)
    scalars = [None if x is None else torch.tensor(x, dtype=torch.float64) for x in (scale, bias)]
    return Embeddings(*F.normalize(drawn, dim=2), *scalars)


def cast(model, dtype):
    return Embeddings(*(None if x is None else x.to(dtype) for x in model))


def solve(student, teachers, impl, weights=(0.7, 1.3), **arguments):
    """Both values, and the gradients of a weighting of them, in float64."""
    student = Embeddings(
        *(None if x is None else x.detach().clone().requires_grad_() for x in student)
    )
    terms = image_text_loss(student, teachers, impl=impl, **arguments)
    leaves = [leaf for leaf in student if leaf is not None]
    found = torch.autograd.grad(
        weights[0] * terms.contrastive + weights[1] * terms.affinity, leaves
    )
    return [x.detach().double() for x in (*terms, *found)]


def assert_as_good_as_autograd(student, teachers, dtype, **arguments):
    student, teachers = cast(student, dtype), [cast(teacher, dtype) for teacher in teachers]
    truth = solve(
        cast(student, torch.float64),
        [cast(teacher, torch.float64) for teacher in teachers],
        "reference",
        **arguments,
    )
    eager = solve(student, teachers, "reference", **arguments)
    ours = solve(student, teachers, "tiled", **arguments)
    for exact, theirs, mine in zip(truth, eager, ours, strict=True):
        allowed = (theirs - exact).abs().max() + 1e-3 * exact.abs().max() + 5e-6
        if dtype == torch.float64:
            allowed = 1e-11 * (1 + exact.abs().max())
        assert (mine - exact).abs().max() <= allowed


VARIANTS = [
    {},
    {"positives": True, "label_smoothing": 0.1, "row_weights": True},
    {"targets": "mean_logit", "teacher_weights": [1.0, 3.0]},
    {"intra_modal": IntraModal(mix=0.4, scale=7.0), "positives": True},
    {"divisors": True, "positives": True, "row_weights": True},
    {"kind": "sigmoid", "positives": True, "row_weights": True},
]


def tensors(n, arguments, dtype):
    """Replace the flags of a variant by tensors of n entries."""
    generator = torch.Generator().manual_seed(5)
    drawn = torch.rand(4, n, generator=generator, dtype=torch.float64)
    made = {
        "positives": (drawn[0] * max(1, n // 2)).long(),
        "row_weights": drawn[1].to(dtype),
        "divisors": (drawn[2].to(dtype) + 4, drawn[3].to(dtype) + 4),
    }
    return {name: made.get(name, value) for name, value in arguments.items()}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("arguments", VARIANTS)
def test_every_argument(arguments, dtype):
    bias = -3.0 if arguments.get("kind") == "sigmoid" else None
    student, teachers = (
        model(100, 48, bias=bias),
        [model(100, 24, 7, 30.0, bias), model(100, 40, 9)],
    )
    teachers[1] = teachers[1]._replace(logit_bias=teachers[0].logit_bias)
    assert_as_good_as_autograd(student, teachers, dtype, **tensors(100, arguments, dtype))


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("n", "d"), [(7, 1), (63, 48), (65, 384), (100, 640), (257, 1152)])
def test_sizes_and_dtypes(n, d, dtype, kind):
    bias = -3.0 if kind == "sigmoid" else None
    assert_as_good_as_autograd(model(n, d, bias=bias), [], dtype, kind=kind)
    teachers = [model(n, 72, 7, 30.0, bias), model(n, 96, 9, 50.0, bias)]
    assert_as_good_as_autograd(model(n, d, bias=bias), teachers, dtype, kind=kind)


@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0)])
def test_a_single_pair_has_no_loss_and_no_gradient(weights):
    student, teacher = cast(model(1, 48, scale=100.0), torch.float32), model(1, 8, 3)
    found = solve(student, [teacher], "tiled", weights)
    assert all(x.abs().max() < 1e-6 for x in found)


def adversaries(n=96, d=32):
    """Batches that underflow a careless softmax at scale 100."""
    student = model(n, d, scale=100.0)
    aligned = student._replace(text=student.image.clone())
    opposite = student._replace(text=-student.image)
    few = aligned.text.clone()
    few[:5] = -few[:5]
    one_row = student.image[:1].expand(n, d).contiguous()
    return {
        "random": student,
        "all positives opposite": opposite,
        "five positives opposite": aligned._replace(text=few),
        "all rows equal": student._replace(image=one_row, text=one_row.clone()),
        "every cosine -1": student._replace(image=one_row, text=-one_row),
        "duplicates": student._replace(
            image=student.image[: n // 2].repeat(2, 1), text=student.text[: n // 2].repeat(2, 1)
        ),
    }


@pytest.mark.parametrize("name", list(adversaries()))
def test_safe_at_scale_100(name):
    student = adversaries()[name]
    teachers = [adversaries(d=24)[name], model(96, 16, 3, 100.0)]
    assert_as_good_as_autograd(student, teachers, torch.float32)


def test_both_ways_to_sum_a_tile_agree(monkeypatch):
    """The shared exponential and its exact stand-in, which low rows and other devices take."""
    student, teacher = model(100, 48), model(100, 24, 7, 30.0)
    shared = solve(student, [teacher], "tiled", label_smoothing=0.1)
    monkeypatch.setattr("distill.ops.image_text.tiles.SMALLEST_SUM", torch.inf)
    monkeypatch.setattr("distill.ops.image_text.tiles.LARGEST_EXPONENT", -torch.inf)
    exact = solve(student, [teacher], "tiled", label_smoothing=0.1)
    for a, b in zip(shared, exact, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)


class _Largest(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return made


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_nothing_of_the_size_of_the_logits_is_made(kind):
    student, teachers = model(300, 8, bias=-3.0), [model(300, 16, 7, bias=-3.0)]
    ids = torch.arange(300) // 2
    with _Largest() as largest:
        solve(student, teachers, "tiled", kind=kind, positives=ids)
    assert largest.numel <= 300 * 16
