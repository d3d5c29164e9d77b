"""Tensors of which each process holds a shard, as whole ones and back; others stay as they are."""

from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


def gathered(value: Tensor) -> Tensor:
    """All of a tensor, asked for by every process; one that is not in shards as it is."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def like(value: Tensor, target: Tensor) -> Tensor:
    """A whole tensor cut as `target` is."""
    if not isinstance(target, DTensor):
        return value
    mesh = target.device_mesh
    # Every process has the whole: nobody has to send.
    value = value.to(target.device)
    return distribute_tensor(value, mesh, target.placements, src_data_rank=None)
