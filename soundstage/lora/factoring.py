"""Low-rank factors of a change, at a smaller rank than it has: by singular values, in float32.

A pair is never multiplied out: its singular values are those of the product of two triangles, rank x rank.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from soundstage.lora.asked import RankLimit
from soundstage.lora.forms import Difference, Hadamard, Kronecker, LayerChange
from soundstage.lora.layers import Layer, LowRank

# A matrix with a side of so many times the wanted rank is factored exactly; beyond it, from random products.
EXACT_SIDES, OVERSAMPLING, ROUNDS = 4, 16, 4


@dataclass(frozen=True)
class LayerFit:
    """A layer of a file that was made. norm: that of the wanted change; error: that of what is off."""

    name: str
    rank: int
    norm: float
    error: float

    @property
    def share(self) -> float:
        """Return the error over the norm."""
        return self.error / self.norm if self.norm else 0.0


@dataclass(frozen=True)
class LoraMade:
    """A LoRA file that was made, and how near its layers are to what was wanted of them."""

    path: Path
    num_bytes: int
    layers: tuple[LayerFit, ...]
    notices: tuple[str, ...] = ()

    @property
    def error(self) -> float:
        """Return the norm of what is off in all layers over that of the wanted change."""
        norm = sum(layer.norm**2 for layer in self.layers) ** 0.5
        return sum(layer.error**2 for layer in self.layers) ** 0.5 / norm if norm else 0.0

    @property
    def worst(self) -> LayerFit:
        """Return the layer with the largest error for its size."""
        return max(self.layers, key=lambda layer: layer.share)

    @property
    def ranks(self) -> tuple[int, int]:
        """Return the smallest and the largest rank."""
        ranks = [layer.rank for layer in self.layers]
        return min(ranks), max(ranks)

    @property
    def mean_rank(self) -> float:
        return sum(layer.rank for layer in self.layers) / len(self.layers)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {
            "path": str(self.path),
            "num_bytes": self.num_bytes,
            "layers": len(self.layers),
            "rank": list(self.ranks),
            "mean_rank": round(self.mean_rank, 2),
            "error": round(self.error, 8),
            "worst": {"layer": self.worst.name, "error": round(self.worst.share, 8)},
            "notices": list(self.notices),
        }


def singular_values(change: LayerChange) -> Tensor:
    """Return the singular values of a change, falling, float32."""
    if isinstance(change, Kronecker):
        return change.singular()[1]
    if isinstance(change, Difference):
        whole: Tensor = torch.linalg.svdvals(change.delta())
        return whole
    _, middle, _ = _triangles(_pair(change))
    values: Tensor = torch.linalg.svdvals(middle)
    return values


def truncated(change: LayerChange, limit: RankLimit) -> LowRank:
    """Return a change as a pair within the limit, in float32; a pair itself where nothing is cut."""
    if isinstance(change, Kronecker):
        left, values, right = change.singular()
        return _of_singular(left, values, right, limit.of(values, float(values.double().square().sum())))
    if isinstance(change, Difference):
        return factored(change.delta(), limit.rank or change.rank, limit)
    pair = _pair(change)
    q_up, middle, q_down = _triangles(pair)
    left, values, right = torch.linalg.svd(middle)
    kept = limit.of(values, float(values.double().square().sum()))
    if kept == len(values) and pair.rank <= (limit.rank or pair.rank):
        return pair
    root = values[:kept].sqrt()
    down = root[:, None] * (right[:kept] @ q_down.T)
    return replace(pair, down=down, up=(q_up @ left[:, :kept]) * root, scale=1.0)


def factored(matrix: Tensor, rank: int, limit: RankLimit) -> LowRank:
    """Return a float32 matrix (out, in) as a pair of at most this rank. The same numbers every time."""
    if min(matrix.shape) <= EXACT_SIDES * (rank + OVERSAMPLING):
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            left, values, across = torch.svd_lowrank(matrix, q=rank + OVERSAMPLING, niter=ROUNDS)
        right = across.T
    kept = min(rank, limit.of(values, float(torch.linalg.vector_norm(matrix, dtype=torch.float64) ** 2)))
    return _of_singular(left, values, right, kept)


def in_dtype(pair: LowRank, dtype: torch.dtype) -> LowRank:
    """Return a pair as a file will hold it: rounded to a dtype, with its scale folded in."""
    up = pair.up if pair.scale == 1 else pair.up.float() * pair.scale
    return replace(pair, down=pair.down.to(dtype), up=up.to(dtype), scale=1.0)


def empty_pair(shape: tuple[int, ...], rank: int) -> LowRank:
    """Return a pair without values, on the meta device, for a weight of this shape (out, in)."""
    rows, columns = shape
    rank = min(rank, rows, columns)
    return LowRank(torch.empty(rank, columns, device="meta"), torch.empty(rows, rank, device="meta"))


def fit_of(layer: Layer, wanted: Sequence[LowRank], made: LowRank) -> LayerFit:
    """Return how near a pair is to the sum of others, without multiplying any of them out."""
    norm = joined(wanted).norm()
    if len(wanted) == 1 and made.down is wanted[0].down and made.up is wanted[0].up:
        return LayerFit(".".join(layer), made.rank, norm, 0.0)
    error = joined([*wanted, replace(made, scale=-made.scale)]).norm()
    return LayerFit(".".join(layer), made.rank, norm, error)


def fit_of_change(layer: Layer, wanted: LayerChange, made: LowRank) -> LayerFit:
    """Return how near a pair is to one change; a change that is no pair is multiplied out."""
    if isinstance(wanted, LowRank):
        return fit_of(layer, [wanted], made)
    whole = wanted.delta()
    error = float(torch.linalg.vector_norm(whole - made.delta(), dtype=torch.float64))
    return LayerFit(".".join(layer), made.rank, wanted.norm(), error)


def joined(pairs: Iterable[LowRank]) -> LowRank:
    """Return one pair that changes a weight as all of them do together: their ranks add up. float64."""
    pairs = list(pairs)
    down = torch.cat([pair.down.double() for pair in pairs])
    return LowRank(down, torch.cat([pair.up.double() * pair.scale for pair in pairs], dim=1))


def _pair(change: LowRank | Hadamard) -> LowRank:
    return change.pair() if isinstance(change, Hadamard) else change


def _of_singular(left: Tensor, values: Tensor, right: Tensor, kept: int) -> LowRank:
    """Return the pair of the first singular values, each shared out between both factors."""
    root = values[:kept].sqrt()
    return LowRank(root[:, None] * right[:kept], left[:, :kept] * root)


def _triangles(pair: LowRank) -> tuple[Tensor, Tensor, Tensor]:
    """Return (q_up, middle, q_down) with scale * up @ down = q_up @ middle @ q_down^T, in float32."""
    q_up, r_up = torch.linalg.qr(pair.up.float() * pair.scale)
    q_down, r_down = torch.linalg.qr(pair.down.float().T)
    return q_up, r_up @ r_down.T, q_down
