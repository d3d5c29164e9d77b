"""FastCLIP against its equations, in float64: gradients, running means, the saved state."""

import math

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from distill.losses import FastCLIPLoss
from distill.losses.fastclip import gamma_at
from distill.ops import Embeddings
from distill.testing import in_ranks

N = 9


def model(n=N, d=8, seed=0, scale=6.0):
    generator = torch.Generator().manual_seed(seed)
    rows = F.normalize(torch.randn(2, n, d, generator=generator, dtype=torch.float64), dim=2)
    scalar = torch.tensor(scale, dtype=torch.float64)
    return Embeddings(*(x.clone().requires_grad_() for x in (rows[0], rows[1], scalar)))


def means(student):
    """g of rows and of columns, as the paper writes them."""
    s = student.logit_scale * student.image @ student.text.T
    e = (s - s.diagonal()[:, None]).exp().masked_fill(torch.eye(len(s)).bool(), 0.0)
    f = (s - s.diagonal()[None, :]).exp().masked_fill(torch.eye(len(s)).bool(), 0.0)
    return e.sum(1) / (len(s) - 1), f.sum(0) / (len(s) - 1)


def gradients(loss, student):
    return torch.autograd.grad(loss, list(student[:3]), allow_unused=True, retain_graph=True)


def assert_same(ours, theirs):
    for mine, other in zip(ours, theirs, strict=True):
        if mine is None or other is None:
            assert mine is None and other is None
        else:
            torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-12)


def test_with_gamma_1_it_is_the_batchs_own_log():
    student, samples = model(), torch.arange(N)
    ours = FastCLIPLoss(N, version="v0").double()(student, samples, epoch=0)
    rows, columns = means(student)
    theirs = (rows.log().mean() + columns.log().mean()) / 2
    assert_same(gradients(ours, student), gradients(theirs, student))


@pytest.mark.parametrize("version", ["v0", "v1", "v3"])
def test_divides_by_running_means(version):
    samples = torch.arange(N).flip(0)
    loss = FastCLIPLoss(N, version=version, gamma=0.3, gamma_epochs=0, rho=7.0, eps=1e-3).double()
    first, student = model(seed=4), model()
    loss(first, samples, epoch=0)
    ours = loss(student, samples, epoch=0)
    old, new = means(first), means(student)
    running = [0.7 * a.detach() + 0.3 * b.detach() for a, b in zip(old, new, strict=True)]
    torch.testing.assert_close(loss.log_u[:, samples].exp(), torch.stack(running))
    a = student.logit_scale
    if version == "v1":
        new = means(student._replace(logit_scale=a.detach()))
    theirs = sum((g / (u + 1e-3)).mean() for g, u in zip(new, running, strict=True)) / 2
    if version != "v0":
        theirs = theirs / a.detach()
    if version == "v3":
        logs = sum((u + 1e-3).log().mean() for u in running) / 2
        theirs = theirs + (7.0 + logs) / a
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=0)
    assert_same(gradients(ours, student), gradients(theirs, student))


def test_gamma_falls_in_a_cosine_and_stays():
    values = [gamma_at(epoch, 0.2, 4) for epoch in range(7)]
    half = 0.5 * (1 + math.cos(math.pi / 4)) * 0.8 + 0.2
    assert values[0] == 1 and values[4:] == [0.2] * 3
    assert abs(values[1] - half) < 1e-12 and abs(values[2] - 0.6) < 1e-12


def test_means_approach_those_of_the_whole_data_set():
    """Small batches of a fixed model: u nears the mean over all negatives, batch means do not."""
    torch.manual_seed(0)
    student, loss = model(n=64, scale=3.0), FastCLIPLoss(64, gamma=0.1, gamma_epochs=0).double()
    for _ in range(300):
        own = torch.randperm(64)[:8]
        batch = Embeddings(student.image[own], student.text[own], student.logit_scale)
        loss(batch, own, epoch=1)
    truth = torch.stack(means(student)).detach()
    error = (loss.log_u.exp() / truth - 1).abs().mean()
    one = torch.stack(means(Embeddings(student.image[own], student.text[own], student.logit_scale)))
    error_of_one = (one.detach() / truth[:, own] - 1).abs().mean()
    assert error < error_of_one / 2


def test_state_is_saved_and_only_seen_samples_change():
    loss = FastCLIPLoss(20).double()
    loss(model(), torch.arange(N) + 5, epoch=3)
    assert loss.log_u[:, 5:14].isfinite().all()
    assert loss.log_u[:, :5].isneginf().all() and loss.log_u[:, 14:].isneginf().all()
    again = FastCLIPLoss(20).double()
    again.load_state_dict(loss.state_dict())
    samples = torch.arange(N) + 8
    torch.testing.assert_close(
        *(x(model(seed=2), samples, epoch=9) for x in (loss, again)), rtol=0, atol=0
    )


def work(rank):
    return solve(slice(0, 5) if rank == 0 else slice(5, N), dist.group.WORLD)


def solve(own, group):
    loss, student = FastCLIPLoss(N, gamma_epochs=0).double(), model()
    loss(
        model(seed=4)._replace(**cut(model(seed=4), own)),
        torch.arange(N)[own],
        epoch=0,
        group=group,
    )
    value = loss(student._replace(**cut(student, own)), torch.arange(N)[own], epoch=0, group=group)
    found = torch.autograd.grad(value, list(student[:3]))
    if group is not None:
        for gradient in found:
            dist.all_reduce(gradient)
            gradient /= 2
    return [value.detach(), *found, loss.log_u]


def cut(student, own):
    return {"image": student.image[own], "text": student.text[own]}


def test_two_processes_equal_one():
    for found in in_ranks(2, work):
        for ours, theirs in zip(found, solve(slice(0, N), None), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"gamma": 0.0}, "gamma must be"), ({"num_samples": 0}, "num_samples must be")],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        FastCLIPLoss(**{"num_samples": 4, **arguments})
