"""The arithmetic between a block's matrix products, in PyTorch's plain operators.

`Arithmetic` is the definition, and the oracle of every faster way. A faster way is a subclass that `speed/`
puts on a built model from outside, with `use`. It computes some of these methods with its own kernels where
shapes and formats allow, and leaves the rest to this class. Models call nothing else between their products,
so that all of it can be exchanged in one place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soundstage.model.modulation import Modulation
from soundstage.model.rope import Rotation, rotate


class ModulationRows(NamedTuple):
    """Name the rows of a modulation that make x * (1 + scale) + shift."""

    scale: int
    shift: int


class Arithmetic:
    """Compute in plain PyTorch, on any device, for inference and training."""

    def norm(self, x: Tensor, eps: float) -> Tensor:
        """Divide by the root mean square of the last axis, without a weight; the shape stays."""
        return F.rms_norm(x, x.shape[-1:], eps=eps)

    def modulated_norms(
        self, x: Tensor, eps: float, rows: Modulation, places: Sequence[ModulationRows]
    ) -> tuple[Tensor, ...]:
        """Return `norm` of x (B, N, D), scaled and shifted by each of the places of a modulation."""
        normed = self.norm(x, eps)
        return tuple(rows.apply(normed, scale=place.scale, shift=place.shift) for place in places)

    def add_gated(
        self, x: Tensor, rows: Modulation, row: int, h: Tensor, keep: Tensor | None = None
    ) -> Tensor:
        """Return x + gate * h, (B, N, D), the gate being a row of a modulation.

        keep: bool (B or 1, N or 1, 1), which samples and tokens are changed; None is all.
        """
        gate = rows.row(row)
        return torch.addcmul(x, gate if keep is None else gate * keep, h)

    def heads(self, x: Tensor, norm: nn.RMSNorm, num_heads: int, rotation: Rotation | None) -> Tensor:
        """Norm projected queries or keys (B, N, inner), split them into heads and rotate: (B, N, H, d)."""
        split = norm(x).view(*x.shape[:-1], num_heads, -1)
        return split if rotation is None else rotate(split, rotation)

    def gate_heads(self, heads: Tensor, logits: Tensor) -> Tensor:
        """Return heads (B, N, H, d) times 2 sigmoid(logits (B, N, H)), joined to (B, N, H * d)."""
        return (heads * (2 * torch.sigmoid(logits)).unsqueeze(-1)).flatten(2)

    def linear_gelu(self, linear: nn.Module, x: Tensor) -> Tensor:
        """Return GELU (tanh form) of a linear layer's result."""
        return F.gelu(linear(x), approximate="tanh")


PLAIN = Arithmetic()


def use(module: nn.Module, arithmetic: Arithmetic) -> int:
    """Set the arithmetic of all parts of a module; return how many there are."""
    users = [part for part in module.modules() if isinstance(getattr(part, "arithmetic", None), Arithmetic)]
    for part in users:
        part.__dict__["arithmetic"] = arithmetic  # hides the class's own
    return len(users)
