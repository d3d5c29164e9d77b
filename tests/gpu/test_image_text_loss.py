"""`image_text_loss` on an NVIDIA GPU: what the interpreter cannot show. Skipped without one.

bfloat16, the compiled kernels of both back ends, memory, no synchronisation, torch.compile, and a
quarter of a million rows. `benchmarks/ops/gpu_check.py` runs this file and then the benchmark.
"""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from distill.ops import Embeddings, image_text_loss
from distill.ops.image_text import IntraModal
from distill.ops.image_text.arguments import Options, normal_form

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]

DTYPES = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16], ids=["fp32", "bf16", "fp16"]
)


@pytest.fixture(autouse=True)
def tilings_are_not_timed(monkeypatch):
    monkeypatch.setenv("CLIP_DISTILL_TILINGS", "off")


def embeddings(n, width, dtype=torch.bfloat16, scale=20.0, align=1.0):
    """Random unit rows; texts lean to their images by `align`."""
    image = torch.randn(n, width, device="cuda")
    text = align * image + torch.randn(n, width, device="cuda")
    bias = torch.tensor(-scale / 2, device="cuda")
    rows = (F.normalize(part).to(dtype) for part in (image, text))
    return Embeddings(*rows, torch.tensor(scale, device="cuda"), bias)


def differentiable(model, dtype=None):
    cast = (x.detach().to(dtype or x.dtype) for x in model)
    return Embeddings(*(x.requires_grad_() for x in cast))


def run(student, teachers, impl, dtype=None, **chosen):
    """Both values and every gradient, through the public door."""
    student = differentiable(student, dtype)
    teachers = [Embeddings(*(x.to(dtype or x.dtype) for x in teacher)) for teacher in teachers]
    terms = image_text_loss(student, teachers, impl=impl, **chosen)
    total = 0.7 * terms.contrastive + 1.3 * terms.affinity
    return [*terms, *torch.autograd.grad(total, list(student), materialize_grads=True)]


def eager(student, teachers, **chosen):
    """open_clip's way: products in the rows' own dtype, softmax in float32."""
    widened = [_rounded_logits(model) for model in (student, *teachers)]
    return run(widened[0], widened[1:], "reference", torch.float32, **chosen)


def _rounded_logits(model):
    """Rows as a product in their own dtype sees them once they were scaled."""
    scaled = (model.logit_scale * model.image.float()).to(model.image.dtype).float()
    return model._replace(image=scaled / model.logit_scale)


def assert_no_worse_than_eager(student, teachers, floor=1e-2, **chosen):
    """Error against float64 not above eager's error in the rows' dtype plus 1e-3, relative."""
    wanted = run(student, teachers, "reference", torch.float64, **chosen)
    baseline = eager(student, teachers, **chosen)
    found = run(student, teachers, "triton", **chosen)
    for f, w, base in zip(found, wanted, baseline, strict=True):
        rounding = torch.finfo(f.dtype).eps  # the gradient is returned in the rows' dtype
        size = w.abs().max().clamp(min=floor)
        allowed = (base.double() - w).abs().max() + (1e-3 + rounding) * size
        assert (f.double() - w).abs().max() <= allowed


@DTYPES
@pytest.mark.parametrize("n", [7, 63, 65, 100, 257])
@pytest.mark.parametrize("widths", [(1,), (48, 384), (384, 48, 1), (640,), (1152, 768)], ids=str)
def test_no_worse_than_eager(n, widths, dtype):
    torch.manual_seed(n)
    student, *teachers = (embeddings(n, width, dtype) for width in widths)
    assert_no_worse_than_eager(student, teachers)
    assert_no_worse_than_eager(student, teachers, kind="sigmoid")


@DTYPES
def test_every_option(dtype):
    torch.manual_seed(0)
    n = 300
    student, *teachers = (embeddings(n, width, dtype) for width in (512, 768, 384))
    ids = torch.arange(n, device="cuda") % 100
    rest = {"positives": ids, "row_weights": torch.rand(n, device="cuda")}
    soft = {"label_smoothing": 0.1, "intra_modal": IntraModal(), "teacher_weights": [1.0, 3.0]}
    divisors = (torch.randn(n, device="cuda"), torch.randn(n, device="cuda"))
    assert_no_worse_than_eager(student, teachers, **rest, **soft)
    assert_no_worse_than_eager(student, teachers, **rest, targets="mean_logit")
    assert_no_worse_than_eager(student, teachers, **rest, divisors=divisors)
    assert_no_worse_than_eager(student, teachers, **rest, kind="sigmoid")


@DTYPES
def test_one_row_has_no_loss(dtype):
    student, teacher = embeddings(1, 64, dtype, scale=100.0), embeddings(1, 48, dtype)
    found = run(student, [teacher], "triton")
    assert all(part.abs().max() <= 1e-6 for part in found)


@DTYPES
def test_adversarial_rows(dtype):
    """Scale 100; low-cosine positives, equal rows, everything opposite."""
    torch.manual_seed(0)
    plain = embeddings(200, 64, dtype, scale=100.0)
    opposite = plain._replace(text=-plain.image)
    equal = plain._replace(
        image=plain.image[:1].expand(200, -1).contiguous(),
        text=-plain.image[:1].expand(200, -1).contiguous(),
    )
    some = plain.text.clone()
    some[:5] = -plain.image[:5]
    for student in (plain, opposite, equal, plain._replace(text=some)):
        # The summands are of size 1 even where everything cancels.
        teacher = embeddings(200, 96, dtype, scale=100.0)
        assert_no_worse_than_eager(student, [teacher], floor=1.0)


def candidates():
    from distill.ops.image_text.triton_tiling import CANDIDATES

    return CANDIDATES


@DTYPES
@pytest.mark.parametrize("place", range(9))
def test_every_tiling_gives_the_same(place, dtype):
    from distill.ops.image_text import triton_problem

    torch.manual_seed(0)
    tiling = replace(candidates()[place], side=512)
    student, *teachers = (embeddings(700, width, dtype) for width in (512, 768))
    for kind in ("softmax", "sigmoid"):
        problem = normal_form(student, teachers, Options(kind=kind))
        upstream = torch.tensor(0.7, device="cuda"), torch.tensor(1.3, device="cuda")
        made = []
        for cut in (tiling, candidates()[0]):
            swept = triton_problem.statistics(problem, cut)
            made.append([swept, triton_problem.gradients(problem, swept, *upstream, cut)])
        torch.testing.assert_close(made[0], made[1], rtol=2e-3, atol=1e-4)


def test_what_lies_behind_a_buffer_is_never_read():
    clean = embeddings(1000, 96)
    poisoned = []
    for rows in (clean.image, clean.text):
        whole = torch.full((1200, 96), float("nan"), device="cuda", dtype=rows.dtype)
        whole[:1000] = rows
        poisoned.append(whole[:1000])
    wanted = run(clean, [], "triton")
    found = run(clean._replace(image=poisoned[0], text=poisoned[1]), [], "triton")
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_two_runs_have_equal_bits():
    student, teacher = embeddings(3000, 512), embeddings(3000, 768)
    runs = [run(student, [teacher], "triton") for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_nothing_waits_for_the_device(kind):
    student, teacher = embeddings(3000, 512), embeddings(3000, 768)
    ids = torch.arange(3000, device="cuda") % 1000
    run(student, [teacher], "triton", kind=kind, positives=ids)  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        run(student, [teacher], "triton", kind=kind, positives=ids)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_one_graph_under_compile_and_autocast():
    command = [sys.executable, str(Path(__file__).parent / "compiled_call.py"), "cuda"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def peak_extra(n, teachers):
    """Bytes a forward and backward need beyond inputs, and beyond the gradients they return."""
    student = differentiable(embeddings(n, 512))
    models = [embeddings(n, 768) for _ in range(teachers)]
    for _ in range(2):  # the first call compiles
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        terms = image_text_loss(student, models, impl="triton")
        gradients = torch.autograd.grad(terms.contrastive + terms.affinity, list(student)[:3])
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated() - before
        kept = sum(part.nbytes for part in gradients)
        del gradients
    return peak - kept


@pytest.mark.parametrize("teachers", [0, 2])
def test_memory_grows_with_rows_not_with_pairs(teachers):
    small, large = peak_extra(16_384, teachers), peak_extra(65_536, teachers)
    assert large <= 5 * small  # pairs grow 16-fold
    rows = 65_536 * 4 * (512 + 768 * teachers) * 2  # one float32 copy of every row
    assert large <= 4 * rows + (1 << 30)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_a_quarter_of_a_million_rows(kind):
    """Runs, and a hundred of its rows have the gradient that float64 gives them."""
    from distill.ops.image_text import triton_problem

    torch.manual_seed(0)
    n, some = 262_144, torch.arange(100, device="cuda")
    student = embeddings(n, 512, scale=50.0)
    gradient = run(student, [], "triton", kind=kind)[2][:100].double() / 0.7
    image, text = student.image[:100].double(), student.text.double()
    scores = 50.0 * image @ text.T + student.logit_bias.double()
    same = torch.zeros_like(scores)
    same[some, some] = 1.0
    if kind == "sigmoid":
        wanted = (scores.sigmoid() - same) / n
    else:
        found = triton_problem.statistics(normal_form(student, [], Options()))
        torch.testing.assert_close(found.rows.lse[0, :100].double(), scores.logsumexp(1))
        columns = student.image.double() @ text[:100].T * 50.0 + student.logit_bias.double()
        torch.testing.assert_close(found.columns.lse[0, :100].double(), columns.logsumexp(0))
        shifted = scores - found.columns.lse[0].double()
        wanted = (scores.softmax(1) + shifted.exp() - 2 * same) / (2 * n)
    wanted = 50.0 * wanted @ text
    assert (gradient - wanted).abs().max() <= 1e-2 * wanted.abs().max()  # bfloat16's own 2^-8
