"""`impl="triton"` under torch.compile and autocast, and torch's own checks of the operators.

    python tests/gpu/compiled_call.py cuda           # cpu: with TRITON_INTERPRET=1

In a process of its own: jaxtyping's checks, which a test run switches on, cannot be traced.
"""

import itertools
import sys

import torch
import torch.nn.functional as F

from distill.ops import Embeddings, image_text_loss
from distill.ops.image_text.arguments import Options, normal_form
from distill.ops.image_text.operator import Call, _values

DEVICE = sys.argv[1]


def model(n=33, width=16, bias=-3.0):
    rows = [F.normalize(torch.randn(n, width, device=DEVICE)) for _ in range(2)]
    scalars = [torch.tensor(value, device=DEVICE) for value in (20.0, bias)]
    return Embeddings(*(x.requires_grad_() for x in (*rows, *scalars)))


def loss(student, teachers, kind):
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        terms = image_text_loss(student, teachers, kind=kind, impl="triton")
    return terms.contrastive + terms.affinity


def main():
    torch.manual_seed(0)
    for kind, count in itertools.product(("softmax", "sigmoid"), (0, 1)):
        student, teachers = model(), [model(width=5) for _ in range(count)]
        ids = torch.arange(33, device=DEVICE) // 2
        problem = normal_form(student, teachers, Options(kind=kind, positives=ids))
        torch.library.opcheck(_values, (*Call.of(problem, "triton", "", "gather"), True))
        torch._dynamo.reset()
        backend = "inductor" if DEVICE == "cuda" else "aot_eager"
        compiled = torch.compile(loss, fullgraph=True, backend=backend)
        values = [call(student, teachers, kind) for call in (compiled, loss)]
        assert values[0].dtype == torch.float32
        torch.testing.assert_close(*values)
        made = [torch.autograd.grad(x, list(student), materialize_grads=True) for x in values]
        torch.testing.assert_close(*made)


if __name__ == "__main__":
    main()
