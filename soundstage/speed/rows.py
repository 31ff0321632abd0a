"""Norms, modulation and rotation on the CPU in groups of rows that stay in the core's cache.

PyTorch applies every operator to the whole tensor, so that norming, scaling and rotating 1536 tokens of width
1024 reads and writes the memory ten times. Here all operators are applied to a group of rows before the next
group. Tensors that fit the cache as a whole are left to PyTorch.
Sums are over single rows, so that neither the groups nor the number of threads changes a bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from soundstage.model.arithmetic import ModulationRows
from soundstage.model.modulation import Modulation, spread
from soundstage.model.rope import Rotation
from soundstage.speed.layers import LayerArithmetic, watched

GROUP_BYTES = 512 * 1024  # of float32 values: half of a usual core's own cache
MIN_NUMBERS = 1 << 18
CPU_DTYPES = (torch.float32, torch.bfloat16)
GELU_CUBE, GELU_LINE = 0.07135481282, 1.595769122  # 2 sqrt(2/pi) times 0.044715 and 1


def is_plain(*tensors: Tensor | None) -> bool:
    """Return whether tensors are for inference on the CPU in one format, without autograd and autocast."""
    given = [t for t in tensors if t is not None]
    return (
        given[0].dtype in CPU_DTYPES
        and all(t.device.type == "cpu" and t.dtype == given[0].dtype for t in given)
        and not (torch.is_grad_enabled() and any(t.requires_grad for t in given))
        and not torch.is_autocast_enabled("cpu")
    )


def even_share(length: int, most: int) -> int:
    """Return the size of parts, at most `most`, that leaves no small rest."""
    return math.ceil(length / math.ceil(length / most))


def _is_large(x: Tensor, *others: Tensor) -> bool:
    """Return whether x is large enough for groups."""
    return x.numel() >= MIN_NUMBERS and is_plain(x, *others)


class RowArithmetic(LayerArithmetic):
    """Compute the same numbers up to rounding: norms are float32 inside, in both formats."""

    def norm(self, x: Tensor, eps: float) -> Tensor:
        if not _is_large(x):
            return super().norm(x, eps)
        out = torch.empty(x.shape, dtype=x.dtype)
        flat, target = x.reshape(-1, x.shape[-1]), out.view(-1, x.shape[-1])
        buffer = _Buffer(flat)
        for rows in _groups(*flat.shape):
            target[rows] = buffer.normed(flat[rows], eps)
        return out

    def modulated_norms(
        self, x: Tensor, eps: float, rows: Modulation, places: Sequence[ModulationRows]
    ) -> tuple[Tensor, ...]:
        if not _is_large(x, rows.rows):
            return super().modulated_norms(x, eps, rows, places)
        made = [_Modulated.of(x, rows, place) for place in places]
        buffer = _Buffer(x[0])
        for sample in range(len(x)):
            for group in _groups(*x.shape[1:]):
                normed = buffer.normed(x[sample, group], eps)
                for one in made:
                    one.write(sample, group, normed)
        return tuple(one.out for one in made)

    def heads(self, x: Tensor, norm: nn.RMSNorm, num_heads: int, rotation: Rotation | None) -> Tensor:
        if not _is_large(x, norm.weight) or watched(norm) or norm.eps is None:
            return super().heads(x, norm, num_heads, rotation)
        out = torch.empty(*x.shape[:-1], num_heads, x.shape[-1] // num_heads, dtype=x.dtype)
        buffer = _Buffer(x[0])
        for sample in range(len(x)):
            turn = None if rotation is None else _Turn.of(rotation, sample)
            flat = out[sample].view(*x.shape[1:])
            for group in _groups(*x.shape[1:]):
                normed = buffer.normed(x[sample, group], norm.eps).mul_(norm.weight)
                if turn is None:
                    flat[group] = normed
                else:
                    turn.write(out[sample, group], normed.view(len(normed), num_heads, -1), group)
        return out


def gelu_by_rows(x: Tensor) -> Tensor:
    """Return GELU (tanh form) as x sigmoid(2u), in place. x (..., D): float32, contiguous, not shared."""
    flat = x.view(-1, x.shape[-1])
    for rows in _groups(*flat.shape):
        part = flat[rows]
        half = (part * part).mul_(GELU_CUBE).add_(GELU_LINE).mul_(part).sigmoid_()
        part.mul_(half)
    return x


def _groups(num_rows: int, width: int) -> Iterator[slice]:
    """Return slices over rows whose float32 values fit GROUP_BYTES."""
    size = max(1, GROUP_BYTES // (4 * width))
    return (slice(start, start + size) for start in range(0, num_rows, size))


class _Buffer:
    """Hold memory for one group of rows (n, D), used again for each."""

    def __init__(self, rows: Tensor) -> None:
        first = next(_groups(*rows.shape), slice(0, 0))
        self._memory = torch.empty(min(first.stop, len(rows)), rows.shape[1])

    def normed(self, rows: Tensor, eps: float) -> Tensor:
        """Return rows (n, D) over their root mean square, float32; valid until the next call."""
        out = self._memory[: len(rows)]
        wide = rows if rows.dtype == torch.float32 else out.copy_(rows)
        squares = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_()
        return torch.mul(wide, squares.div_(rows.shape[-1]).add_(eps).rsqrt_(), out=out)


class _Modulated(NamedTuple):
    """Hold one place of a modulation and its result `out` (B, N, D).

    scale, shift: (B, N or 1, D) float32; scale includes its 1.
    """

    out: Tensor
    scale: Tensor
    shift: Tensor

    @classmethod
    def of(cls, x: Tensor, rows: Modulation, place: ModulationRows) -> _Modulated:
        scale = spread(1 + rows.rows[:, :, place.scale], rows.group_of)
        shift = rows.row(place.shift)
        size = (len(x), *scale.shape[1:])
        return cls(
            torch.empty(x.shape, dtype=x.dtype), scale.float().expand(size), shift.float().expand(size)
        )

    def write(self, sample: int, group: slice, normed: Tensor) -> None:
        part = slice(None) if self.scale.shape[1] == 1 else group
        target, shift, scale = self.out[sample, group], self.shift[sample, part], self.scale[sample, part]
        if target.dtype == torch.float32:
            torch.addcmul(shift, normed, scale, out=target)
        else:
            target.copy_(torch.addcmul(shift, normed, scale))


class _Turn(NamedTuple):
    """Hold the rotation of one sample, (N, H, 2r) each; see model/rope.py."""

    cos: Tensor
    sin: Tensor

    @classmethod
    def of(cls, rotation: Rotation, sample: int) -> _Turn:
        at = sample if len(rotation.cos) > 1 else 0
        return cls(rotation.cos[at], rotation.sin[at])

    def write(self, out: Tensor, heads: Tensor, group: slice) -> None:
        """Rotate float32 heads (n, H, 2r) into out."""
        first, second = heads.chunk(2, dim=-1)
        partners = torch.cat([second, first], dim=-1).mul_(self.sin[group])
        out.copy_(heads.mul_(self.cos[group]).add_(partners))
