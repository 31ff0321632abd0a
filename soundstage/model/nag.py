"""Normalised attention guidance (NAG): steering away from a negative text inside text attention.

For distilled models, which run without a negative pass. The same queries attend to both texts. The positive
result is moved away from the negative one, limited in length, and mixed back.
Source: Chen et al. 2025; constants and order: docs/model/sampling.md, "NAG".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class NegativeText:
    """Hold the text that a stream is steered away from, and how strongly.

    context: (B or 1, S, D) from the connector, like the positive one; no bias applies to it. scale: the
    strength, 1 changes nothing. alpha: the share of the result that is used, 0 to 1. tau: the limit of its
    length, in lengths of the positive result. samples: numbers of the samples it applies to; None is all.
    """

    context: Tensor
    scale: float = 11.0
    alpha: float = 0.25
    tau: float = 2.5
    samples: Sequence[int] | None = None

    def to(self, dtype: torch.dtype) -> NegativeText:
        return replace(self, context=self.context.to(dtype))


def steered(positive: Tensor, negative: Tensor, text: NegativeText) -> Tensor:
    """Return the steered attention result (B, N, H, d), before the head gates, from those of both texts.

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
    """Return the sum of magnitudes of each token: (B, N, H, d) -> (B, N, 1, 1)."""
    return heads.abs().sum(dim=(-2, -1), keepdim=True)
