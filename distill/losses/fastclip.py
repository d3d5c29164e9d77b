"""FastCLIP: the contrastive loss of the whole data set from small batches (arXiv:2407.01445).

InfoNCE's log sees only the batch. FastCLIP keeps, for every sample, a running mean u of what its
log should see, g_i = mean over negatives j of e^(S_ij - S_ii), and takes the gradient of
log(u + eps): that is `image_text_loss` with `divisors`, plus this bookkeeping.

    u_i  <- (1 - gamma) u_i + gamma g_i       rows (image) and columns (text) each have their own
    gamma   from 1 (the batch's own mean) to its end in a cosine over `gamma_epochs`, by epoch
    L    =  1/2 mean_i [g_i / (u_i + eps) + the column's]         the gradient of mean log(u + eps)

    v0   L                                                       the scale learns from L
    v1   tau L                                                   SogCLR; the scale is fixed
    v3   tau L + tau (mean log(u + eps) + rho)                   RGCL-g; rho keeps tau from 0

tau = 1 / scale; in tau L it has no gradient. u is kept as its logarithm, so no value overflows and
none is reset. Left out: v2 (a temperature per sample, iSogCLR), and a learning rate of tau's own.
"""

import math
from typing import Literal

import torch
import torch.distributed as dist
from jaxtyping import Float, Int64
from torch import Tensor, nn

from distill.ops import Embeddings, image_text_loss, negative_log_sums
from distill.ops.gathering import gather_rows

Version = Literal["v0", "v1", "v3"]


def gamma_at(epoch: int, end: float, epochs: int) -> float:
    """Share of the new value in the running mean: cosine from 1 to `end` over `epochs`."""
    if epoch >= epochs:
        return end
    return 0.5 * (1 + math.cos(math.pi * epoch / epochs)) * (1 - end) + end


class FastCLIPLoss(nn.Module):
    """The loss with its running means, which are in `state_dict` and indexed by sample.

    Args:
        num_samples: size of the data set; 8 bytes are kept of each.
        version: see the module's docstring.
        gamma: where the share of new values ends; the paper's 0.2 for small data, 0.8 for large.
        gamma_epochs: epochs until then; about half of the training.
        rho: how far v3 keeps tau up; the paper's 6.5 to 16, larger for larger data.
        eps: added to u under the log; what the batch can no longer tell from 0.

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
    ) -> None:
        """Start with no sample seen: its first g becomes its u."""
        super().__init__()
        if version not in ("v0", "v1", "v3"):
            raise ValueError(f"version must be v0, v1 or v3, got {version!r}")
        if num_samples < 1 or gamma_epochs < 0:
            raise ValueError("num_samples must be at least 1 and gamma_epochs at least 0")
        if not 0 < gamma <= 1 or eps <= 0:
            raise ValueError(f"gamma must be in (0, 1] and eps above 0, got {gamma} and {eps}")
        self.version, self.gamma, self.gamma_epochs = version, gamma, gamma_epochs
        self.rho, self.eps = rho, eps
        self.register_buffer("log_u", torch.full((2, num_samples), -torch.inf))
        self._before: tuple[Tensor, Tensor] | None = None

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
        *sums, count = negative_log_sums(student, positives=positives, group=group)
        log_g = torch.stack(sums) - count.log()
        # A batch without negatives says nothing about g: -inf keeps what is known.
        log_g = torch.where(count > 0, log_g, -torch.inf)
        log_u = self._update(log_g, samples, epoch, group)
        log_eps = torch.full_like(log_u, math.log(self.eps))
        log_u = torch.logaddexp(log_u, log_eps)
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

    @torch.no_grad()
    def put_back(self) -> None:
        """Undo the last forward's update, as if its step had never been."""
        if self._before is not None:
            samples, known = self._before
            self.log_u[:, samples] = known
            self._before = None

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
