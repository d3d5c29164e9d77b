"""Every Triton kernel compiles for a Hopper GPU, which no GPU is needed for.

The interpreter runs what a compiler refuses; ptxas, which comes with Triton, does not. In a process
of its own: elsewhere TRITON_INTERPRET may be set.
"""

import json
import os
import subprocess
import sys

import pytest

from distill.ops.image_text.triton_tiling import CANDIDATES, ONLINE

SHARED_BYTES = 227 * 1024  # of one Hopper multiprocessor, as one block may have them

WORKER = """
import json, sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from distill.ops.image_text import triton_sigmoid, triton_softmax

KERNELS = {**vars(triton_softmax), **vars(triton_sigmoid)}
TYPES = {"row_ids": "i64", "column_ids": "i64", "unsafe": "i32", "flag": "i32"}
INTEGERS = ("M", "N", "stride", "row_stride", "column_stride", "diagonal")
ALIGNED = [["tt.divisibility", 16]]


def source(kernel, dtype, constants):
    # The kernel's signature as a launch would specialise it: every pointer 16-byte aligned.
    signature, constexprs, attributes = {}, {}, {}
    count = len(constants["WIDTHS"])
    rows = "fp32" if constants.get("LIBRARY") else dtype
    for place, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name], constexprs[name] = "constexpr", constants[name]
        elif name in ("lefts", "rights"):
            signature[name] = (f"*{rows}",) * count
            attributes |= {(place, k): ALIGNED for k in range(count)}
        elif name in INTEGERS:
            signature[name] = "i32"
        else:
            half = name == "gradient" and dtype != "fp32"
            signature[name] = "*" + ("fp16" if half else TYPES.get(name, "fp32"))
            attributes[(place,)] = ALIGNED
    return ASTSource(kernel, signature, constexprs=constexprs, attrs=attributes)


report = []
for name, dtype, constants, warps, stages in json.loads(sys.argv[1]):
    constants["WIDTHS"] = tuple(constants["WIDTHS"])
    built = triton.compile(
        source(KERNELS[name], dtype, constants),
        target=GPUTarget("cuda", 90, 32),
        options={"num_warps": warps, "num_stages": stages},
    )
    report.append({"shared": built.metadata.shared, "wgmma": "wgmma.mma" in built.asm["ptx"],
                   "cubin": len(built.asm["cubin"])})
print(json.dumps(report))
"""


def compile_all(builds, cache):
    """Compile in one other process; return shared memory, use of wgmma and size of each."""
    environment = {**os.environ, "TRITON_CACHE_DIR": str(cache)}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, "-c", WORKER, json.dumps(builds)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def constants(kernel, widths, tiling, element_bytes, **chosen):
    """A kernel's compile-time arguments; with diagonal positives unless chosen."""
    made = {
        "WIDTHS": widths,
        "PRECISION": "tf32x3",
        "BLOCK_M": tiling.block_m,
        "BLOCK_N": tiling.block_n,
        "BLOCK_K": tiling.block_bytes // element_bytes,
    }
    flags = {"IDS": False, "NEGATIVES": False}
    if kernel == "online_kernel":
        return {**made, **flags, "SLOT": len(widths) - 1, **chosen}
    if kernel == "sigmoid_kernel":
        flags = {"IDS": False, "VALUES": True, "GRADIENT": True}
    flags |= {"LIBRARY": tiling.backend == "library", "GROUP": tiling.group}
    return {**made, **flags, **chosen}


def build(kernel, dtype, widths, tiling, **chosen):
    size = 4 if dtype == "fp32" else 2
    made = constants(kernel, widths, tiling, size, **chosen)
    return [kernel, dtype, made, tiling.num_warps, tiling.num_stages]


def check(builds, cache):
    for built, found in zip(builds, compile_all(builds, cache), strict=True):
        assert found["cubin"] > 0
        assert found["shared"] <= SHARED_BYTES, built
        # The tensor cores of Hopper are used, or there is no product in the kernel.
        assert found["wgmma"] != built[2].get("LIBRARY", False), built


def test_default_tiling_compiles_for_hopper(tmp_path):
    first = CANDIDATES[0]
    library = next(tiling for tiling in CANDIDATES if tiling.backend == "library")
    builds = [
        build("sums_kernel", "bf16", (512, 768), first),
        build("gradient_kernel", "bf16", (512, 768), first, IDS=True, NEGATIVES=True),
        build("sigmoid_kernel", "bf16", (768,), first),
        build("sums_kernel", "fp32", (384,), first, IDS=True, NEGATIVES=True),
        build("online_kernel", "fp16", (64, 64), ONLINE, IDS=True),
        build("gradient_kernel", "bf16", (512, 768), library),
    ]
    check(builds, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("widths", [(512,), (512, 768, 768), (1,)])
def test_every_candidate_compiles_for_hopper(dtype, widths, tmp_path):
    kernels = ("sums_kernel", "gradient_kernel", "sigmoid_kernel")
    builds = [build(kernel, dtype, widths, tiling) for kernel in kernels for tiling in CANDIDATES]
    check(builds, tmp_path)
