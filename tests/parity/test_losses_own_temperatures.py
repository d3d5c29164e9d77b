"""FastCLIP v2 against the paper's objective (RGCL), differentiated by autograd in float64."""

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from distill.losses import FastCLIPLoss
from distill.losses.own_temperatures import at_own_scales
from distill.ops import Embeddings
from distill.testing import in_ranks

N, RHO = 9, 1.5
IDS = torch.tensor([0, 1, 2, 3, 4, 1, 6, 7, 2])


def model(seed=0, dtype=torch.float64, scale=6.0):
    draw = torch.Generator().manual_seed(seed)
    rows = F.normalize(torch.randn(2, N, 8, generator=draw, dtype=torch.float64), dim=2)
    scale = torch.tensor(scale, dtype=dtype)
    return Embeddings(*(x.to(dtype).requires_grad_() for x in (rows[0], rows[1], scale)))


def means(student, tau, ids=None):
    """g of rows and of columns at every sample's own temperature: (2, n)."""
    same = torch.eye(N).bool() if ids is None else ids[:, None] == ids[None]
    cosines = student.image @ student.text.T
    found = []
    for c, t in ((cosines, tau[0]), (cosines.T, tau[1])):
        own = (c * same).sum(1) / same.sum(1)
        e = ((c - own[:, None]) / t[:, None]).exp().masked_fill(same, 0.0)
        found.append(e.sum(1) / (~same).sum(1).clamp(min=1))
    return torch.stack(found)


def v2(**changes) -> FastCLIPLoss:
    settings = {"rho": RHO, "eps": 1e-9, "temperature": 0.25, "temperature_lr": 0.02}
    loss = FastCLIPLoss(N, version="v2", **(settings | changes)).double()
    assert loss.own is not None
    return loss


@pytest.mark.parametrize("ids", [None, IDS])
def test_gradients_and_temperatures_are_those_of_the_papers_objective(ids):
    """gamma 1: u is g, and autograd goes through all of it; torch's Adam moves the temperatures."""
    loss, samples = v2(), torch.arange(N).flip(0)
    tau = torch.full((2, N), 0.25, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([tau], lr=0.02)
    for step in range(4):
        student = model(seed=step)
        assert loss.own is not None
        torch.testing.assert_close(loss.own.of(samples), tau.detach(), rtol=1e-9, atol=1e-12)
        ours = loss(student, samples, epoch=0, positives=ids)
        theirs = (tau * ((means(student, tau, ids) + 1e-9).log() + RHO)).mean()
        rows = [student.image, student.text]
        *wanted, by_tau = torch.autograd.grad(theirs, [*rows, tau])
        for mine, other in zip(torch.autograd.grad(ours, rows), wanted, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-11)
        tau.grad = (2 * N * by_tau).clamp(-5, 5)
        adam.step()
        with torch.no_grad():
            tau.clamp_(0.01, 1.0)
    assert tau.detach().max() - tau.detach().min() > 5e-3


def test_it_divides_by_running_means():
    loss, samples = v2(gamma=0.3, gamma_epochs=0), torch.arange(N)
    assert loss.own is not None
    first, student, tau = model(seed=4), model(), torch.full((2, N), 0.25, dtype=torch.float64)
    loss(first, samples, epoch=0)
    moved = loss.own.of(samples).clone()
    ours = loss(student, samples, epoch=0)
    running = 0.7 * means(first, tau).detach() + 0.3 * means(student, moved).detach()
    torch.testing.assert_close(loss.log_u.exp(), running)
    theirs = (moved * means(student, moved) / (running + 1e-9)).mean()
    rows = [student.image, student.text]
    for mine, other in zip(
        torch.autograd.grad(ours, rows), torch.autograd.grad(theirs, rows), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-11)


def test_one_temperature_for_all_is_v3_without_its_own_gradient():
    samples, student = torch.arange(N), model(scale=8.0)
    own = v2(temperature=0.125, eps=1e-14)(student, samples, epoch=0)
    shared = FastCLIPLoss(N, version="v3", rho=RHO).double()(student, samples, epoch=0)
    torch.testing.assert_close(own, shared, rtol=1e-9, atol=0)
    rows = [student.image, student.text]
    for mine, other in zip(
        torch.autograd.grad(own, rows), torch.autograd.grad(shared, rows), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-11)


def test_only_seen_samples_move_and_a_step_can_be_undone():
    loss = FastCLIPLoss(20, version="v2").double()
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    loss(model(), torch.arange(N) + 5, epoch=3)
    moved = (loss.state_dict()["own.state"] != before["own.state"]).any(0)
    assert moved[5:14].all() and not moved[:5].any() and not moved[14:].any()
    loss.put_back()
    assert all(torch.equal(value, before[name]) for name, value in loss.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_stay_unit_rows_whose_logits_are_their_own(dtype):
    student, tau = model(dtype=dtype), torch.linspace(0.01, 1.0, N)
    wide = at_own_scales(student, tau, by_row=False)
    assert wide.image.dtype == dtype and wide.image.shape[1] % 8 == 0
    single = dtype == torch.float32
    torch.testing.assert_close(
        wide.text.double().norm(dim=1),
        torch.ones(N).double(),
        rtol=0,
        atol=1e-6 if single else 8e-3,
    )
    exact = student.image.double() @ student.text.double().T / tau.double()
    ours = wide.logit_scale.double() * wide.image.double() @ wide.text.double().T
    torch.testing.assert_close(
        ours, exact, rtol=1e-5 if single else 2e-2, atol=1e-4 if single else 0.3
    )


def work(rank):
    return solve(slice(0, 5) if rank == 0 else slice(5, N), dist.group.WORLD)


def solve(own, group):
    loss, found = v2(gamma_epochs=0), [torch.zeros(())]
    for seed in (4, 0):
        student = model(seed)
        share = student._replace(image=student.image[own], text=student.text[own])
        ids = {"positives": IDS[own], "group": group}
        value = loss(share, torch.arange(N)[own], epoch=0, **ids)
        found = [value.detach(), *torch.autograd.grad(value, [student.image, student.text])]
    if group is not None:
        for gradient in found[1:]:
            dist.all_reduce(gradient)
            gradient /= 2
    return [*found, *loss.buffers()]


def test_two_processes_with_ragged_shares_equal_one():
    for found in in_ranks(2, work):
        for ours, theirs in zip(found, solve(slice(0, N), None), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)


def test_a_start_outside_of_what_is_allowed_is_named():
    with pytest.raises(ValueError, match=r"temperature must be in \[0.01, 1.0\]"):
        FastCLIPLoss(4, version="v2", temperature=0.0)
