"""The image-text loss over the rows of several ranks, none of which computes it whole.

Each rank owns a strip of the logit matrix: its images against everybody's texts. Two forms:

    gather   texts (and the sources' right rows) of all ranks on every rank; one strip at once
    ring     texts travel from rank to rank in blocks, with the statistics and the gradient of
             their columns; no rank holds more than two blocks

Batches may be ragged. Gradients are right under DDP's averaging over W ranks: a rank's rows get
W * dL/d(row), the scale and the bias, which every rank sees whole, get dL/d(scale). Only a few
numbers a row are exchanged beside the rows: ids, weights, statistics. Sizes of ragged batches must
be known on the host, which is the one synchronisation here.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from distill.ops.image_text.arguments import count_positives
from distill.ops.image_text.blocks import Ring, gather_blocks, pack_rows, reduce_blocks, unpack_rows
from distill.ops.image_text.problem import (
    Gradients,
    Problem,
    Statistics,
    merge,
    pack,
    terms,
    unpack,
)
from distill.ops.image_text.sweeps import Sweeps


class _Everybody(NamedTuple):
    """What every rank knows of all rows: one number each."""

    sizes: list[int]
    rank: int
    share: Float[Tensor, " total"]
    ids: Tensor | None
    positives: Float[Tensor, " total"]
    column_divisor: Tensor | None

    def columns(self, rank: int | None) -> slice:
        """Where a rank's rows lie in the whole batch; None is everybody's."""
        if rank is None:
            return slice(0, sum(self.sizes))
        return slice(sum(self.sizes[:rank]), sum(self.sizes[: rank + 1]))


def values(
    problem: Problem, sweeps: Sweeps, group: dist.ProcessGroup, exchange: str
) -> tuple[tuple[Tensor, Tensor], Statistics]:
    """Both values, equal on every rank, and the statistics of one's own rows and columns."""
    everybody = _meet(problem, group)
    own = _block(problem, everybody, everybody.rank, _right(problem))
    if exchange == "ring":
        found = _ring_statistics(problem, everybody, sweeps, group)
    else:
        found = _gather_statistics(problem, everybody, sweeps, group)
    total = torch.stack(terms(own, found))
    dist.all_reduce(total, group=group)
    return (total[0], total[1]), found


def gradients(
    problem: Problem,
    statistics: Statistics,
    grads: tuple[Tensor, Tensor],
    sweeps: Sweeps,
    group: dist.ProcessGroup,
    exchange: str,
) -> Gradients:
    """Gradients of one's own rows, times the number of ranks, and of scale and bias."""
    everybody = _meet(problem, group)
    form = _ring_gradients if exchange == "ring" else _gather_gradients
    found = form(problem, everybody, statistics, grads, sweeps, group)
    ranks = len(everybody.sizes)
    return found._replace(image=found.image * ranks, text=found.text * ranks)


def _meet(problem: Problem, group: dist.ProcessGroup) -> _Everybody:
    """Exchange sizes, then ids, weights and divisors, as one matrix of 8-byte numbers."""
    share, device = problem.row_share, problem.image.device
    counts = torch.empty(dist.get_world_size(group), dtype=torch.int64, device=device)
    count = torch.tensor([problem.image.shape[0]], device=device)
    dist.all_gather_into_tensor(counts, count, group=group)
    sizes = counts.tolist()
    ids = torch.zeros_like(share, dtype=torch.int64) if problem.row_ids is None else problem.row_ids
    divisor = share if problem.column_divisor is None else problem.column_divisor
    numbers = torch.stack([share.double(), divisor.double()]).view(torch.int64)
    mine = torch.cat([numbers, ids[None]]).T.contiguous()
    shares, divisors, all_ids = gather_blocks(mine, sizes, group).T.contiguous()
    shares = shares.view(torch.float64).to(share.dtype)
    has_ids = problem.row_ids is not None
    return _Everybody(
        sizes,
        dist.get_rank(group),
        shares / shares.sum(),
        all_ids if has_ids else None,
        count_positives(all_ids, all_ids).to(share) if has_ids else torch.ones_like(shares),
        None if problem.column_divisor is None else divisors.view(torch.float64).to(share.dtype),
    )


def _right(problem: Problem) -> list[Tensor]:
    """The rows that travel."""
    return [problem.text, *(source.right for source in problem.sources)]


def _block(
    problem: Problem, everybody: _Everybody, rank: int | None, right: Sequence[Tensor]
) -> Problem:
    """One's own images against the texts of `rank` (None: of everybody)."""
    mine, theirs = everybody.columns(everybody.rank), everybody.columns(rank)
    ids, divisor = everybody.ids, everybody.column_divisor
    sources = zip(problem.sources, right[1:], strict=True)
    return replace(
        problem,
        text=right[0],
        sources=tuple(replace(source, right=rows) for source, rows in sources),
        batch=sum(everybody.sizes),
        row_share=everybody.share[mine],
        column_share=everybody.share[theirs],
        diagonal=theirs.start - mine.start,
        column_ids=None if ids is None else ids[theirs],
        row_positives=everybody.positives[mine],
        column_positives=everybody.positives[theirs],
        column_divisor=None if divisor is None else divisor[theirs],
    )


def _gather_statistics(
    problem: Problem, everybody: _Everybody, sweeps: Sweeps, group: dist.ProcessGroup
) -> Statistics:
    rows = gather_blocks(pack_rows(_right(problem)), everybody.sizes, group)
    strip = _block(problem, everybody, None, unpack_rows(rows, _right(problem)))
    found = sweeps.statistics(strip)
    mine = pack(found.columns)
    parts = mine.new_empty(len(everybody.sizes), *mine.shape)
    dist.all_gather_into_tensor(parts.flatten(0, 1), mine.contiguous(), group=group)
    own = everybody.columns(everybody.rank)
    columns, *others = (unpack(part[:, own], len(problem.sources)) for part in parts)
    for other in others:
        columns = merge(columns, other)
    return found._replace(columns=columns)


def _gather_gradients(
    problem: Problem,
    everybody: _Everybody,
    statistics: Statistics,
    grads: tuple[Tensor, Tensor],
    sweeps: Sweeps,
    group: dist.ProcessGroup,
) -> Gradients:
    travellers = [*_right(problem), pack(statistics.columns).T]
    rows = gather_blocks(pack_rows(travellers), everybody.sizes, group)
    *right, columns = unpack_rows(rows, travellers)
    whole = statistics._replace(columns=unpack(columns.T, len(problem.sources)))
    found = sweeps.gradients(_block(problem, everybody, None, right), whole, *grads)
    scalars = torch.stack([found.logit_scale, found.logit_bias])
    text, scalars = reduce_blocks(found.text, scalars, everybody.sizes, group)
    return Gradients(found.image, text, scalars[0], scalars[1])


def _ring_statistics(
    problem: Problem, everybody: _Everybody, sweeps: Sweeps, group: dist.ProcessGroup
) -> Statistics:
    right, k = _right(problem), len(problem.sources)
    ring = Ring(group, everybody.sizes)
    block, rows = pack_rows(right), None
    pairs, columns = problem.logit_scale.new_zeros(2), None
    for step in range(ring.ranks):
        following = ring.pass_on(block, step)
        there = _block(problem, everybody, ring.owner(step), unpack_rows(block, right))
        found = sweeps.statistics(there)
        pairs += found.pairs
        rows = found.rows if rows is None else merge(rows, found.rows)
        columns = found.columns if columns is None else merge(columns, found.columns)
        travelling = pack(columns).T.contiguous()
        columns = unpack(ring.pass_on(travelling, step).wait().T, k)
        block = following.wait()
    assert rows is not None and columns is not None
    return Statistics(rows, columns, pairs)


def _ring_gradients(
    problem: Problem,
    everybody: _Everybody,
    statistics: Statistics,
    grads: tuple[Tensor, Tensor],
    sweeps: Sweeps,
    group: dist.ProcessGroup,
) -> Gradients:
    travellers = [*_right(problem), pack(statistics.columns).T]
    ring, k = Ring(group, everybody.sizes), len(problem.sources)
    block = pack_rows(travellers)
    image, scalars = None, problem.logit_scale.new_zeros(2)
    text = torch.zeros_like(problem.text, dtype=problem.dtype)
    for step in range(ring.ranks):
        following = ring.pass_on(block, step)
        *right, columns = unpack_rows(block, travellers)
        there = _block(problem, everybody, ring.owner(step), right)
        whole = statistics._replace(columns=unpack(columns.T, k))
        found = sweeps.gradients(there, whole, *grads)
        image = found.image if image is None else image + found.image
        scalars += torch.stack([found.logit_scale, found.logit_bias])
        text = ring.pass_on(text + found.text, step).wait()
        block = following.wait()
    assert image is not None
    dist.all_reduce(scalars, group=group)
    return Gradients(image, text, scalars[0], scalars[1])
