"""Two and four gloo processes give the loss and gradients of one, ragged batches included."""

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from distill.objective import Objective
from distill.ops import Embeddings
from distill.testing import in_ranks

N, IN = 11, 6
SPLITS = {1: [11], 2: [8, 3], 4: [4, 1, 3, 3]}


def problem():
    """Two linear towers, a scale, two teachers and one of images; captions 0 and 5 are equal."""
    g = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    unit = lambda x: F.normalize(x, dim=1)  # noqa: E731
    ids = torch.arange(N)
    ids[5] = ids[0]
    teachers = [
        (unit(draw(N, 4)), unit(draw(N, 4)), 30.0),
        (unit(draw(N, 7)), unit(draw(N, 7)), 12.0),
        (unit(draw(N, 6)), draw(N, 0), 1.0),
    ]
    return draw(N, IN), draw(N, IN), draw(IN, 5), draw(IN, 5), ids, teachers


def loss_and_gradients(rank, ranks):
    x, y, image_weight, text_weight, ids, teachers = problem()
    start = sum(SPLITS[ranks][:rank])
    own = slice(start, start + SPLITS[ranks][rank])
    leaves = [
        image_weight.requires_grad_(),
        text_weight.requires_grad_(),
        torch.tensor(2.0, dtype=torch.float64, requires_grad=True),
    ]
    student = Embeddings(
        F.normalize(x[own] @ leaves[0], dim=1),
        F.normalize(y[own] @ leaves[1], dim=1),
        leaves[2].exp(),
    )
    taught = [
        Embeddings(u[own], v[own], torch.tensor(s, dtype=torch.float64)) for u, v, s in teachers
    ]
    torch.manual_seed(0)
    objective = Objective(
        contrastive=0.3,
        affinity=0.7,
        feature=4.0,
        interactive=0.5,
        relational=2.0,
        teacher_scale=0.3,
        feature_teacher_dropping=0.5,
    )
    module = objective.build(5, [4, 7, (6, 0)]).double()
    group = dist.group.WORLD if ranks > 1 else None
    total = module(student, taught, ids[own], group, seed=3)["total"]
    leaves += list(module.parameters())
    gradients = list(torch.autograd.grad(total, leaves))
    if ranks > 1:  # what DDP does
        for gradient in gradients:
            dist.all_reduce(gradient)
            gradient /= ranks
    return [total.detach(), *gradients]


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_equal_one_process(ranks):
    expected = loss_and_gradients(0, 1)
    for values in in_ranks(ranks, loss_and_gradients, ranks):
        for value, truth in zip(values, expected, strict=True):
            torch.testing.assert_close(value, truth, rtol=0, atol=1e-12)
