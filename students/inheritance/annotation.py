"""A model's weights with an axis at every dimension: the table that inheritance works on.

Axes come from a trace (what the model computes), names from `naming`. A fused qkv projection is
listed as its three parts, a projection that is stored transposed as the matrix it is, and
dimensions of length 1 are left out, so that a 1x1 convolution and a Linear are the same thing.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from students.inheritance.naming import repeated_parts, role_path
from students.inheritance.single_heads import with_single_heads
from students.inheritance.tracing import Trace, trace
from students.student import TowerName
from teachers.clip_model import ClipModel

Kind = Literal[
    "hidden",
    "inner",
    "heads",
    "head_width",
    "embed",
    "vocabulary",
    "position",
    "patch",
    "kernel",
    "fixed",
]


@dataclass(frozen=True, kw_only=True)
class Axis:
    """Something that a model has a number of.

    Attributes:
        name: of its kind and the first weight that has it ("inner of blocks.0.mlp.fc1").
        kind: hidden (a residual stream or stage width), inner (of an MLP or branch), heads,
            head_width, embed (the embedding itself), vocabulary, position, patch and kernel
            (pixels of a convolution), or fixed: what cannot be chosen from (colours, q/k/v,
            whatever an untraceable operation used).
        size: how many.
    """

    name: str
    kind: Kind
    size: int


@dataclass(frozen=True, kw_only=True)
class Slot:
    """One weight as inheritance sees it.

    Attributes:
        role: its name within the tower, the same in every library.
        key: the state dict's name.
        part: (i, n): part i of n along the first dimension; None is the whole.
        transposed: the role's matrix is stored the other way round.
        dims: the axes' names of each dimension longer than 1, the slowest first.
        shape: sizes of these dimensions.
        summed: the dimensions that the weight is summed over (its input side).
        learned: a parameter; else a statistic.
    """

    role: str
    key: str
    part: tuple[int, int] | None
    transposed: bool
    dims: tuple[tuple[str, ...], ...]
    shape: tuple[int, ...]
    summed: frozenset[int]
    learned: bool

    def places(self, axis: str) -> list[tuple[int, int]]:
        """Where an axis occurs: (number among all axes of the slot, dimension)."""
        flat = [(name, at) for at, dim in enumerate(self.dims) for name in dim]
        return [(number, at) for number, (name, at) in enumerate(flat) if name == axis]

    def read(self, stored: Tensor) -> Tensor:
        """The slot's view of its stored tensor; writing into it writes there."""
        if self.part is not None:
            number, count = self.part
            rows = stored.shape[0] // count
            stored = stored[number * rows : (number + 1) * rows]
        return (stored.mT if self.transposed else stored).view(self.shape)


@dataclass(frozen=True, kw_only=True)
class TowerAxes:
    """One tower.

    Attributes:
        slots: its weights by role.
        axes: by name.
        containers: role path of each numbered container -> the class of each child.
        homes: role path of each numbered container -> its path in the module.
        norms: roles of the LayerNorms' weights.
        unread: operations that no rule covers.
    """

    slots: dict[str, Slot]
    axes: dict[str, Axis]
    containers: dict[str, tuple[str, ...]]
    homes: dict[str, str]
    norms: frozenset[str]
    unread: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """Both towers, and the keys of the state dict that neither uses."""

    towers: dict[TowerName, TowerAxes]
    unused: tuple[str, ...]


def annotate(model: ClipModel) -> Annotation:
    """Find the axes of every weight of a dual encoder.

    Raises:
        ValueError: when an encoder does not run.
    """
    size = model.preprocess.image_size
    dtype = next(each.dtype for each in model.module.parameters() if each.is_floating_point())
    inputs: dict[TowerName, tuple[str, Tensor]] = {
        "image": ("encode_image", torch.zeros(1, 3, size, size, dtype=dtype, device=model.device)),
        "text": (
            "encode_text",
            torch.zeros(1, model.tokenizer.context_length, dtype=torch.int64, device=model.device),
        ),
    }
    towers: dict[TowerName, TowerAxes] = {
        name: with_single_heads(_tower(model.module, trace(model.module, method, given)))
        for name, (method, given) in inputs.items()
    }
    used = {slot.key for tower in towers.values() for slot in tower.slots.values()}
    others = (key for key in model.module.state_dict() if key not in used)
    return Annotation(towers=towers, unused=tuple(others))


def _tower(module: nn.Module, seen: Trace) -> TowerAxes:
    tensors = module.state_dict(keep_vars=True)
    dims = dict(seen.dims)
    homes = {key.rpartition(".")[0] for key in dims}
    for key, tensor in tensors.items():
        # BatchNorm's step counter takes no part in evaluation.
        if tensor.ndim == 0 and key not in dims and key.rpartition(".")[0] in homes - {""}:
            dims[key] = ()
    parts = repeated_parts(module)
    start = _common_home(dims, parts)
    roles = {key: role_path(module, key, start) for key in dims}
    names = _name_axes(roles, seen)
    projections = Counter(_projection(seen, key) for key in dims)
    slots: dict[str, Slot] = {}
    for key, found in dims.items():
        role = roles[key]
        final = _projection(seen, key)
        if final is not None and projections[final] == 1:
            role = final
        for slot in _slots(seen, key, role, found, tensors[key], names):
            assert slot.role not in slots, (slot.role, slot.key)
            slots[slot.role] = slot
    axes = {
        name: Axis(name=name, kind=_kind(seen, leaf), size=seen.factors.size(leaf))
        for leaf, name in names.items()
    }
    used = {
        path: tuple(classes)
        for path, classes in parts.items()
        if any(key.startswith(f"{path}.") for key in dims)
    }
    return TowerAxes(
        slots=slots,
        axes=axes,
        containers={role_path(module, path, start): used[path] for path in used},
        homes={role_path(module, path, start): path for path in used},
        norms=frozenset(role for role, slot in slots.items() if slot.key in seen.norms),
        unread=seen.unread,
    )


def _common_home(keys: Collection[str], containers: Collection[str]) -> str:
    """The path of the module that holds all of a tower, which is no part of its roles."""
    home: list[str] = []
    for names in zip(*(key.split(".")[:-1] for key in keys), strict=False):
        path = ".".join([*home, names[0]])
        if len(set(names)) > 1 or path in containers:
            break
        home.append(names[0])
    return ".".join(home)


def _slots(
    seen: Trace,
    key: str,
    role: str,
    dims: tuple[tuple[int, ...], ...],
    tensor: Tensor,
    names: dict[int, str],
) -> list[Slot]:
    places = [at for at, dim in enumerate(dims) if dim]
    transposed = len(dims) == len(places) == 2 and (key, 0) in seen.summed
    places = places[::-1] if transposed else places
    kept = [dims[at] for at in places]
    slot = Slot(
        role=role,
        key=key,
        part=None,
        transposed=transposed,
        dims=tuple(tuple(names[leaf] for leaf in dim) for dim in kept),
        shape=tuple(seen.factors.length(dim) for dim in kept),
        summed=frozenset(new for new, old in enumerate(places) if (key, old) in seen.summed),
        learned=isinstance(tensor, nn.Parameter),
    )
    first = kept[0][0] if kept else None
    fused = first is not None and seen.factors.size(first) == 3 and _is(seen, first, "fused")
    home, _, name = role.rpartition(".")
    if not (fused and home.endswith("qkv")):
        return [slot]
    rest = slot.dims[0][1:]
    return [
        Slot(
            role=f"{home.removesuffix('qkv')}{letter}.{name}",
            key=key,
            part=(number, 3),
            transposed=False,
            dims=(rest, *slot.dims[1:]),
            shape=(slot.shape[0] // 3, *slot.shape[1:]),
            summed=slot.summed,
            learned=slot.learned,
        )
        for number, letter in enumerate("qkv")
    ]


def _projection(seen: Trace, key: str) -> str | None:
    """Whether a weight makes the embedding: its rows are the embedding and it sums over the rest.

    Libraries disagree about this one's name and home more than about any other.
    """
    kept = [(at, dim) for at, dim in enumerate(seen.dims.get(key, ())) if dim]
    makes = [dim for at, dim in kept if (key, at) not in seen.summed]
    if makes == [seen.output]:
        return {2: "projection.weight", 1: "projection.bias"}.get(len(kept))
    return None


def _is(seen: Trace, leaf: int, mark: str) -> bool:
    return mark in seen.factors.marks(leaf)


def _kind(seen: Trace, leaf: int) -> Kind:
    """What a factor is, from the marks that operations left; the strictest first."""
    marks = seen.factors.marks(leaf)
    if marks & {"pixels", "fused", "opaque"} and "data" not in marks:
        return "fixed"
    if "embed" in marks and len(seen.output) > 1:
        return "fixed"  # a product of axes, which the other tower need not share
    table: tuple[tuple[str, Kind], ...] = (
        *(("vocabulary", "vocabulary"), ("position", "position"), ("data", "position")),
        *(("constant", "fixed"), ("patch", "patch"), ("kernel", "kernel"), ("embed", "embed")),
        *(("heads", "heads"), ("head_width", "head_width"), ("residual", "hidden")),
    )
    for mark, kind in table:
        if mark in marks:
            return kind
    return "inner"


def _name_axes(roles: Mapping[str, str], seen: Trace) -> dict[int, str]:
    """Name every factor by its kind and, where there are several, the weight it is an output of."""
    names: dict[int, str] = {}
    taken: Counter[str] = Counter()
    leaves = {leaf for dims in seen.dims.values() for dim in dims for leaf in dim}
    kinds = Counter(_kind(seen, leaf) for leaf in leaves)
    for wanted in (False, True):
        for key, dims in seen.dims.items():
            for at, leaf in ((at, leaf) for at, dim in enumerate(dims) for leaf in dim):
                if leaf in names or ((key, at) in seen.summed) is not wanted:
                    continue
                kind = _kind(seen, leaf)
                home = roles[key].rpartition(".")[0]
                name = kind if kinds[kind] == 1 else f"{kind} of {home}"
                taken[name] += 1
                names[leaf] = name if taken[name] == 1 else f"{name} ({taken[name]})"
    return names
