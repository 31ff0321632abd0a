"""Rotary position embedding of the "split" kind, over one to three axes.

The heads of a stream share one table: head h owns entries h*r .. (h+1)*r - 1 of it, r = head_dim / 2,
so different heads rotate at different frequencies.

Source: docs/model/transformer.md, "Rotary embedding"; numbers held by tests/parity/test_transformer.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class RopeTable(NamedTuple):
    """Hold cos and sin, each (B, N, H, r) with r half the head dimension. B may be 1 for any batch."""

    cos: Tensor
    sin: Tensor

    def rotation(self, dtype: torch.dtype) -> Rotation:
        """Return the table as a Rotation in a dtype."""
        cos, sin = self.cos.to(dtype), self.sin.to(dtype)
        whole = torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)
        return Rotation(*(table.contiguous() for table in whole))  # one axis alone leaves it strided


class Rotation(NamedTuple):
    """Hold a RopeTable for whole heads, each (B, N, H, 2r); sines of the first half are negated.

    Twice the memory, and half the time: rotating works on whole rows instead of pieces of r entries.
    """

    cos: Tensor
    sin: Tensor


def frequencies(count: int, theta: float, device: torch.device | str | None = None) -> Tensor:
    """Return (count,) float32, from pi/2 to theta * pi/2, geometric.

    Powers and product are float64 with one cast at the end; float32 powers differ in most entries.
    """
    exponents = torch.arange(count, dtype=torch.float64, device="cpu") / max(count - 1, 1)
    return (theta**exponents * (math.pi / 2)).to(device=device, dtype=torch.float32)


def rope_table(
    positions: Tensor, *, width: int, num_heads: int, max_positions: Sequence[float], theta: float
) -> RopeTable:
    """Return the table for intervals (B, A, N, 2), float32, each at its middle.

    width: size of the rotated vectors, all heads together. max_positions: (A,), the coordinate of each axis
    that maps to 1. Coordinates run from -1 to 1 and angles are frequency-major, axis-minor; entries
    that the axes do not fill come first and do not rotate.
    """
    axes = positions.shape[1]
    if axes != len(max_positions):
        raise ValueError(f"positions have {axes} axes; this table needs {len(max_positions)}")
    limits = torch.tensor(max_positions, dtype=torch.float32, device=positions.device)
    middle = positions.float().mean(dim=-1).transpose(1, 2)  # (B, N, A)
    coordinates = middle / limits * 2 - 1
    turns = frequencies(width // (2 * axes), theta, positions.device)
    angles = (turns[:, None] * coordinates[:, :, None, :]).flatten(2)  # (B, N, frequencies * A)
    padding = (width // 2 - angles.shape[-1], 0)
    angles = torch.nn.functional.pad(angles, padding)
    angles = angles.view(*angles.shape[:2], num_heads, -1)
    return RopeTable(angles.cos(), angles.sin())


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Rotate (B, N, H, 2r): entry i of the first half pairs with entry i of the second."""
    first, second = x.chunk(2, dim=-1)
    partners = torch.cat([second, first], dim=-1)
    return torch.addcmul(x * rotation.cos, partners, rotation.sin)


def rotated_back(grad: Tensor, rotation: Rotation) -> Tensor:
    """Return the gradients of x from those of `rotate`, (B, N, H, 2r)."""
    first, second = (grad * rotation.sin).chunk(2, dim=-1)
    return torch.addcmul(torch.cat([second, first], dim=-1), grad, rotation.cos)
