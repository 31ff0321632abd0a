"""From the noise level to the blocks: a sinusoid, a small network, rows of scale, shift and gate.

Many tokens share one timestep (all of a clip's, but for conditioning frames), so rows are computed once
per group of equal timesteps and spread to the tokens where they are used.

Source: docs/model/transformer.md, "Modulation".
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SINUSOID_WIDTH = 256


def sinusoid(t: Tensor) -> Tensor:
    """Return the sinusoidal embedding (..., 256) of numbers (...), float32, cosines first."""
    half = SINUSOID_WIDTH // 2
    exponents = torch.arange(half, dtype=torch.float32, device=t.device) * (-math.log(10000.0) / half)
    angles = t.float().unsqueeze(-1) * exponents.exp()
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class TimestepEmbedder(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(SINUSOID_WIDTH, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, t: Tensor, dtype: torch.dtype) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(sinusoid(t).to(dtype))))  # type: ignore[no-any-return]


class _Embedding(nn.Module):
    """Hold the level `emb.` of the published names."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.timestep_embedder = TimestepEmbedder(width)


class AdaLN(nn.Module):
    """Make `num_rows` modulation rows from timesteps (already times 1000)."""

    def __init__(self, width: int, num_rows: int) -> None:
        super().__init__()
        self.num_rows = num_rows
        self.emb = _Embedding(width)
        self.linear = nn.Linear(width, num_rows * width)

    def forward(self, t: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return rows (..., num_rows, width) and the embedded timestep (..., width) of t (...), float32."""
        embedded = self.emb.timestep_embedder(t, dtype)
        return self.linear(F.silu(embedded)).unflatten(-1, (self.num_rows, -1)), embedded


class TokenGroups(NamedTuple):
    """Hold groups of tokens that share a timestep in every sample.

    first: (G,) one token of each group. group_of: (N,) the group of each token, or None if there is only one
    group, whose rows then broadcast.
    """

    first: Tensor
    group_of: Tensor | None

    @classmethod
    def of(cls, timesteps: Tensor) -> TokenGroups:
        """Return the groups of equal columns of (B, N)."""
        columns, index = torch.unique(timesteps, dim=1, return_inverse=True)
        if columns.shape[1] == 1:
            return cls(index[:1], None)
        tokens = torch.arange(index.numel(), device=index.device)
        first = torch.full_like(columns[0], index.numel(), dtype=index.dtype)
        return cls(first.scatter_reduce(0, index, tokens, "amin"), index)

    def gather(self, per_token: Tensor) -> Tensor:
        """Return each group's value: (B, N) -> (B, G)."""
        return per_token.index_select(1, self.first)


def spread(per_group: Tensor, group_of: Tensor | None) -> Tensor:
    """Give each token its group's row: (B, G, D) -> (B, N, D), or (B, 1, D) as it is for a single group."""
    return per_group if group_of is None else per_group.index_select(1, group_of)


class Modulation(NamedTuple):
    """Hold rows (B, G, num_rows, D) of one block; group_of as in TokenGroups, None for a single group."""

    rows: Tensor
    group_of: Tensor | None = None

    @classmethod
    def of(cls, table: Tensor, rows: Tensor, group_of: Tensor | None = None) -> Modulation:
        """Add a block's own table (num_rows, D), stored in float32 and cast before the sum, to the rows."""
        return cls(table.to(rows.dtype) + rows, group_of)

    def row(self, i: int) -> Tensor:
        """Return one row for each token, (B, N or 1, D)."""
        return spread(self.rows[:, :, i], self.group_of)

    def apply(self, x: Tensor, *, scale: int, shift: int) -> Tensor:
        """Return x * (1 + scale) + shift, for row numbers of this modulation."""
        return torch.addcmul(self.row(shift), x, spread(1 + self.rows[:, :, scale], self.group_of))
