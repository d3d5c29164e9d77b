"""A temperature of its own for every image and every text: what FastCLIP v2 learns (iSogCLR).

Robust global contrastive loss (arXiv:2305.11965, arXiv:2407.01445): sample i's row is held at
temperature t_i, its column at another one, and both are learned against rho:

    L = 1/2 mean_i [t_i (log(eps + g_i(t_i)) + rho) + the column's]      t_0 <= t_i <= 1
    dL/dt_i ~ log(eps + u_i) + rho + t_i / (eps + u_i) dg_i/dt_i         u_i: running mean of g_i

No tile knows of it. A row at scale r s is a unit row of a larger width, [r x, sqrt(1 - r^2)]
against [y, 0], so that `image_text_loss` runs as it is, once for rows and once for columns: twice
the work of the other versions. dg_i/dt_i is read off the rows' gradient.

Temperatures are no parameters: a step sees a batch of millions. Each has Adam's two moments
(arXiv:1412.6980) and moves when its sample is seen, by a gradient between -5 and 5, as in the
authors' code; that code divides by Adam's second moment itself, this one by its root.
"""

import torch
import torch.distributed as dist
from jaxtyping import Float, Int64
from torch import Tensor, nn

from distill.ops import Embeddings, image_text_loss
from distill.ops.gathering import gather_rows, world_size

SMALLEST, LARGEST = 0.01, 1.0
_CLAMP = 5.0
_BETAS, _EPS = (0.9, 0.999), 1e-8
# What is added to a row: as wide as keeps 16-bit rows aligned for the tensor cores.
_ADDED = 16


class OwnTemperatures(nn.Module):
    """Temperatures of images and texts by sample, with what their optimizer remembers.

    Args:
        num_samples: size of the data set; 28 bytes are kept of each.
        start: every temperature's first value.
        rate: learning rate.
    """

    state: Tensor

    def __init__(self, num_samples: int, *, start: float, rate: float) -> None:
        """Start with no sample seen."""
        super().__init__()
        if not SMALLEST <= start <= LARGEST or rate <= 0:
            raise ValueError(
                f"temperature must be in [{SMALLEST}, {LARGEST}] and its rate above 0, got {start} "
                f"and {rate}"
            )
        self.rate = rate
        state = torch.zeros(7, num_samples)  # temperatures, moments, squares: 2 each; times seen
        state[:2] = start
        self.register_buffer("state", state)
        self._before: tuple[Tensor, Tensor] | None = None

    def of(self, samples: Int64[Tensor, " n"]) -> Float[Tensor, "2 n"]:
        """Temperatures of images, and of texts."""
        return self.state[:2, samples]

    @torch.no_grad()
    def learn(
        self,
        samples: Int64[Tensor, " n"],
        gradient: Float[Tensor, "2 n"],
        group: dist.ProcessGroup | None,
    ) -> None:
        """Take a step with one's own samples' gradients, on every rank."""
        value, moment, square, seen = self.state[:, samples].split([2, 2, 2, 1])
        gradient, seen = gradient.to(value).clamp(-_CLAMP, _CLAMP), seen + 1
        moment = torch.lerp(gradient, moment, _BETAS[0])
        square = torch.lerp(gradient.square(), square, _BETAS[1])
        corrected = (square / (1 - _BETAS[1] ** seen)).sqrt() + _EPS
        value = value - self.rate * moment / (1 - _BETAS[0] ** seen) / corrected
        moved = torch.cat([value.clamp(SMALLEST, LARGEST), moment, square, seen])
        everybody, theirs = gather_rows(samples, group), gather_rows(moved.T, group)
        self._before = everybody, self.state[:, everybody]
        self.state[:, everybody] = theirs.T

    @torch.no_grad()
    def put_back(self) -> None:
        """Undo the last step."""
        if self._before is not None:
            samples, known = self._before
            self.state[:, samples] = known
            self._before = None


def at_own_scales(
    student: Embeddings, temperatures: Float[Tensor, " n"], *, by_row: bool
) -> Embeddings:
    """The student with every image's logits (by_row), or every text's, at a temperature of its own.

    Rows stay unit rows; they are wider, and `logit_scale` is the largest that there can be.
    """
    shares = (SMALLEST / temperatures).to(student.image)[:, None]
    others = (1 - shares.square()).clamp(min=0).sqrt()
    rest = others.new_zeros(len(others), _ADDED - 1)
    scaled, plain = (student.image, student.text) if by_row else (student.text, student.image)
    scaled = torch.cat([shares * scaled, others, rest], dim=1)
    plain = torch.cat([plain, torch.zeros_like(others), rest], dim=1)
    scale = torch.full_like(student.logit_scale.detach(), 1 / SMALLEST)
    rows = (scaled, plain) if by_row else (plain, scaled)
    return Embeddings(*rows, scale)


def loss_and_push(
    scaled: Embeddings,
    divisors: tuple[Float[Tensor, " n"], Float[Tensor, " n"]],
    *,
    by_row: bool,
    positives: Int64[Tensor, " n"] | None,
    group: dist.ProcessGroup | None,
) -> tuple[Float[Tensor, ""], Float[Tensor, " n"]]:
    """One direction's loss, and what each row's own scale is pushed by.

    The second is the derivative of t_i g_i / (eps + u_i) by the logarithm of i's scale, the factor
    t_i held fast. It is needed before the backward pass, so the loss is differentiated here, once,
    and what is returned carries that gradient.
    """
    rows = scaled.image, scaled.text
    with torch.enable_grad():
        image, text = (part.detach().requires_grad_() for part in rows)
        loss = image_text_loss(
            Embeddings(image, text, scaled.logit_scale),
            positives=positives,
            divisors=divisors,
            group=group,
        ).contrastive
        found = torch.autograd.grad(loss, (image, text))
    total = gather_rows(divisors[0], group).shape[0]
    own = (found[not by_row] * rows[not by_row].detach()).sum(dim=1)
    carried = sum((g * part).sum() for g, part in zip(found, rows, strict=True))
    assert isinstance(carried, Tensor)
    pushed = 2 * total / world_size(group) * own
    return loss.detach() + carried - carried.detach(), pushed
