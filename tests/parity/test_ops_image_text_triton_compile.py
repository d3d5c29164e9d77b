"""Every launch of the Triton implementation compiles for a Hopper GPU, which no GPU is needed for.

The interpreter runs what a compiler refuses. Here the host code runs as on a GPU, with a driver
that compiles (ptxas comes with Triton), checks shared memory, and launches nothing. In a process of
its own: the driver is Triton's global.
"""

import json
import os
import subprocess
import sys

import pytest

from distill.ops.image_text.triton_tiling import CANDIDATES, candidates

WORKER = """
import json, sys
import torch
import torch.nn.functional as F
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

class CompilesOnly:
    get_current_device = get_current_stream = lambda *_: 0
    get_current_target = lambda _: GPUTarget("cuda", 90, 32)
    launcher_cls = lambda *_: lambda *_: None
    utils = property(lambda self: self)
    get_device_properties = lambda *_: {"max_shared_mem": 227 * 1024}
    load_binary = lambda *_: (object(), None, 0, 0, 1024)

driver.set_active(CompilesOnly())

from distill.ops import Embeddings
from distill.ops.image_text import triton_problem, triton_sigmoid, triton_softmax
from distill.ops.image_text.arguments import Options, normal_form
from distill.ops.image_text.triton_tiling import CANDIDATES

def model(n, width, dtype):
    rows = (torch.zeros(n, width, dtype=dtype) for _ in range(2))
    return Embeddings(*rows, torch.tensor(10.0), torch.tensor(-10.0))

for dtype, n, widths, candidate, kind, with_ids, with_divisors in json.loads(sys.argv[1]):
    student, *teachers = (model(n, width, getattr(torch, dtype)) for width in widths)
    ids = torch.zeros(n, dtype=torch.int64) if with_ids else None
    divisors = (torch.zeros(n), torch.zeros(n)) if with_divisors else None
    options = Options(kind=kind, positives=ids, divisors=divisors)
    problem, tiling = normal_form(student, teachers, options), CANDIDATES[candidate]
    if kind == "sigmoid" and not teachers:
        triton_problem.one_sweep(problem, tiling)
    else:
        swept = triton_problem.statistics(problem, tiling)
        triton_problem.gradients(problem, swept, torch.ones(()), torch.ones(()), tiling)

report = []
for name, kernel in {**vars(triton_softmax), **vars(triton_sigmoid)}.items():
    if name.endswith("_kernel"):
        for built in kernel.device_caches[0][0].values():
            report.append([name, "wgmma.mma" in built.asm["ptx"], len(built.asm["cubin"])])
print(json.dumps(report))
"""


def compiled(cases, cache):
    """Run every case in one other process; return (kernel, uses wgmma, bytes) of what it built."""
    environment = {**os.environ, "TRITON_CACHE_DIR": str(cache)}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, "-c", WORKER, json.dumps(cases)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout)
    assert all(size > 0 for _, _, size in report)
    return report


@pytest.mark.slow
def test_default_tilings_compile_for_hopper(tmp_path):
    library = next(i for i, tiling in enumerate(CANDIDATES) if tiling.backend == "library")
    cases = [
        ("bfloat16", 256, (512,), 0, "softmax", False, False),
        ("bfloat16", 256, (768,), 0, "sigmoid", False, False),
        ("float32", 256, (384, 48), 0, "softmax", True, True),
    ]
    report = compiled(cases, tmp_path / "fused")
    assert {name for name, _, _ in report} == {
        *("sums_kernel", "gradient_kernel", "online_kernel", "sigmoid_kernel")
    }
    assert all(wgmma for _, wgmma, _ in report), "the tensor cores of Hopper are used"
    cases = [("bfloat16", 256, (768,), library, "sigmoid", False, False)]
    assert not any(wgmma for _, wgmma, _ in compiled(cases, tmp_path / "library"))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("widths", [(512,), (512, 768, 768), (1,)], ids=["512", "three", "1"])
def test_every_candidate_compiles_for_hopper(dtype, widths, tmp_path):
    places = [CANDIDATES.index(tiling) for tiling in candidates(len(widths))]
    kinds = ("softmax", "sigmoid")
    cases = [(dtype, 256, widths, i, kind, False, False) for i in places for kind in kinds]
    compiled(cases, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 7, 257])
def test_ragged_sizes_compile_for_hopper(n, tmp_path):
    """Triton compiles anew for a size of 1 and for sizes that 16 does not divide."""
    cases = [
        ("bfloat16", n, (63, 16), 0, kind, True, kind == "softmax")
        for kind in ("softmax", "sigmoid")
    ]
    compiled(cases, tmp_path)
