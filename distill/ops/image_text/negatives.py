"""How much the negatives of every row and column weigh: the log-sums FastCLIP keeps means of."""

import torch
import torch.distributed as dist
from jaxtyping import Float, Int64
from torch import Tensor

from distill.ops.gathering import gather_rows, world_size
from distill.ops.image_text import distributed
from distill.ops.image_text.arguments import (
    Options,
    check_arguments,
    count_positives,
    normal_form,
)
from distill.ops.image_text.sweeps import chosen, sweeps_of
from teachers.contract import Embeddings


@torch.no_grad()
def negative_log_sums(
    student: Embeddings,
    *,
    positives: Int64[Tensor, " n"] | None = None,
    group: dist.ProcessGroup | None = None,
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Return log sum_j e^(S_ij - p_i) over i's negatives, by row and by column, and their number.

    p_i is the mean logit of i's positives. Without any negative the sum is -inf. `group` as in
    `image_text_loss`: negatives are those of all ranks, the results are one's own rows'. No
    gradient; one sweep, O(n d) memory.
    """
    ranks = None if world_size(group) == 1 else group
    zeros = torch.zeros(student.image.shape[0], device=student.image.device)
    options = Options(positives=positives, divisors=(zeros, zeros), partial=ranks is not None)
    check_arguments(student, (), options)
    with torch.autocast(student.image.device.type, enabled=False):
        problem = normal_form(student, (), options)
        sweeps = sweeps_of(chosen("auto", problem, grouped=True))
        if ranks is None:
            found, count, total = sweeps.statistics(problem), problem.row_positives, problem.batch
        else:
            _, found = distributed.values(problem, sweeps, ranks, "gather")
            everybody = gather_rows(problem.row_share if positives is None else positives, ranks)
            total, count = everybody.shape[0], problem.row_positives
            if positives is not None:
                count = count_positives(positives, everybody).to(count)
    rows = found.rows.negative - found.rows.positive / count
    columns = found.columns.negative - found.columns.positive / count
    return rows, columns, total - count
