"""Forms of a change besides the low-rank pair, as LyCORIS and PEFT write them.

    form         tensors                                       change of the weight (out, in), times the scale
    LoKr         lokr_w1, lokr_w2, each whole or as _a and _b  kron(w1, w2)
    LoHa         hada_w1_a, _w1_b, hada_w2_a, _w2_b            (w1_a @ w1_b) * (w2_a @ w2_b), number by number
    difference   diff                                          the tensor itself

All have the interface of `LowRank`, so that hooks, merges and reports know no form. A Kronecker product is
applied by its factors and never multiplied out: a file of 100 MB would become the size of the model.

Source: arXiv 2309.14859 (LyCORIS), sections 3.2 and 3.3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from soundstage.lora.form_names import Form
from soundstage.lora.layers import LowRank, Multiply, moved


@dataclass(frozen=True)
class Kronecker:
    """LoKr: scale * kron(left, right). left: (a, b); right: (c, d); the weight is (a * c, b * d).

    Each is given as a whole, or as two factors whose product it is.
    """

    left: tuple[Tensor, ...]
    right: tuple[Tensor, ...]
    scale: float = 1.0
    magnitude: Tensor | None = None

    @property
    def factors(self) -> tuple[Tensor, ...]:
        return *self.left, *self.right

    @property
    def rank(self) -> int:
        """Return the largest rank that the change can have."""
        return _inner(self.left) * _inner(self.right)

    @property
    def shape(self) -> tuple[int, int]:
        """Return the shape of the weight it changes, (out, in)."""
        (a, b), (c, d) = _outer(self.left), _outer(self.right)
        return a * c, b * d

    def apply(self, x: Tensor, multiply: Multiply, tokens: Tensor | None = None) -> Tensor:
        """Return the change of a layer's result for x (..., in), without the scale: (..., out)."""
        width = _outer(self.left)[1]
        rows = _rows(x, tokens, self.left[0]).reshape(*x.shape[:-1], width, -1)
        for factor in reversed(self.right):
            rows = multiply(rows, factor)
        columns = rows.transpose(-1, -2)
        for factor in reversed(self.left):
            columns = multiply(columns, factor)
        result: Tensor = columns.transpose(-1, -2).flatten(-2)
        return result

    def delta(self, strength: float = 1.0) -> Tensor:
        """Return the change of the weight, (out, in) float32."""
        return torch.kron(_whole(self.left), _whole(self.right)).mul_(self.scale * strength)

    def norm(self) -> float:
        """Return the Frobenius norm of `delta()`: the product of those of the two sides."""
        left, right = (float(_whole(side).double().norm()) for side in (self.left, self.right))
        return abs(self.scale) * left * right

    def singular(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return (left, values, right) of the change's largest singular values, falling, float32.

        Those of a Kronecker product are the products of those of its sides, and so are their vectors.
        """
        (u, s, v), (w, t, x) = (
            torch.linalg.svd(_whole(side), full_matrices=False) for side in (self.left, self.right)
        )
        values, order = (torch.outer(s, t) * abs(self.scale)).flatten().sort(descending=True, stable=True)
        order = order[: self.rank]
        first, second = order // len(t), order % len(t)
        left = torch.einsum("ak,ck->ack", u[:, first], w[:, second]).flatten(0, 1)
        right = torch.einsum("kb,kd->kbd", v[first], x[second]).flatten(1)
        return left * math.copysign(1, self.scale), values[: self.rank], right

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Self:
        """Return the same change on a device, in a dtype."""
        left, right = (tuple(moved(f, device, dtype) for f in side) for side in (self.left, self.right))
        return replace(self, left=left, right=right)


@dataclass(frozen=True)
class Hadamard:
    """LoHa: scale * (first up @ down) * (second up @ down), number by number.

    first, second: (up, down) of shapes (out, rank) and (rank, in).
    """

    first: tuple[Tensor, Tensor]
    second: tuple[Tensor, Tensor]
    scale: float = 1.0
    magnitude: Tensor | None = None

    @property
    def factors(self) -> tuple[Tensor, ...]:
        return *self.first, *self.second

    @property
    def rank(self) -> int:
        """Return the largest rank that the change can have: the product of the two."""
        return min(*self.shape, _inner(self.first) * _inner(self.second))

    @property
    def shape(self) -> tuple[int, int]:
        """Return the shape of the weight it changes, (out, in)."""
        return _outer(self.first)

    def apply(self, x: Tensor, multiply: Multiply, tokens: Tensor | None = None) -> Tensor:
        """Return the change of a layer's result for x (..., in), without the scale: (..., out).

        The matrix exists during the call alone.
        """
        matrix = (self.first[0] @ self.first[1]).mul_(self.second[0] @ self.second[1])
        return multiply(_rows(x, tokens, matrix), matrix)

    def delta(self, strength: float = 1.0) -> Tensor:
        """Return the change of the weight, (out, in) float32."""
        return _whole(self.first).mul_(_whole(self.second)).mul_(self.scale * strength)

    def norm(self) -> float:
        """Return the Frobenius norm of `delta()`."""
        return float(self.delta().double().norm())

    def pair(self) -> LowRank:
        """Return the same change as a low-rank pair, whose rank is the product of the two; float32."""
        (up, down), (other_up, other_down) = self.first, self.second
        ups = up.float()[:, :, None] * other_up.float()[:, None, :]
        downs = down.float()[:, None] * other_down.float()[None]
        return LowRank(downs.flatten(0, 1), ups.flatten(1), self.scale)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Self:
        """Return the same change on a device, in a dtype."""
        (a, b), (c, d) = ([moved(f, device, dtype) for f in side] for side in (self.first, self.second))
        return replace(self, first=(a, b), second=(c, d))


@dataclass(frozen=True)
class Difference:
    """A whole matrix (out, in) that is added to the weight."""

    matrix: Tensor
    scale: float = 1.0
    magnitude: Tensor | None = None

    @property
    def factors(self) -> tuple[Tensor, ...]:
        return (self.matrix,)

    @property
    def rank(self) -> int:
        """Return the largest rank that the change can have."""
        return min(self.shape)

    @property
    def shape(self) -> tuple[int, int]:
        """Return the shape of the weight it changes, (out, in)."""
        return _outer((self.matrix,))

    def apply(self, x: Tensor, multiply: Multiply, tokens: Tensor | None = None) -> Tensor:
        """Return the change of a layer's result for x (..., in), without the scale: (..., out)."""
        return multiply(_rows(x, tokens, self.matrix), self.matrix)

    def delta(self, strength: float = 1.0) -> Tensor:
        """Return the change of the weight, (out, in) float32."""
        return self.matrix.float() * (self.scale * strength)

    def norm(self) -> float:
        """Return the Frobenius norm of `delta()`."""
        return abs(self.scale) * float(self.matrix.double().norm())

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Self:
        """Return the same change on a device, in a dtype."""
        return replace(self, matrix=moved(self.matrix, device, dtype))


LayerChange = LowRank | Kronecker | Hadamard | Difference


def change_of_form(form: Form, sides: Sequence[Sequence[Tensor]], scale: float) -> LayerChange:
    """Return a change of a form other than a pair. sides: its matrices, each whole or as two factors."""
    if form == "LoKr":
        return Kronecker(tuple(sides[0]), tuple(sides[1]), scale)
    if form == "LoHa":
        (a, b), (c, d) = sides
        return Hadamard((a, b), (c, d), scale)
    return Difference(sides[0][0], scale)


def _rows(x: Tensor, tokens: Tensor | None, factor: Tensor) -> Tensor:
    """Return x in the dtype of a factor, with the weights of its rows."""
    x = x.to(factor.dtype)
    return x if tokens is None else x * tokens.to(x.dtype)


def _whole(side: tuple[Tensor, ...]) -> Tensor:
    """Return the matrix that a side's factors make, float32, in memory of its own."""
    if len(side) == 1:
        return side[0].to(torch.float32, copy=True)
    return side[0].float() @ side[1].float()


def _outer(side: tuple[Tensor, ...]) -> tuple[int, int]:
    return side[0].shape[0], side[-1].shape[1]


def _inner(side: tuple[Tensor, ...]) -> int:
    return min(side[0].shape) if len(side) == 1 else min(*_outer(side), side[0].shape[1])
