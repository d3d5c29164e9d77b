"""All-gather of embeddings whose gradient is right under DDP's averaging.

Every rank computes the same loss L on all rows. DDP then averages parameter gradients over the W
ranks, so a rank must send W * dL/d(its own rows) into its towers; the logit scale, which every
rank sees whole, needs no factor. Multiplying the *loss* by W instead (or summing gradients over
ranks, as Inf-CL does) makes the scale's gradient W times too large.
Batches may be ragged. `group=None` gathers nothing; `torch.distributed.group.WORLD` is everybody.
`image_text_loss` itself exchanges less (ops/image_text/distributed.py): this is for other terms.
"""

import torch
import torch.distributed as dist
from jaxtyping import Float, Shaped
from torch import Tensor

from teachers.contract import Embeddings


def world_size(group: dist.ProcessGroup | None) -> int:
    """Return the number of ranks in `group`; None is this process alone."""
    return 1 if group is None else dist.get_world_size(group)


def negatives_group(size: int) -> dist.ProcessGroup:
    """Return this rank's group of `size` neighbours, to be passed as `group`. All ranks call it.

    It changes the loss: negatives come from the group alone, as in M2-Encoder's grouped
    aggregation (arXiv:2401.15896), and the loss is the mean of the groups' own losses. Rows then
    travel within the group only. Gradients stay right under DDP's averaging over all ranks.

    Raises:
        ValueError: the number of ranks is not a multiple of `size`.
    """
    ranks = dist.get_world_size()
    if size < 1 or ranks % size:
        raise ValueError(f"size must divide the {ranks} ranks, got {size}")
    group, _ = dist.new_subgroups(size, group=dist.group.WORLD)
    assert group is not None
    return group


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
    if world_size(group) == 1:
        return embeddings
    image, text = embeddings.image, embeddings.text
    if image.dtype != text.dtype:
        return embeddings._replace(
            image=gather_with_gradient(image, group), text=gather_with_gradient(text, group)
        )
    both = gather_with_gradient(torch.cat([image, text], dim=1), group)
    image, text = both.split([image.shape[1], text.shape[1]], dim=1)
    return embeddings._replace(image=image, text=text)
