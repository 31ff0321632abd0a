"""Strengths that hold for a part of the clip, such as a LoRA's, as one weight per token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from soundstage.errors import RequestError


@dataclass(frozen=True)
class Strength:
    """Hold a strength from start_s up to end_s, in seconds from the start of the clip."""

    start_s: float
    end_s: float
    strength: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.start_s < self.end_s:
            raise RequestError(
                f"a span from {self.start_s:g} to {self.end_s:g} s is empty; start at 0 or later, end after"
            )


def token_weights(positions: Tensor, spans: Sequence[Strength]) -> Tensor:
    """Return a weight per token, (N,) float32: the strength of the span that holds its middle, else 0.

    positions: (1, A, N, 2), seconds on the first axis; reference tokens before the clip get 0. Where spans
    overlap, the later one in the list holds.
    """
    middle = positions[0, 0].float().mean(-1)
    weights = torch.zeros_like(middle)
    for span in spans:
        weights[(middle >= span.start_s) & (middle < span.end_s)] = span.strength
    return weights
