"""Normalised attention guidance (NAG): steering away from a negative text inside text attention.

For distilled models, which run without a second, negative pass. The same queries read both texts; the
result is pushed away from what the negative text gave, kept from growing, and mixed back.
Source: Chen et al. 2025; constants and order: docs/model/sampling.md, "NAG".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class NegativeText:
    """What a stream is steered away from.

    context: (B or 1, S, D) from the connector, like the positive one; no bias applies to it. scale: how far
    away, 1 is not at all. alpha: 0 to 1, how much of the result is used. tau: the most times longer it may
    be than the positive result. samples: numbers of the batch's samples it applies to; None is all.
    """

    context: Tensor
    scale: float = 11.0
    alpha: float = 0.25
    tau: float = 2.5
    samples: Sequence[int] | None = None

    def to(self, dtype: torch.dtype) -> NegativeText:
        return replace(self, context=self.context.to(dtype))


def steered(positive: Tensor, negative: Tensor, text: NegativeText) -> Tensor:
    """Attention results (B, N, H, d), before the head gates, of both texts -> the steered one.

    G = scale Z+ - (scale - 1) Z-, shortened to tau times the length of Z+ where it is longer, then
    alpha G + (1 - alpha) Z+. Lengths are sums of magnitudes over all heads of a token, in float32.
    """
    z, other = positive.float(), negative.float()
    away = text.scale * z - (text.scale - 1) * other
    length, away_length = _length(z), _length(away)
    growth = torch.nan_to_num(away_length / length, nan=10.0)
    shortened = away * (text.tau * length / (away_length + 1e-7))
    away = torch.where(growth > text.tau, shortened, away)
    return (text.alpha * away + (1 - text.alpha) * z).to(positive.dtype)


def _length(heads: Tensor) -> Tensor:
    """(B, N, H, d) -> (B, N, 1, 1)."""
    return heads.abs().sum(dim=(-2, -1), keepdim=True)
