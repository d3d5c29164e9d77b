"""Rows of one rank as one buffer, and its ways over a process group: gather, ring, reduce.

Tensors of several dtypes are laid side by side as bytes, so that a step costs one collective.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor


def pack_rows(parts: Sequence[Shaped[Tensor, "n _"]]) -> UInt8[Tensor, "n bytes"]:
    """Lay rows of several tensors side by side."""
    return torch.cat([part.detach().contiguous().view(torch.uint8) for part in parts], dim=1)


def unpack_rows(
    packed: UInt8[Tensor, "n bytes"], like: Sequence[Shaped[Tensor, "m _"]]
) -> list[Tensor]:
    """Undo `pack_rows`; `like` tells widths and dtypes."""
    widths = [part.shape[1] * part.dtype.itemsize for part in like]
    split = packed.split(widths, dim=1)
    # A copy: a single row is contiguous wherever it lies, but not aligned for a wider dtype.
    fresh = (part.clone(memory_format=torch.contiguous_format) for part in split)
    return [part.view(x.dtype) for part, x in zip(fresh, like, strict=True)]


def gather_blocks(
    rows: Shaped[Tensor, "n w"], sizes: Sequence[int], group: dist.ProcessGroup
) -> Shaped[Tensor, "total w"]:
    """Everybody's rows in rank order; `sizes` are the ranks' numbers of rows."""
    longest = max(sizes)
    padded = rows.new_zeros(longest, rows.shape[1])
    padded[: rows.shape[0]] = rows
    gathered = rows.new_empty(len(sizes) * longest, rows.shape[1])
    dist.all_gather_into_tensor(gathered, padded, group=group)
    if min(sizes) == longest:
        return gathered
    blocks = gathered.unflatten(0, (len(sizes), longest))
    return torch.cat([block[:size] for block, size in zip(blocks, sizes, strict=True)])


def reduce_blocks(
    rows: Float[Tensor, "total d"],
    scalars: Float[Tensor, " s"],
    sizes: Sequence[int],
    group: dist.ProcessGroup,
) -> tuple[Float[Tensor, "n d"], Float[Tensor, " s"]]:
    """Sum everybody's `rows` and keep one's own block; sum `scalars` on the way."""
    longest, d = max(sizes), rows.shape[1]
    padded = rows.new_zeros(len(sizes), longest * d + scalars.shape[0])
    for chunk, block in zip(padded, rows.split(list(sizes)), strict=True):
        chunk[: block.numel()] = block.flatten()
    padded[:, longest * d :] = scalars
    mine = padded.new_empty(padded.shape[1])
    dist.reduce_scatter_tensor(mine, padded.flatten(), group=group)
    own = sizes[dist.get_rank(group)]
    return mine[: own * d].view(own, d), mine[longest * d :]


class Passing:
    """A block on its way: `wait` returns what arrived."""

    def __init__(self, arriving: Tensor, works: Sequence[dist.Work], sent: Tensor) -> None:
        """Hold what must stay alive until both transfers are done."""
        self._arriving, self._works, self._sent = arriving, works, sent

    def wait(self) -> Tensor:
        """Wait for both directions."""
        for work in self._works:
            work.wait()
        return self._arriving


class Ring:
    """Blocks move to the previous rank at every step: after W steps each is at home again."""

    def __init__(self, group: dist.ProcessGroup, sizes: Sequence[int]) -> None:
        """Learn the neighbours; `sizes` are the ranks' numbers of rows."""
        self.group, self.sizes, self.ranks = group, sizes, len(sizes)
        self.rank = dist.get_rank(group)
        self._before = dist.get_global_rank(group, (self.rank - 1) % self.ranks)
        self._after = dist.get_global_rank(group, (self.rank + 1) % self.ranks)

    def owner(self, step: int) -> int:
        """Whose block is here at a step."""
        return (self.rank + step) % self.ranks

    def pass_on(self, block: Shaped[Tensor, "n w"], step: int) -> Passing:
        """Send the block of `step` and receive that of the next; returns at once."""
        arriving = block.new_empty(self.sizes[self.owner(step + 1)], block.shape[1])
        block = block.contiguous()
        operations = [
            dist.P2POp(dist.isend, block, self._before, self.group),
            dist.P2POp(dist.irecv, arriving, self._after, self.group),
        ]
        return Passing(arriving, dist.batch_isend_irecv(operations), block)
