"""The image-text loss as a torch operator: registrations, compilers, autocast, who is chosen."""

import os
import subprocess
import sys

import torch
import torch.nn.functional as F

from distill.ops import Embeddings, image_text_loss
from distill.ops.image_text.arguments import Options, normal_form
from distill.ops.image_text.sweeps import CPU_CROSSOVER, chosen

# In a process of its own: jaxtyping's checks, which the test run switches on, cannot be traced.
SCRIPT = """
import itertools
import torch
import torch.nn.functional as F
from distill.ops import Embeddings, image_text_loss
from distill.ops.image_text.arguments import Options, normal_form
from distill.ops.image_text.operator import Call, _values

def model(n=33, d=16, seed=0, bias=-3.0):
    generator = torch.Generator().manual_seed(seed)
    rows = F.normalize(torch.randn(2, n, d, generator=generator), dim=2)
    scalars = [torch.tensor(x).requires_grad_() for x in (20.0, bias)]
    return Embeddings(*(part.clone().requires_grad_() for part in rows), *scalars)

for kind, count in itertools.product(("softmax", "sigmoid"), (0, 2)):
    options = Options(kind=kind, positives=torch.arange(33) // 2)
    taught = [model(d=5 + k, seed=7 + k) for k in range(count)]
    call = Call.of(normal_form(model(), taught, options), "tiled", "", "gather")
    torch.library.opcheck(_values, (*call, True))

def loss(student, teacher):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = image_text_loss(student, [teacher], kind=kind, impl="tiled")
    return terms.contrastive + terms.affinity

for kind in ("softmax", "sigmoid"):
    torch._dynamo.reset()
    student, teacher = model(), model(d=5, seed=7)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")(student, teacher)
    plain = loss(student, teacher)
    assert compiled.dtype == torch.float32
    torch.testing.assert_close(compiled, plain)
    pair = [torch.autograd.grad(x, list(student)) for x in (compiled, plain)]
    for ours, theirs in zip(*pair, strict=True):
        torch.testing.assert_close(ours, theirs)
"""


def test_registrations_are_sound_and_compile_without_a_graph_break_under_autocast():
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-3000:]


def model(n=33, d=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows = F.normalize(torch.randn(2, n, d, generator=generator), dim=2)
    return Embeddings(rows[0], rows[1], torch.tensor(20.0))


def test_gradients_come_in_the_rows_own_dtype():
    student = Embeddings(
        *(x.detach().bfloat16().requires_grad_() for x in model()[:2]), torch.tensor(20.0)
    )
    image_text_loss(student, impl="tiled").contrastive.backward()
    assert student.image.grad is not None and student.image.grad.dtype == torch.bfloat16


def test_auto_takes_the_reference_for_few_logits_and_tiles_for_many():
    small = normal_form(model(), [], Options())
    assert chosen("auto", small, grouped=False) == "reference"
    assert chosen("auto", small, grouped=True) == "tiled"
    n = 1 << (CPU_CROSSOVER.bit_length() // 2)
    large = normal_form(model(n=n, d=2), [], Options())
    assert chosen("auto", large, grouped=False) == "tiled"
