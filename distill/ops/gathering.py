"""All-gather of embeddings whose gradient is right under DDP's averaging.

Every rank computes the same loss L on all rows. DDP then averages parameter gradients over the W
ranks, so a rank must send W * dL/d(its own rows) into its towers; the logit scale, which every
rank sees whole, needs no factor. Multiplying the *loss* by W instead (or summing gradients over
ranks, as Inf-CL does) makes the scale's gradient W times too large.
Batches may be ragged. `group=None` gathers nothing; `torch.distributed.group.WORLD` is everybody.
Leaves out the ring form.
"""

import torch
import torch.distributed as dist
from jaxtyping import Float, Shaped
from torch import Tensor

from teachers.contract import Embeddings


def world_size(group: dist.ProcessGroup | None) -> int:
    """Return the number of ranks in `group`; None is this process alone."""
    return 1 if group is None else dist.get_world_size(group)


def gather_rows(
    rows: Shaped[Tensor, "n ..."], group: dist.ProcessGroup | None = None
) -> Shaped[Tensor, "total ..."]:
    """Concatenate every rank's rows in rank order, without gradient; ranks may differ in n."""
    if world_size(group) == 1:
        return rows
    ranks = world_size(group)
    count = torch.tensor([rows.shape[0]], device=rows.device)
    counts = [torch.zeros_like(count) for _ in range(ranks)]
    dist.all_gather(counts, count, group=group)
    sizes = [int(c) for c in counts]
    padded = rows.new_zeros(max(sizes), *rows.shape[1:])
    padded[: rows.shape[0]] = rows.detach()
    chunks = [torch.empty_like(padded) for _ in range(ranks)]
    dist.all_gather(chunks, padded, group=group)
    return torch.cat([chunk[:size] for chunk, size in zip(chunks, sizes, strict=True)])


class _GatherWithGradient(torch.autograd.Function):
    """Forward: `gather_rows`. Backward: the own rows' gradient, times the number of ranks."""

    @staticmethod
    def forward(ctx, rows: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        gathered = gather_rows(rows, group)
        before = gather_rows(torch.tensor([rows.shape[0]], device=rows.device), group)
        rank = dist.get_rank(group)
        ctx.start, ctx.rows = int(before[:rank].sum()), rows.shape[0]
        ctx.ranks = world_size(group)
        return gathered

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, None]:
        own = gradients[0][ctx.start : ctx.start + ctx.rows]
        return own * ctx.ranks, None


def gather_with_gradient(
    rows: Float[Tensor, "n d"], group: dist.ProcessGroup | None = None
) -> Float[Tensor, "total d"]:
    """`gather_rows` for a tensor that needs a gradient (see the module's docstring)."""
    if world_size(group) == 1:
        return rows
    gathered = _GatherWithGradient.apply(rows, group)
    assert isinstance(gathered, Tensor)
    return gathered


def gather_embeddings(embeddings: Embeddings, group: dist.ProcessGroup | None = None) -> Embeddings:
    """Gather a model's rows over all ranks; scale and bias are already the same everywhere."""
    return embeddings._replace(
        image=gather_with_gradient(embeddings.image, group),
        text=gather_with_gradient(embeddings.text, group),
    )
