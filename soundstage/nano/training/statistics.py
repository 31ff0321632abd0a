"""Fit mean and spread of a VAE's latents at the end of its training, so that they have unit scale."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from soundstage.model.statistics import ChannelStatistics


@torch.no_grad()
def fit_statistics(statistics: ChannelStatistics, means: Iterable[Tensor]) -> None:
    """Store the mean and standard deviation per channel over all of `means`.

    means: encoder means before normalisation, (B, C, ...) each, C as in `statistics`. Raises ValueError
    when there are none.
    """
    count = 0
    total = square = torch.zeros((), dtype=torch.float64)
    for batch in means:
        rows = batch.double().transpose(0, 1).flatten(1)  # (C, everything else)
        count += rows.shape[1]
        total = total + rows.sum(dim=1)
        square = square + rows.square().sum(dim=1)
    if not count:
        raise ValueError("there are no latents to measure")
    mean = total / count
    spread = (square / count - mean.square()).clamp(min=1e-12).sqrt()
    statistics.get_buffer("mean-of-means").copy_(mean)
    statistics.get_buffer("std-of-means").copy_(spread)
