"""The rank of the first right answer, in slices of the similarity matrix.

Ties count against the model: an encoder that maps everything to one vector finds nothing, instead
of everything.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

# Equal vectors may differ by a rounding error after a blocked matrix product; unit rows in float32
# are exact to about 1e-7.
TIE = 1e-6
_ELEMENTS_PER_SLICE = 2**23


def worst_ranks(
    queries: Float[Tensor, "q d"], gallery: Float[Tensor, "g d"], right: Int64[Tensor, "2 p"]
) -> Int64[Tensor, " q"]:
    """Count, for each query, the wrong gallery rows that its best right one does not beat.

    Args:
        queries: unit rows.
        gallery: unit rows.
        right: pairs (query, gallery row), one per column, sorted by query; every query has one.
    """
    counts = torch.bincount(right[0], minlength=len(queries))
    assert len(counts) == len(queries) and bool((counts > 0).all()), "a query without an answer"
    assert bool((right[0].diff() >= 0).all()), "pairs must be sorted by query"
    ends = counts.cumsum(0)
    rows = max(1, _ELEMENTS_PER_SLICE // len(gallery))
    ranks = []
    for start in range(0, len(queries), rows):
        scores = queries[start : start + rows] @ gallery.T
        stop = start + len(scores)
        first, last = int(ends[start] - counts[start]), int(ends[stop - 1])
        is_right = torch.zeros_like(scores, dtype=torch.bool)
        is_right[right[0, first:last] - start, right[1, first:last]] = True
        best = scores.masked_fill(~is_right, -torch.inf).amax(1, keepdim=True)
        ranks.append(((scores >= best - TIE) & ~is_right).sum(1))
    return torch.cat(ranks)


def recall_at(ranks: Int64[Tensor, " q"], k: int) -> float:
    """Return the fraction of queries with a right answer among the first `k`."""
    return (ranks < k).double().mean().item()
