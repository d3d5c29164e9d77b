"""The Triton sweeps against float64, in Triton's interpreter: values, gradients, hazards.

The interpreter is chosen before Triton is first imported, so one test runs this very file in a
process of its own, where the others are not skipped. bfloat16 is left to tests/gpu: the
interpreter's product of it is wrong.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
in_the_interpreter = pytest.mark.skipif(not INTERPRETED, reason="test_in_the_interpreter runs it")

if INTERPRETED:
    from distill.ops.image_text.triton_launch import Matrices
    from distill.ops.image_text.triton_sweeps import (
        Coefficients,
        gradients,
        sigmoid_sums,
        softmax_sums,
    )
    from distill.ops.image_text.triton_tiling import Tiling


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


def tiny(backend):
    """Tiles so small that a matrix of 65 rows has several, in several super-tiles."""
    return Tiling(backend=backend, block_m=32, block_n=32, block_bytes=64, side=48)


def unit(rows, width, dtype=torch.float32):
    return F.normalize(torch.randn(rows, width)).to(dtype)


def problem(rows, columns, widths, scale=10.0, ids=False, dtype=torch.float32, **flags):
    """Random unit rows; every matrix has the same scale, each its own bias."""
    torch.manual_seed(rows + columns)
    drawn = torch.randint(0, 20, (rows + columns,), dtype=torch.int32)
    return Matrices(
        lefts=tuple(unit(rows, width, dtype) for width in widths),
        rights=tuple(unit(columns, width, dtype) for width in widths),
        scales=torch.full((len(widths),), scale),
        biases=torch.linspace(-1, 1, len(widths)),
        row_ids=drawn[:rows] if ids else None,
        column_ids=drawn[rows:] if ids else None,
        **flags,
    )


class Truth:
    """The same in float64, with whole matrices."""

    def __init__(self, matrices):
        pairs = zip(matrices.lefts, matrices.rights, strict=True)
        self.products = [a.double() @ b.double().T for a, b in pairs]
        biases = matrices.biases.double() * matrices.sigmoid
        each = zip(self.products, matrices.scales.double(), biases, strict=True)
        self.scores = [scale * product + bias for product, scale, bias in each]
        if matrices.mixed:
            self.scores = [self.scores[0], sum(self.scores[1:])]
        self.same = torch.eye(*matrices.shape, dtype=torch.bool)
        if matrices.row_ids is not None:
            self.same = matrices.row_ids[:, None] == matrices.column_ids[None, :]

    def gradient(self, rows, columns, sigmoid):
        total = -1.0 * self.same * (rows.positives.double()[:, None] + columns.positives.double())
        for slot, scores in enumerate(self.scores):
            c_row, c_column = rows.slots[slot].double()[:, None], columns.slots[slot].double()
            if sigmoid:
                part = (c_row + c_column) * scores.sigmoid()
            else:
                part = c_row * scores.softmax(1) + c_column * scores.softmax(0)
            total = total - part if slot else total + part
        return total


def coefficients(matrices):
    return [Coefficients(torch.rand(matrices.slots, n), torch.rand(n)) for n in matrices.shape]


def assert_close(found, wanted, slack):
    """Elementwise, relative to the largest element (or to 1)."""
    error = (found.double() - wanted).abs().max() / wanted.abs().max().clamp(min=1)
    assert error <= slack, error


def check_softmax(matrices, backend, slack=1e-5):
    truth, found = Truth(matrices), softmax_sums(matrices, tiny(backend))
    for slot, scores in enumerate(truth.scores):
        assert_close(found.row_log_sums[slot], scores.logsumexp(1), 1e-5)
        assert_close(found.column_log_sums[slot], scores.logsumexp(0), 1e-5)
        assert_close(found.row_means[slot], (scores.softmax(1) * truth.products[0]).sum(1), 1e-5)
        assert_close(found.column_means[slot], (scores.softmax(0) * truth.products[0]).sum(0), 1e-5)
    if matrices.row_ids is not None:
        positives = truth.same * truth.products[0]
        assert_close(found.row_positives, positives.sum(1), 1e-5)
        assert_close(found.column_positives, positives.sum(0), 1e-5)
    rows, columns = coefficients(matrices)
    made = gradients(matrices, tiny(backend), rows, columns, found)
    wanted = truth.gradient(rows, columns, sigmoid=False)
    assert_close(made.left, wanted @ matrices.rights[0].double(), slack)
    assert_close(made.right, wanted.T @ matrices.lefts[0].double(), slack)
    return found


def check_sigmoid(matrices, backend, slack=1e-5):
    truth, found = Truth(matrices), sigmoid_sums(matrices, tiny(backend))
    chance = truth.scores[0].sigmoid()
    wanted = [F.softplus(truth.scores[0]), chance, chance * truth.products[0]]
    for scores in truth.scores[1:]:
        wanted += [scores.sigmoid(), scores.sigmoid() * truth.products[0]]
    wanted += [truth.same * truth.products[0]] if matrices.row_ids is not None else []
    assert len(wanted) == len(found.rows)
    for quantity, pairs in enumerate(wanted):
        assert_close(found.rows[quantity], pairs.sum(1), 1e-5)
        assert_close(found.columns[quantity], pairs.sum(0), 1e-5)
    rows, columns = coefficients(matrices)
    made = gradients(matrices, tiny(backend), rows, columns, with_sums=matrices.slots == 1)
    gradient = truth.gradient(rows, columns, sigmoid=True)
    assert_close(made.left, gradient @ matrices.rights[0].double(), slack)
    assert_close(made.right, gradient.T @ matrices.lefts[0].double(), slack)
    if made.sums is not None:
        assert_close(made.sums.rows, found.rows.double(), 1e-6)
        assert_close(made.sums.columns, found.columns.double(), 1e-6)


BACKENDS = pytest.mark.parametrize("backend", ["fused", "library"])


@in_the_interpreter
@BACKENDS
@pytest.mark.parametrize(
    "rows, columns, widths, flags",
    [
        (1, 1, (16,), {}),
        (7, 7, (1, 48), {"ids": True}),
        (65, 50, (48, 16, 7), {"ids": True}),
        (50, 65, (48, 16, 7), {"mixed": True}),
    ],
    ids=str,
)
def test_softmax(rows, columns, widths, flags, backend):
    check_softmax(problem(rows, columns, widths, **flags), backend)


@in_the_interpreter
@BACKENDS
@pytest.mark.parametrize(
    "rows, columns, widths, flags",
    [
        (1, 1, (16,), {}),
        (65, 50, (48,), {"ids": True}),
        (7, 65, (16, 1, 48), {}),
        (65, 7, (16, 1, 48), {"mixed": True, "ids": True}),
    ],
    ids=str,
)
def test_sigmoid(rows, columns, widths, flags, backend):
    check_sigmoid(problem(rows, columns, widths, sigmoid=True, **flags), backend)


@in_the_interpreter
@BACKENDS
def test_float16(backend):
    # dL/dlogit is rounded to float16: 2^-11 of an element.
    check_softmax(problem(50, 37, (16, 40), 100.0, dtype=torch.float16), backend, slack=1e-3)
    check_sigmoid(problem(50, 37, (16,), sigmoid=True, dtype=torch.float16), backend, slack=1e-3)


@in_the_interpreter
@BACKENDS
def test_sums_that_underflow_are_computed_again(backend):
    matrices = problem(50, 65, (16, 7), scale=100.0)
    one = matrices.lefts[0][:1]
    opposite = (one.expand(50, -1).contiguous(), -one.expand(65, -1).contiguous())
    matrices.lefts[0].copy_(opposite[0])
    matrices.rights[0].copy_(opposite[1])
    assert check_softmax(matrices, backend).unsafe == 1


@in_the_interpreter
@BACKENDS
def test_what_lies_behind_a_buffer_is_never_read(backend):
    clean = problem(37, 50, (16, 7))
    sides = []
    for parts in (clean.lefts, clean.rights):
        poisoned = []
        for part in parts:
            whole = torch.full((part.shape[0] + 64, part.shape[1]), float("nan"))
            whole[: part.shape[0]] = part
            poisoned.append(whole[: part.shape[0]])
        sides.append(tuple(poisoned))
    check_softmax(Matrices(**{**vars(clean), "lefts": sides[0], "rights": sides[1]}), backend)


@in_the_interpreter
@BACKENDS
def test_two_runs_have_equal_bits(backend):
    matrices = problem(65, 65, (16, 7), ids=True)
    rows, columns = coefficients(matrices)
    runs = []
    for _ in range(2):
        found = softmax_sums(matrices, tiny(backend))
        runs.append([*found, *gradients(matrices, tiny(backend), rows, columns, found)[:2]])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.slow
@in_the_interpreter
@BACKENDS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("rows", [63, 100, 257])
@pytest.mark.parametrize("widths", [(384,), (640, 1152), (48, 384, 1)], ids=str)
def test_more_shapes(rows, widths, dtype, backend):
    slack = 1e-5 if dtype == torch.float32 else 1e-3
    check_softmax(problem(rows, rows, widths, 100.0, dtype=dtype), backend, slack)
    check_sigmoid(problem(rows, rows, widths, dtype=dtype, sigmoid=True), backend, slack)
