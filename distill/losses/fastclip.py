"""FastCLIP: the contrastive loss of the whole data set from small batches (arXiv:2407.01445).

InfoNCE's log sees only the batch. FastCLIP keeps, for every sample, a running mean u of what its
log should see, g_i = mean over negatives j of e^(S_ij - S_ii), and takes the gradient of
log(u + eps): that is `image_text_loss` with `divisors`, plus this bookkeeping.

    u_i  <- (1 - gamma) u_i + gamma g_i       rows (image) and columns (text) each have their own
    gamma   from 1 (the batch's own mean) to its end in a cosine over `gamma_epochs`, by epoch
    L    =  1/2 mean_i [g_i / (u_i + eps) + the column's]         the gradient of mean log(u + eps)

    v0   L                                                       the scale learns from L
    v1   tau L                                                   SogCLR; the scale is fixed
    v2   tau_i beside g_i, each sample's own, learned apart      RGCL, `own_temperatures.py`
    v3   tau L + tau (mean log(u + eps) + rho)                   RGCL-g; rho keeps tau from 0

tau = 1 / scale; in tau L it has no gradient. u is kept as its logarithm, so no value overflows and
none is reset. Left out: a learning rate of v3's tau, and the published code's v2, whose rows lack
the factor tau_i that the paper's have.
"""

import math
from typing import Literal, get_args

import torch
import torch.distributed as dist
from jaxtyping import Float, Int64
from torch import Tensor, nn

from distill.losses.own_temperatures import OwnTemperatures, at_own_scales, loss_and_push
from distill.ops import Embeddings, image_text_loss, negative_log_sums
from distill.ops.gathering import gather_rows

Version = Literal["v0", "v1", "v2", "v3"]


def gamma_at(epoch: int, end: float, epochs: int) -> float:
    """Share of the new value in the running mean: cosine from 1 to `end` over `epochs`."""
    if epoch >= epochs:
        return end
    return 0.5 * (1 + math.cos(math.pi * epoch / epochs)) * (1 - end) + end


class FastCLIPLoss(nn.Module):
    """The loss with its running means, which are in `state_dict` and indexed by sample.

    Args:
        num_samples: size of the data set; 8 bytes are kept of each, 36 for v2.
        version: see the module's docstring.
        gamma: where the share of new values ends; the paper's 0.2 for small data, 0.8 for large.
        gamma_epochs: epochs until then; about half of the training.
        rho: how far v2 and v3 keep tau up; the paper's 6.5 to 16, larger for larger data.
        eps: added to u under the log; what the batch can no longer tell from 0.
        temperature: where v2's temperatures start.
        temperature_lr: v2's rate for them.

    Raises:
        ValueError: names the argument and what was expected.
    """

    log_u: Tensor

    def __init__(
        self,
        num_samples: int,
        *,
        version: Version = "v3",
        gamma: float = 0.2,
        gamma_epochs: int = 18,
        rho: float = 6.5,
        eps: float = 1e-14,
        temperature: float = 0.03,
        temperature_lr: float = 0.0133,
    ) -> None:
        """Start with no sample seen: its first g becomes its u."""
        super().__init__()
        if version not in get_args(Version):
            raise ValueError(f"version must be one of {get_args(Version)}, got {version!r}")
        if num_samples < 1 or gamma_epochs < 0:
            raise ValueError("num_samples must be at least 1 and gamma_epochs at least 0")
        if not 0 < gamma <= 1 or eps <= 0:
            raise ValueError(f"gamma must be in (0, 1] and eps above 0, got {gamma} and {eps}")
        self.version, self.gamma, self.gamma_epochs = version, gamma, gamma_epochs
        self.rho, self.eps = rho, eps
        self.register_buffer("log_u", torch.full((2, num_samples), -torch.inf))
        self._before: tuple[Tensor, Tensor] | None = None
        self.own = None
        if version == "v2":
            self.own = OwnTemperatures(num_samples, start=temperature, rate=temperature_lr)

    def forward(
        self,
        student: Embeddings,
        samples: Int64[Tensor, " n"],
        *,
        epoch: int,
        positives: Int64[Tensor, " n"] | None = None,
        group: dist.ProcessGroup | None = None,
    ) -> Float[Tensor, ""]:
        """Update the running means of `samples`, and return the loss.

        `samples` are the rows' numbers in the data set, 0 to num_samples - 1, the same in every
        epoch. `group` as in `image_text_loss`; every rank then updates everybody's samples. The
        value is not InfoNCE's: only its gradient means something (v0, v1).
        """
        if self.own is not None:
            return self._with_own_temperatures(self.own, student, samples, epoch, positives, group)
        *sums, count = negative_log_sums(student, positives=positives, group=group)
        log_u = self._means(torch.stack(sums), count, samples, epoch, group)
        if self.version == "v1":
            student = student._replace(logit_scale=student.logit_scale.detach())
        divisors = log_u + count.clamp(min=1).log()
        loss = image_text_loss(
            student, positives=positives, divisors=(divisors[0], divisors[1]), group=group
        ).contrastive
        if self.version == "v0":
            return loss
        loss = loss / student.logit_scale.detach()
        if self.version == "v1":
            return loss
        return loss + (gather_rows(log_u.T, group).mean() + self.rho) / student.logit_scale

    def _with_own_temperatures(
        self,
        own: OwnTemperatures,
        student: Embeddings,
        samples: Int64[Tensor, " n"],
        epoch: int,
        positives: Int64[Tensor, " n"] | None,
        group: dist.ProcessGroup | None,
    ) -> Float[Tensor, ""]:
        """v2: rows at their temperatures, then columns at theirs; the temperatures learn here."""
        tau = own.of(samples)
        sides = [at_own_scales(student, tau[k], by_row=k == 0) for k in (0, 1)]
        found = [negative_log_sums(side, positives=positives, group=group) for side in sides]
        count, tau = found[0][2], tau.to(found[0][0])
        log_u = self._means(torch.stack([found[0][0], found[1][1]]), count, samples, epoch, group)
        divisors = log_u + count.clamp(min=1).log() - tau.log()
        nothing = torch.full_like(count, 1e30)  # the other direction's divisor: e^-1e30 is 0
        loss, pushed = torch.zeros_like(student.logit_scale), list[Tensor]()
        for k, side in enumerate(sides):
            pair = (divisors[0], nothing) if k == 0 else (nothing, divisors[1])
            value, push = loss_and_push(side, pair, by_row=k == 0, positives=positives, group=group)
            loss = loss + value
            pushed.append(push)
        # dL/dtau_i, up to the number of samples: the scale is 1 / tau.
        own.learn(samples, log_u + self.rho - torch.stack(pushed) / tau, group)
        return loss + gather_rows((tau * (log_u + self.rho)).T, group).mean()

    @torch.no_grad()
    def put_back(self) -> None:
        """Undo the last forward's update, as if its step had never been."""
        if self.own is not None:
            self.own.put_back()
        if self._before is not None:
            samples, known = self._before
            self.log_u[:, samples] = known
            self._before = None

    def _means(
        self,
        sums: Float[Tensor, "2 n"],
        count: Float[Tensor, " n"],
        samples: Int64[Tensor, " n"],
        epoch: int,
        group: dist.ProcessGroup | None,
    ) -> Float[Tensor, "2 n"]:
        """Update the running means with a batch's log-sums over so many negatives: log(u + eps)."""
        # A batch without negatives says nothing about g: -inf keeps what is known.
        log_g = torch.where(count > 0, sums - count.log(), -torch.inf)
        log_u = self._update(log_g, samples, epoch, group)
        return torch.logaddexp(log_u, torch.full_like(log_u, math.log(self.eps)))

    @torch.no_grad()
    def _update(
        self,
        log_g: Float[Tensor, "2 n"],
        samples: Int64[Tensor, " n"],
        epoch: int,
        group: dist.ProcessGroup | None,
    ) -> Float[Tensor, "2 n"]:
        """Move the running means of these samples, on every rank; return those of one's own."""
        known, gamma = (
            self.log_u[:, samples].to(log_g),
            gamma_at(epoch, self.gamma, self.gamma_epochs),
        )
        log_gamma = torch.full_like(known, gamma).log()
        kept = torch.full_like(known, 1 - gamma).log() + known
        moved = torch.where(known.isneginf(), log_g, torch.logaddexp(kept, log_gamma + log_g))
        everybody, theirs = gather_rows(samples, group), gather_rows(moved.T, group)
        self._before = everybody, self.log_u[:, everybody]
        self.log_u[:, everybody] = theirs.T.to(self.log_u)
        return moved
