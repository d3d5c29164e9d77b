"""The trained numbers: a log-odds for every unit and block that may go, and what they say now."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from students.inheritance.annotation import Annotation
from students.masks.costs import Cost
from students.masks.gates import BOUND, START, chance, draw, settled
from students.masks.sizes import Member, Size
from students.student import TowerName

Place = tuple[TowerName, str]


class Masks(nn.Module):
    """A hard-concrete gate for every unit of every member of every size.

    In training mode of the masked student gates are what `draw` drew for the step; in evaluation
    mode every member keeps its likeliest units, as many as its size says.

    Args:
        sizes: what may shrink.
        annotation: of the student, for the members' lengths.
    """

    def __init__(self, sizes: Sequence[Size], annotation: Annotation) -> None:
        """Start with every gate open."""
        super().__init__()
        self.sizes = {size.name: size for size in sizes}
        self.spans: dict[Place, slice] = {}
        self.mixed: set[Place] = set()
        start = 0
        members = [member for size in sizes for member in size.members]
        for member in members:
            axes = annotation.towers[member.tower]
            length = (
                len(axes.containers[member.axis]) if member.blocks else axes.axes[member.axis].size
            )
            total = next(size.total for size in sizes if member in size.members)
            assert length == member.kept(total), (member, length, total)
            self.spans[member.tower, member.axis] = slice(start, start + length)
            start += length
            if member.mixed:
                self.mixed.add((member.tower, member.axis))
        self.alpha = nn.Parameter(torch.full((start,), START))
        held, whole = (torch.zeros(start, dtype=torch.bool) for _ in range(2))
        for member in members:
            span = self._span(member)
            held[span.start : span.start + member.first] = True
            whole[span] = member.mixed
        self._held = nn.Buffer(held, persistent=False)
        self._whole = nn.Buffer(whole, persistent=False)
        self.chosen: dict[str, int] | None = None
        self._drawn: Tensor | None = None
        self._settled: tuple[tuple[int, object], Tensor, Tensor] | None = None

    def draw(self, seed: int) -> None:
        """Draw one step's gates; `drawn` holds them as a leaf that gathers gradients."""
        generator = torch.Generator().manual_seed(seed)
        uniform = torch.rand(self.alpha.shape, generator=generator).to(self.alpha.device)
        self._uniform = uniform
        with torch.no_grad():
            values = self._open(draw(self.alpha, uniform))
        self._drawn = values.requires_grad_(True)

    @property
    def drawn(self) -> Float[Tensor, " units"]:
        """This step's gates; drawn before the first forward."""
        if self._drawn is None:
            self.draw(0)
        assert self._drawn is not None
        return self._drawn

    def pulled(self) -> Float[Tensor, " units"]:
        """The gradient that reached the gates, carried on to `alpha`."""
        gradient = self.drawn.grad
        if gradient is None:
            return torch.zeros_like(self.alpha)
        with torch.enable_grad():
            values = self._open(draw(self.alpha, self._uniform))
        (found,) = torch.autograd.grad(values, [self.alpha], gradient)
        return found

    def gates(self, place: Place, training: bool) -> tuple[Float[Tensor, " n"], Bool[Tensor, " n"]]:
        """One member's gates, and which of its units are there at all."""
        if training:
            values = self.drawn[self.spans[place]]
            return values, values.detach() > 0
        values, kept = self._final()
        return values[self.spans[place]], kept[self.spans[place]]

    def shares(self) -> dict[str, Float[Tensor, ""]]:
        """The expected share of every size that is left; differentiable."""
        open_ = self._open(chance(self.alpha))
        return {
            name: torch.stack([self._share(open_, m, size) for m in size.members]).mean()
            for name, size in self.sizes.items()
        }

    def expected(self) -> dict[str, Float[Tensor, ""]]:
        """The expected sizes; differentiable."""
        return {name: self.sizes[name].total * share for name, share in self.shares().items()}

    def rounded(self) -> dict[str, int]:
        """The expected sizes as the nearest ones that can be built."""
        with torch.no_grad():
            return {
                name: _allowed(self.sizes[name], float(value))
                for name, value in self.expected().items()
            }

    def within(self, cost: Cost, budget: float) -> dict[str, int]:
        """The sizes nearest to the expected ones that cost no more than `budget`.

        Every size is rounded down; those that lose most by it are rounded up again while the
        budget lasts. Too costly still, all shrink alike, down to what each may shrink to.
        """
        with torch.no_grad():
            wanted = {name: float(value) for name, value in self.expected().items()}
        share = 1.0
        while True:
            asked = {name: value * share for name, value in wanted.items()}
            down = {name: _floor(self.sizes[name], value) for name, value in asked.items()}
            smallest = all(down[name] == size.least for name, size in self.sizes.items())
            if float(cost.of(down)) <= budget or smallest:
                break
            share *= 0.99
        lost = {name: (asked[name] - down[name]) / self.sizes[name].step for name in down}
        for name in sorted(lost, key=lambda each: (-lost[each], each)):
            size = self.sizes[name]
            up = {**down, name: min(down[name] + size.step, size.total)}
            if lost[name] > 0 and float(cost.of(up)) <= budget:
                down = up
        return down

    def choose(self, sizes: Mapping[str, int] | None) -> None:
        """Fix the sizes that evaluation mode keeps; None goes back to the expected ones."""
        self.chosen = None if sizes is None else dict(sizes)

    def scores(self) -> dict[Place, list[float]]:
        """Every member's log-odds: the order in which its units go; beyond all, what stays."""
        order = self.alpha.detach().masked_fill(self._held, BOUND + 1)
        return {place: order[span].tolist() for place, span in self.spans.items()}

    def clamp_(self) -> None:
        """Keep the log-odds where gates still learn."""
        with torch.no_grad():
            self.alpha.clamp_(-BOUND, BOUND)

    def _span(self, member: Member) -> slice:
        return self.spans[member.tower, member.axis]

    def _open(self, values: Tensor) -> Tensor:
        """Gates, or chances, with those of what always stays at 1."""
        return values.masked_fill(self._held, 1)

    def _share(self, open_: Tensor, member: Member, size: Size) -> Tensor:
        """What share of a size one of its members speaks for."""
        return (open_[self._span(member)].sum() - member.plus) / (member.each * size.total)

    def _final(self) -> tuple[Tensor, Tensor]:
        sizes = self.chosen if self.chosen is not None else self.rounded()
        key = (self.alpha._version, tuple(sizes.items()))
        if self._settled is None or self._settled[0] != key:
            with torch.no_grad():
                kept = torch.zeros_like(self.alpha, dtype=torch.bool)
                for name, size in self.sizes.items():
                    for member in size.members:
                        span = self._span(member)
                        alpha = self.alpha.masked_fill(self._held, torch.inf)[span]
                        order = alpha.argsort(descending=True, stable=True)
                        kept[span.start + order[: member.kept(sizes[name])]] = True
                values = settled(self.alpha).masked_fill(self._whole, 1) * kept
            self._settled = (key, values, kept)
        return self._settled[1], self._settled[2]


def _floor(size: Size, value: float) -> int:
    # What rounding errors took off does not count.
    return max(size.least, int(value / size.step + 1e-6) * size.step)


def _allowed(size: Size, value: float) -> int:
    nearest = round(value / size.step) * size.step
    return min(size.total, max(size.least, nearest))
