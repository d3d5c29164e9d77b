"""Which dimensions are one and the same: a union-find whose axes can turn out to be products.

A dimension is a tuple of factors, the slowest first: the rows of a fused qkv projection begin as
one factor and become (3, heads, head width) when the model views them so. Equal by computation,
not by size: two factors are one only when an operation made them meet.
"""

from collections.abc import Iterable, Sequence
from math import prod
from typing import no_type_check

Dim = tuple[int, ...]


@no_type_check  # called hundreds of thousands of times; the tests would spend their time here
class Factors:
    """Factors by number, their sizes, and what is known of them.

    Attributes:
        marks: what operations said of a factor ("data", "heads", ...), by number.
    """

    def __init__(self) -> None:
        """Start with none."""
        self._became: list[Dim | None] = []
        self._sizes: list[int] = []
        self._marks: list[set[str]] = []

    def new(self, size: int, *marks: str) -> Dim:
        """Return a dimension that has met no other yet; one of size 1 has no factors at all."""
        if size == 1:
            return ()
        self._became.append(None)
        self._sizes.append(size)
        self._marks.append(set(marks))
        return (len(self._sizes) - 1,)

    def leaves(self, dim: Dim) -> Dim:
        """Resolve a dimension to the factors it is made of now."""
        found: list[int] = []
        for factor in dim:
            became = self._became[factor]
            found += (factor,) if became is None else self.leaves(became)
        return tuple(found)

    def size(self, factor: int) -> int:
        """How many units a factor has."""
        return self._sizes[factor]

    def length(self, dim: Dim) -> int:
        """The length of a dimension: the product of its factors."""
        return prod(self._sizes[factor] for factor in dim)

    def mark(self, dim: Iterable[int], *marks: str) -> None:
        """Note something of every factor of a dimension."""
        for factor in self.leaves(tuple(dim)):
            self._marks[factor].update(marks)

    def marks(self, factor: int) -> frozenset[str]:
        """What was noted of a factor."""
        (leaf,) = self.leaves((factor,))
        return frozenset(self._marks[leaf])

    def split(self, dim: Dim, sizes: Sequence[int]) -> list[Dim] | None:
        """Cut a dimension into consecutive ones of the given lengths, refining factors.

        Returns None, and changes nothing, when the factors do not divide that way.
        """
        leaves = list(self.leaves(dim))
        if self.length(tuple(leaves)) != prod(sizes):
            return None
        planned, parts = self._cuts([self._sizes[leaf] for leaf in leaves], sizes)
        if planned is None:
            return None
        refined: list[int] = []
        for leaf, cuts in zip(leaves, planned, strict=True):
            refined += self._refine(leaf, cuts)
        bounds = iter(refined)
        return [tuple(next(bounds) for _ in range(count)) for count in parts]

    def _cuts(
        self, have: list[int], want: Sequence[int]
    ) -> tuple[list[list[int]] | None, list[int]]:
        """How to cut factors of sizes `have` so that groups of them multiply to `want`."""
        cuts: list[list[int]] = [[] for _ in have]
        counts: list[int] = []
        at, left = -1, 1
        for size in want:
            need, count = size, 0
            while need > 1:
                if left == 1:
                    at += 1
                    left = have[at]
                if need % left == 0:
                    piece = left
                elif left % need == 0:
                    piece = need
                else:
                    return None, []
                cuts[at].append(piece)
                left //= piece
                need //= piece
                count += 1
            counts.append(count)
        return cuts, counts

    def _refine(self, leaf: int, sizes: list[int]) -> Dim:
        if len(sizes) <= 1:
            return (leaf,)
        pieces = sum((self.new(size, *self._marks[leaf]) for size in sizes), ())
        self._became[leaf] = pieces
        return pieces

    def merge(self, one: Dim, other: Dim) -> bool:
        """Declare two dimensions the same; False when their factors do not line up."""
        one, other = self.leaves(one), self.leaves(other)
        if one == other:
            return True
        if self.length(one) != self.length(other):
            return False
        common = self._common([self._sizes[f] for f in one], [self._sizes[f] for f in other])
        if common is None:
            return False
        self.split(one, common)
        self.split(other, common)
        for first, second in zip(self.leaves(one), self.leaves(other), strict=True):
            self._join(first, second)
        return True

    def _common(self, one: list[int], other: list[int]) -> list[int] | None:
        """The coarsest sizes that both lists can be cut into."""
        one, other, common = list(one), list(other), []
        while one and other:
            piece = min(one[0], other[0])
            if one[0] % piece or other[0] % piece:
                return None
            common.append(piece)
            for sizes in (one, other):
                sizes[0] //= piece
                if sizes[0] == 1:
                    sizes.pop(0)
        return common

    def _join(self, one: int, other: int) -> None:
        (one,), (other,) = self.leaves((one,)), self.leaves((other,))
        if one != other:
            self._became[other] = (one,)
            self._marks[one] |= self._marks[other]
