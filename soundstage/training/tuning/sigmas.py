"""Draw the noise levels of a batch, as the model itself was trained.

A normal number around a shift that grows with the tokens of the target goes through a sigmoid; the result is
stretched to 0 ... 1, and what falls below a small level is reflected. Some levels are uniform instead. With a
shift of the config's own nothing is stretched, which would undo a large one.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from soundstage.training.tuning.config import NoiseLevels

# The shift is a line through these points: (tokens, shift).
FIRST, SECOND = (1024, 0.95), (4096, 2.05)
LOW_QUANTILE, HIGH_QUANTILE = -2.5758, 3.0902  # 0.5 % and 99.9 % of a normal number, which become 0 and 1
LEAST = 1e-3


def shift_of(num_tokens: int) -> float:
    """Return the centre of the normal number for a target of so many tokens."""
    slope = (SECOND[1] - FIRST[1]) / (SECOND[0] - FIRST[0])
    return FIRST[1] + slope * (num_tokens - FIRST[0])


def drawn_sigmas(
    rng: np.random.Generator, count: int, num_tokens: int, levels: NoiseLevels
) -> NDArray[np.float64]:
    """Return noise levels (count,) in [0, 1]. num_tokens: how many the target has, without references."""
    uniform = rng.uniform(LEAST, 1.0, count)
    is_uniform = rng.random(count) < levels.uniform_share
    normal = rng.standard_normal(count)
    if levels.kind == "uniform":
        return uniform
    shift = shift_of(num_tokens) if levels.shift is None else levels.shift
    drawn = 1 / (1 + np.exp(-(normal + shift)))
    if levels.shift is not None:
        return np.where(is_uniform, uniform, drawn)
    low, high = _sigmoid(shift + LOW_QUANTILE), _sigmoid(shift + HIGH_QUANTILE)
    stretched = (drawn - low) / (high - low)
    reflected = np.where(stretched < LEAST, 2 * LEAST - stretched, stretched)
    return np.where(is_uniform, uniform, reflected.clip(0.0, 1.0))


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))
