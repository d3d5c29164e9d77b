"""Two and four gloo processes give one process's loss and gradients: gather, ring, ragged, groups.

Every process runs all cases, so that processes are started twice in all.
"""

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from distill.ops import Embeddings, IntraModal, image_text_loss, negatives_group
from distill.testing import in_ranks

N = 11
SPLITS = {2: [8, 3], 4: [4, 1, 3, 3]}
CASES = {
    "hard": {},
    "all arguments": {
        "teacher_weights": [1.0, 3.0],
        "label_smoothing": 0.1,
        "intra_modal": IntraModal(mix=0.4, scale=6.0),
        "positives": True,
        "row_weights": True,
    },
    "mean of logits": {"targets": "mean_logit", "positives": True},
    "divisors": {"divisors": True, "positives": True},
    "sigmoid": {"kind": "sigmoid", "positives": True},
    "hard sigmoid": {"kind": "sigmoid", "teachers": 0},
}


def batch():
    """A student with gradient and two teachers; the second is stored in float32."""
    generator = torch.Generator().manual_seed(0)

    def rows(d, dtype=torch.float64):
        drawn = torch.randn(N, d, generator=generator, dtype=torch.float64)
        return F.normalize(drawn, dim=1).to(dtype)

    scalars = torch.tensor([20.0, -3.0], dtype=torch.float64)
    student = [rows(6), rows(6), *scalars]
    teachers = [
        Embeddings(rows(4), rows(4), *scalars),
        Embeddings(rows(7, torch.float32), rows(7, torch.float32), *scalars),
    ]
    vectors = {
        "positives": torch.arange(N) % 9,
        "row_weights": torch.rand(N, generator=generator, dtype=torch.float64),
        "divisors": (torch.full((N,), 22.0), torch.linspace(21, 23, N)),
    }
    return student, teachers, vectors


def solve(own, group, case, impl, exchange="gather"):
    """Both values and the gradients of all rows (zero where they are another rank's)."""
    student, teachers, vectors = batch()
    leaves = [x.clone().requires_grad_() for x in student]
    arguments = dict(case)
    teachers = teachers[: arguments.pop("teachers", 2)]
    for name, value in vectors.items():
        if name in arguments:
            cut = tuple(x[own] for x in value) if isinstance(value, tuple) else value[own]
            arguments[name] = cut
    terms = image_text_loss(
        Embeddings(leaves[0][own], leaves[1][own], *leaves[2:]),
        [t._replace(image=t.image[own], text=t.text[own]) for t in teachers],
        group=group,
        impl=impl,
        exchange=exchange,
        **arguments,
    )
    loss = 0.7 * terms.contrastive + 1.3 * terms.affinity
    gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
    filled = [
        torch.zeros_like(x) if g is None else g for x, g in zip(leaves, gradients, strict=True)
    ]
    return [x.detach() for x in terms], filled


def averaged(gradients, ranks):
    """What DDP does."""
    for gradient in gradients:
        dist.all_reduce(gradient)
        gradient /= ranks
    return gradients


def work(rank, ranks):
    start = sum(SPLITS[ranks][:rank])
    own, found = slice(start, start + SPLITS[ranks][rank]), {}
    for name, case in CASES.items():
        for impl, exchange in (("tiled", "gather"), ("tiled", "ring"), ("reference", "gather")):
            values, gradients = solve(own, dist.group.WORLD, case, impl, exchange)
            found[name, impl, exchange] = [*values, *averaged(gradients, ranks)]
    group = negatives_group(2)
    values, gradients = solve(own, group, CASES["hard"], "tiled")
    found["groups"] = [*values, *averaged(gradients, ranks)]
    return found


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)])
def found(request):
    return in_ranks(request.param, work, request.param)


@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.parametrize(
    "form", [("tiled", "gather"), ("tiled", "ring"), ("reference", "gather")], ids="-".join
)
def test_processes_equal_one(found, name, form):
    values, gradients = solve(slice(0, N), None, CASES[name], "reference")
    for rank in found:
        for ours, theirs in zip(rank[(name, *form)], [*values, *gradients], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)


def test_groups_are_the_mean_of_their_own_losses(found):
    """M2-Encoder's grouped aggregation: two neighbours share negatives, others do not."""
    splits = SPLITS[len(found)]
    cuts = [sum(splits[:2]), N] if len(found) == 4 else [N]
    total, start = [0.0] * 4, 0
    for stop in cuts:
        values, gradients = solve(slice(start, stop), None, CASES["hard"], "reference")
        total = [a + b / len(cuts) for a, b in zip(total, gradients, strict=True)]
        mine = found[0 if start == 0 else 2]["groups"][0]
        torch.testing.assert_close(mine, values[0])
        start = stop
    for ours, theirs in zip(found[0]["groups"][2:], total, strict=True):
        torch.testing.assert_close(ours, theirs)
