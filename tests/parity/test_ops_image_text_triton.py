"""The Triton sweeps against float64 autograd of the reference, in Triton's interpreter.

The interpreter is chosen before Triton is first imported, so one test runs this very file in a
process of its own, where the others are not skipped. bfloat16 is left to tests/gpu: the
interpreter's product of it is wrong.
"""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from distill.ops import image_text_loss
from distill.ops.image_text import problem as contract
from distill.ops.image_text import reference
from distill.ops.image_text.arguments import IntraModal, Options, normal_form
from teachers.contract import Embeddings

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
in_the_interpreter = pytest.mark.skipif(not INTERPRETED, reason="test_in_the_interpreter runs it")

if INTERPRETED:
    from distill.ops.image_text import triton_problem
    from distill.ops.image_text.triton_launch import Operands
    from distill.ops.image_text.triton_tiling import Tiling
    from distill.ops.image_text.triton_tuning import sweep_once

UPSTREAM = (0.7, 1.3)  # gradients of the two values


def run_this_file(marks):
    """Run the tests of this file that are skipped here; show what they printed if one failed."""
    command = [sys.executable, "-m", "pytest", __file__, "-q", "-x", "-m", marks]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:]
    assert " passed" in done.stdout


@pytest.mark.skipif(INTERPRETED, reason="this is that process")
def test_in_the_interpreter():
    run_this_file("not slow")


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="this is that process")
def test_in_the_interpreter_at_length():
    run_this_file("slow")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def tiny(backend):
    """Tiles so small that a matrix of 65 rows has several, in several super-tiles."""
    return Tiling(backend=backend, block_m=32, block_n=32, block_bytes=64, side=32)


def embeddings(n, width, scale, dtype, align):
    """Random unit rows; texts lean to their images by `align`."""
    image = torch.randn(n, width)
    text = align * image + torch.randn(n, width)
    bias, scale = torch.tensor(-scale / 2), torch.tensor(scale)
    return Embeddings(F.normalize(image).to(dtype), F.normalize(text).to(dtype), scale, bias)


def double(x, gradient=False):
    if not torch.is_tensor(x) or not x.is_floating_point():
        return x
    return x.detach().double().requires_grad_(gradient)


def truth(student, teachers, chosen):
    """Values and gradients of the reference, in the dtype that everything has."""
    values = reference.terms(normal_form(student, teachers, Options(**chosen)))
    total = UPSTREAM[0] * values[0] + UPSTREAM[1] * values[1]
    return values, torch.autograd.grad(total, list(student), materialize_grads=True)


def in_float64(student, teachers, chosen):
    student = Embeddings(*(double(x, gradient=True) for x in student))
    teachers = [Embeddings(*map(double, teacher)) for teacher in teachers]
    options = {name: double(value) for name, value in chosen.items()}
    if "divisors" in options:
        options["divisors"] = tuple(map(double, options["divisors"]))
    return truth(student, teachers, options)


def eager(student, teachers, chosen):
    """What PyTorch's autograd makes of the same call in float32."""
    student = Embeddings(*(x.detach().float().requires_grad_() for x in student))
    return truth(student, [Embeddings(*(x.float() for x in t)) for t in teachers], chosen)


def ours(student, teachers, chosen, tiling):
    made = normal_form(student, teachers, Options(**chosen))
    swept = triton_problem.statistics(made, tiling)
    upstream = map(torch.tensor, UPSTREAM)
    values = contract.terms(made, swept)
    return values, triton_problem.gradients(made, swept, *upstream, tiling)


def check(n, width, teacher_widths, backend, scale=10.0, dtype=torch.float32, align=1.0, **chosen):
    """Error of values and of every gradient: not above eager's, plus a slack of the dtype."""
    torch.manual_seed(n + width)
    student = embeddings(n, width, scale, dtype, align)
    teachers = [embeddings(n, wide, 2 * scale, dtype, align) for wide in teacher_widths]
    # float16: dL/dlogit is rounded to it, 2^-11 of each element.
    slack = 1e-3 if dtype == torch.float16 else 1e-5
    assert_no_worse_than_eager(student, teachers, chosen, tiny(backend), slack)


def assert_no_worse_than_eager(student, teachers, chosen, tiling, slack, floor=1e-2):
    wanted = in_float64(student, teachers, chosen)
    baseline = eager(student, teachers, chosen)
    found = ours(student, teachers, chosen, tiling)
    for part in range(2):
        for f, w, base in zip(found[part], wanted[part], baseline[part], strict=True):
            error, allowed = (f.double() - w).abs().max(), (base.double() - w).abs().max()
            assert error <= allowed + slack * w.abs().max().clamp(min=floor), (error, allowed, w)


BACKENDS = pytest.mark.parametrize("backend", ["fused", "library"])


def ids(n):
    return torch.arange(n) % max(1, n // 3) * 10**12


def every_option(n):
    """One call that has all the softmax losses' options at once."""
    return {
        "positives": ids(n),
        "label_smoothing": 0.1,
        "teacher_weights": [1.0, 3.0],
        "row_weights": torch.linspace(0, 1, n),
        "intra_modal": IntraModal(mix=0.4),
    }


@in_the_interpreter
@BACKENDS
@pytest.mark.parametrize(
    "n, width, teachers, chosen",
    [
        (7, 1, (), {}),
        (65, 48, (), {"label_smoothing": 0.1}),
        (65, 48, (16, 7), {"targets": "mean_logit"}),
        (65, 16, (48, 7), every_option(65)),
        (65, 48, (16,), {"divisors": (torch.randn(65), torch.randn(65))}),
        (50, 48, (), {"divisors": (torch.randn(50), torch.randn(50)), "positives": ids(50)}),
    ],
    ids=["narrow", "smoothed", "mean_logit", "every_option", "divisors", "divisors_and_ids"],
)
def test_softmax(n, width, teachers, chosen, backend):
    check(n, width, teachers, backend, **chosen)


@in_the_interpreter
@BACKENDS
@pytest.mark.parametrize(
    "n, width, teachers, chosen",
    [
        (1, 16, (), {}),
        (65, 48, (), {"positives": ids(65), "row_weights": torch.linspace(0, 1, 65)}),
        (65, 16, (1, 48), {}),
        (65, 16, (7, 48), {"targets": "mean_logit", "positives": ids(65)}),
    ],
    ids=["one", "weights_and_ids", "mean_prob", "mean_logit"],
)
def test_sigmoid(n, width, teachers, chosen, backend):
    check(n, width, teachers, backend, kind="sigmoid", **chosen)


@in_the_interpreter
@BACKENDS
def test_float16(backend):
    check(50, 40, (16,), backend, dtype=torch.float16, scale=50.0)
    check(50, 40, (), backend, dtype=torch.float16, kind="sigmoid")


@in_the_interpreter
@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
@pytest.mark.parametrize("n", [1, 40])
def test_through_the_front_door(n, kind):
    """Forward and backward of the operator, with the tiling that is used; a pair has no loss."""
    student = embeddings(n, 48, 10.0, torch.float32, 1.0)
    teachers = [embeddings(n, 16, 20.0, torch.float32, 1.0)] if kind == "softmax" else []
    leaves = Embeddings(*(x.clone().requires_grad_() for x in student))
    terms = image_text_loss(leaves, teachers, kind=kind, impl="triton")
    total = UPSTREAM[0] * terms.contrastive + UPSTREAM[1] * terms.affinity
    found = torch.autograd.grad(total, list(leaves), materialize_grads=True)
    values, wanted = in_float64(student, teachers, {"kind": kind})
    for f, w in zip([*terms, *found], [*values, *wanted], strict=True):
        assert (f.double() - w).abs().max() <= 1e-5 * w.abs().max() + 1e-6 * (n == 1) + 1e-7


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="starts the interpreter itself")
def test_one_graph_under_compile_and_autocast():
    """With torch's own checks of the operators: what tests/gpu does on a GPU."""
    script = Path(__file__).parents[1] / "gpu" / "compiled_call.py"
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, str(script), "cpu"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_device_that_triton_does_not_know_is_refused():
    if INTERPRETED:
        pytest.skip("the interpreter runs on a CPU")
    model = embeddings(4, 8, 10.0, torch.float32, 1.0)
    with pytest.raises(ValueError, match="impl='triton' needs tensors on an NVIDIA GPU, got cpu"):
        image_text_loss(model, impl="triton")


@in_the_interpreter
@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_what_is_timed_runs(kind):
    """Tuning's own calls of the sweeps, which a GPU would time."""
    student, teacher = (embeddings(40, 16, 10.0, torch.float32, 1.0) for _ in range(2))
    for options, teachers in ((Options(kind=kind), []), (Options(kind=kind), [teacher])):
        operands = Operands.of(normal_form(student, teachers, options))
        sweep_once(operands, "sums", tiny("library"))()
        sweep_once(operands, "gradients", tiny("library"))()


@in_the_interpreter
def test_float64_is_tiled():
    student = Embeddings(*(double(x) for x in embeddings(20, 8, 10.0, torch.float32, 1.0)))
    terms = [image_text_loss(student, impl=impl).contrastive for impl in ("triton", "tiled")]
    assert torch.equal(*terms) and terms[0].dtype == torch.float64


@in_the_interpreter
def test_sigmoid_in_one_sweep_is_sigmoid_in_two():
    student = embeddings(65, 48, 10.0, torch.float32, 1.0)
    made = normal_form(student, [], Options(kind="sigmoid"))
    one = triton_problem.one_sweep(made, tiny("fused"))
    two = triton_problem.statistics(made, tiny("fused"))
    gradients = triton_problem.gradients(
        made, two, torch.tensor(1.0), torch.tensor(0.0), tiny("fused")
    )
    torch.testing.assert_close(one[0].pairs, two.pairs)  # summed in another order
    assert all(torch.equal(a, b) for a, b in zip(one[1], gradients, strict=True))


@in_the_interpreter
@pytest.mark.parametrize(
    "chosen",
    [{"label_smoothing": 0.1}, {"divisors": (torch.zeros(40),) * 2, "positives": ids(40)}],
    ids=["softmax", "divisors"],
)
def test_sums_that_underflow_are_computed_again(chosen):
    teachers = [embeddings(40, wide, 100.0, torch.float32, 1.0) for wide in (16,)]
    student = embeddings(40, 16, 100.0, torch.float32, 1.0)
    student.image[:] = student.image[:1]
    student.text[:] = -student.image
    # Equal texts: the rounding of a log-sum-exp of -150, 2^-17, is every pair's and adds up, also
    # where the truth is 0 because everything cancels.
    assert_no_worse_than_eager(student, teachers, chosen, tiny("fused"), slack=1e-3, floor=1.0)


@in_the_interpreter
@BACKENDS
def test_what_lies_behind_a_buffer_is_never_read(backend):
    clean = embeddings(50, 48, 10.0, torch.float32, 1.0)
    poisoned = []
    for rows in (clean.image, clean.text):
        whole = torch.full((rows.shape[0] + 64, rows.shape[1]), float("nan"))
        whole[: rows.shape[0]] = rows
        poisoned.append(whole[: rows.shape[0]])
    found = ours(clean._replace(image=poisoned[0], text=poisoned[1]), [], {}, tiny(backend))
    wanted = ours(clean, [], {}, tiny(backend))
    for part in range(2):
        assert all(torch.equal(a, b) for a, b in zip(found[part], wanted[part], strict=True))


@in_the_interpreter
@BACKENDS
def test_a_strip_of_the_batch_is_its_part_of_the_whole(backend):
    """Sweep 1 by strips and merged, sweep 2 by strips and added: what a rank does."""
    student = embeddings(65, 48, 10.0, torch.float32, 1.0)
    teacher = embeddings(65, 16, 20.0, torch.float32, 1.0)
    whole = normal_form(student, [teacher], Options())
    swept = triton_problem.statistics(whole, tiny(backend))
    upstream = torch.tensor(0.7), torch.tensor(1.3)
    wanted = triton_problem.gradients(whole, swept, *upstream, tiny(backend))
    strips = [strip(whole, 0, 23), strip(whole, 23, 65)]
    parts = [triton_problem.statistics(part, tiny(backend)) for part in strips]
    columns = contract.merge(parts[0].columns, parts[1].columns)
    torch.testing.assert_close(columns[:4], swept.columns[:4])  # no divisors
    gradients = [
        triton_problem.gradients(part, found._replace(columns=columns), *upstream, tiny(backend))
        for part, found in zip(strips, parts, strict=True)
    ]
    torch.testing.assert_close(torch.cat([part.image for part in gradients]), wanted.image)
    torch.testing.assert_close(gradients[0].text + gradients[1].text, wanted.text)
    of_scale = gradients[0].logit_scale + gradients[1].logit_scale
    torch.testing.assert_close(of_scale, wanted.logit_scale)


def strip(whole, start, stop):
    """Rows start:stop of a problem, against all its columns."""
    rows = slice(start, stop)
    source = whole.sources[0]
    return replace(
        whole,
        image=whole.image[rows],
        sources=(replace(source, left=source.left[rows]),),
        row_share=whole.row_share[rows],
        row_positives=whole.row_positives[rows],
        diagonal=-start,
    )


@pytest.mark.slow
@in_the_interpreter
@BACKENDS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("n", [7, 63, 100, 257])
@pytest.mark.parametrize("widths", [(384,), (640, 1152), (48, 384, 1)], ids=str)
def test_more_shapes(n, widths, dtype, backend):
    check(n, widths[0], widths[1:], backend, dtype=dtype, scale=50.0, align=0.1)
    check(n, widths[0], widths[1:], backend, dtype=dtype, kind="sigmoid")
