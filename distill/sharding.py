"""Students too large for one device: weights, gradients and optimizer state in shards (FSDP2).

torch's `fully_shard` (arXiv:2304.11277), as accelerate's FSDP plugin asks for it: `distill show
accelerate fsdp2`. accelerate's own wrapping is passed over. It would shard the logit scale, which
`fully_shard` refuses as a scalar, and on the CPU it takes a sharded launch for plain DDP. Here each
large block of a tower is a group, and what is left of the student the last one. The logit scale,
the bias and the objective's adapters stay whole on every process. Files hold whole tensors, so
that a checkpoint goes on with any number of processes, sharded or not.

Left out: CPU offload, several dimensions of devices, and weights that do not fit on one device even
without gradients and optimizer (each process starts with all of them).
"""

import copy
import os
import warnings
from collections.abc import Iterable, Sequence

import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import FullyShardedDataParallelPlugin
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor

from distill.config import RunConfig
from distill.optimization import Groups
from distill.shards import gathered
from students import Student

_OPTIMIZERS = ("adamw", "lion")
_LISTS = (nn.ModuleList, nn.Sequential)
_WITHOUT_FORWARD = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


def sharding_plugin(accelerator: Accelerator) -> FullyShardedDataParallelPlugin | None:
    """What the launch says of sharding; None for one that does not shard.

    Raises:
        ValueError: the launch asks for what this trainer does not do.
    """
    asked = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    if not asked or not dist.is_initialized():
        return None
    # On the CPU accelerate reads the plugin and forgets it.
    plugin = getattr(accelerator.state, "fsdp_plugin", None) or FullyShardedDataParallelPlugin()
    refused = {
        "fsdp_version: 1": plugin.fsdp_version != 2,
        "fsdp_offload_params": isinstance(plugin.cpu_offload, CPUOffloadPolicy),
        "fsdp_activation_checkpointing (take --activation-checkpointing)": bool(
            plugin.activation_checkpointing
        ),
    }
    wrong = [name for name, found in refused.items() if found]
    if wrong:
        raise ValueError(
            f"this trainer does not shard with {', '.join(wrong)}: launch with the file that "
            "`distill show accelerate fsdp2` prints"
        )
    return plugin


def check_can_shard(config: RunConfig) -> None:
    """Refuse what does not go with a sharded student.

    Raises:
        ValueError: names each, and what to do.
    """
    policies = (config.tokens, *config.tokens_then)
    scored = any(p.image == "attentive" and p.image_scores == "ema" for p in policies)
    refused = {
        "compile (a compiled tower hides its blocks): --no-compile": config.compile,
        "channels_last (shards are contiguous): --no-channels-last": config.channels_last,
        "masks (they reach over whole weights): --masks.keep 1": config.masks.on,
        "quantize (scales are of whole weights): --quantize none": config.quantize != "none",
        "tokens.image_scores=ema (the moving average is in shards): take teacher": scored,
        f"optimizer.name={config.optimizer.name} (it needs whole weights): take "
        + " or ".join(_OPTIMIZERS): config.optimizer.name not in _OPTIMIZERS,
    }
    wrong = [name for name, found in refused.items() if found]
    if wrong:
        raise ValueError(
            f"a sharded student (FSDP2) does not go with {'; '.join(wrong)}. Or launch with "
            "`distill show accelerate ddp`, which shards nothing"
        )


class Sharding:
    """The shards of one run's student.

    Args:
        student: on its device, equal or not on the processes: the first one's is taken.
        plugin: which blocks are groups, and whether they are dropped after a forward.
        accelerator: of this process.
    """

    def __init__(
        self, student: Student, plugin: FullyShardedDataParallelPlugin, accelerator: Accelerator
    ) -> None:
        """Keep a whole copy on the CPU."""
        for parameter in student.parameters():  # some convolutions are built channels-last
            parameter.data = parameter.data.contiguous()
        for tensor in (*student.parameters(), *student.buffers()):
            dist.broadcast(tensor.detach(), 0)
        # While the towers still run by themselves; afterwards nobody could ask.
        _ = student.tower_names
        self._whole = copy.deepcopy(student).cpu()
        self._plugin, self._device = plugin, accelerator.device
        self._mesh = init_device_mesh(self._device.type, (dist.get_world_size(),))

    def cut_with_groups(self, module: nn.Module, student: Student, groups: Groups) -> None:
        """Cut the student inside `module`; the optimizer's groups get the shards."""
        names = {id(value): name for name, value in module.named_parameters()}
        self.cut(student)
        now = dict(module.named_parameters())
        for group in groups:
            group["params"] = [now[names[id(value)]] for value in group["params"]]

    def cut(self, student: Student) -> None:
        """Cut a student, the one that learns or its moving average, in place."""
        heads = (student.logit_scale, student.logit_bias)
        kept = {p for p in student.parameters() if p.dim() == 0 or any(p is h for h in heads)}
        again, least = bool(self._plugin.reshard_after_forward), self._plugin.min_num_params or 0
        for block in _blocks(student, least):
            fully_shard(
                block, mesh=self._mesh, reshard_after_forward=again, ignored_params=_of(block, kept)
            )
        # Scale and bias come out as views, on which nobody works in place.
        warnings.filterwarnings("ignore", r"FSDP2-wrapped module \(FSDP\w*Student\)")
        fully_shard(student, mesh=self._mesh, ignored_params=kept)

    def average(self, parameters: Iterable[nn.Parameter]) -> None:
        """Average the gradients of what is not in shards, as DDP would."""
        for parameter in parameters:
            if isinstance(parameter, DTensor) or not parameter.requires_grad:
                continue
            assert parameter.grad is not None
            dist.all_reduce(parameter.grad)
            parameter.grad /= dist.get_world_size()

    def whole(self, student: Student) -> Student:
        """A cut student's weights in the one that never was; every process asks, and gets it."""
        self._whole.load_state_dict({n: gathered(v) for n, v in student.state_dict().items()})
        return self._whole.to(self._device)

    def put_away(self) -> None:
        """Take the whole student off the device."""
        self._whole.cpu()


def _blocks(student: nn.Module, least: int) -> Sequence[nn.Module]:
    """Members of the student's lists that hold so many parameters, inner ones first.

    A layer alone is no block, and some containers have no forward to gather their weights for.
    """
    lists = [module for module in student.modules() if isinstance(module, _LISTS)]
    members = {
        id(member)
        for found in lists
        for member in found
        if not isinstance(member, _WITHOUT_FORWARD) and any(True for _ in member.children())
    }
    chosen, taken = list[nn.Module](), set[int]()
    for module in reversed(list(student.modules())):
        if id(module) not in members:
            continue
        own = {id(p): p.numel() for p in module.parameters() if id(p) not in taken}
        if sum(own.values()) >= max(1, least):
            chosen.append(module)
            taken.update(own)
    return chosen


def _of(module: nn.Module, parameters: set[nn.Parameter]) -> set[nn.Parameter]:
    return parameters.intersection(module.parameters())
