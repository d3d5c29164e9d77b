"""Rotations that spread variance evenly: Hadamard matrices, and Givens rotations where none is.

Sylvester's doubling on top of Paley's two constructions (1933) over a prime: every order that
occurs as the width of an embedding (384, 512, 640, 768, 1024, 1152, ...). Where none is found (it
leaves prime powers out), d - 1 Givens rotations give any symmetric matrix a constant diagonal
exactly (Schur-Horn), so that no width needs an approximation.
"""

import math

import torch
from jaxtyping import Float64
from torch import Tensor


def hadamard(order: int) -> Float64[Tensor, "d d"] | None:
    """Return a matrix of +1 and -1 with orthogonal rows, or None when no construction here fits."""
    if order in (1, 2):
        return torch.tensor([[1.0]] if order == 1 else [[1.0, 1.0], [1.0, -1.0]]).double()
    if order % 4:
        return None
    for build in (_paley_one, _paley_two):
        found = build(order)
        if found is not None:
            return found
    half, two = hadamard(order // 2), hadamard(2)
    assert two is not None
    return None if half is None else torch.kron(two, half)


def _paley_one(order: int) -> Float64[Tensor, "d d"] | None:
    q = order - 1
    if not _is_prime(q) or q % 4 != 3:
        return None
    matrix = _bordered(q)
    matrix[1:, 0] = -1
    return matrix + torch.eye(order, dtype=torch.float64)


def _paley_two(order: int) -> Float64[Tensor, "d d"] | None:
    q = order // 2 - 1
    if order % 2 or not _is_prime(q) or q % 4 != 1:
        return None
    signs = torch.tensor([[1.0, 1.0], [1.0, -1.0]]).double()
    diagonal = torch.tensor([[1.0, -1.0], [-1.0, -1.0]]).double()
    return torch.kron(_bordered(q), signs) + torch.kron(torch.eye(q + 1).double(), diagonal)


def _bordered(q: int) -> Float64[Tensor, "d d"]:
    """Return Jacobsthal's matrix of a prime with a border of ones and a zero in the corner."""
    residues = {i * i % q for i in range(1, q)}
    character = torch.tensor([0.0, *(1.0 if i in residues else -1.0 for i in range(1, q))])
    index = torch.arange(q)
    matrix = torch.ones(q + 1, q + 1, dtype=torch.float64)
    matrix[0, 0] = 0
    matrix[1:, 1:] = character.double()[(index[:, None] - index[None, :]) % q]
    return matrix


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % i for i in range(2, math.isqrt(number) + 1))


def spreading_rotation(variances: Float64[Tensor, " d"]) -> Float64[Tensor, "d d"]:
    """Return an orthogonal Q with Q diag(variances) Q^T of constant diagonal.

    A Hadamard matrix over the root of its order where there is one: that Q does it for any
    variances. Else Givens rotations for these.
    """
    order = variances.shape[0]
    matrix = hadamard(order)
    return _givens(variances) if matrix is None else matrix / math.sqrt(order)


def _givens(variances: Float64[Tensor, " d"]) -> Float64[Tensor, "d d"]:
    """Give one coordinate after the other the mean, by turning it against the opposite extreme."""
    matrix, mean = torch.diag(variances), float(variances.mean())
    rotation = torch.eye(len(variances), dtype=torch.float64)
    waiting = list(range(len(variances)))
    while len(waiting) > 1:
        diagonal = matrix.diagonal()[waiting]
        low, high = waiting[int(diagonal.argmin())], waiting[int(diagonal.argmax())]
        above = float(matrix[high, high]) - mean
        waiting.remove(low)
        if above <= 0:  # all that are left are equal
            continue
        across, below = float(matrix[low, high]), float(matrix[low, low]) - mean
        tangent = (math.sqrt(max(0.0, across**2 - above * below)) - across) / above
        cosine = 1 / math.hypot(1.0, tangent)
        turn = cosine * torch.tensor([[1.0, tangent], [-tangent, 1.0]], dtype=torch.float64)
        pair = torch.tensor([low, high])
        matrix[pair] = turn @ matrix[pair]
        matrix[:, pair] = matrix[:, pair] @ turn.T
        rotation[pair] = turn @ rotation[pair]
    return rotation
