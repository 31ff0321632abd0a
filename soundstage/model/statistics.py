"""Mean and spread of the latents, stored beside both VAEs: from encoder means to latents."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ChannelStatistics(nn.Module):
    """Hold the mean and standard deviation of each latent channel over the training set."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean-of-means", torch.zeros(channels))
        self.register_buffer("std-of-means", torch.ones(channels))

    def _vectors(self, like: Tensor) -> tuple[Tensor, Tensor]:
        shape = (1, -1) + (1,) * (like.ndim - 2)
        mean: Tensor = self.get_buffer("mean-of-means")
        std: Tensor = self.get_buffer("std-of-means")
        return mean.to(like).view(shape), std.to(like).view(shape)

    def normalize(self, x: Tensor) -> Tensor:
        """Return latents of about unit variance from encoder means (B, C, ...)."""
        mean, std = self._vectors(x)
        return (x - mean) / std

    def denormalize(self, x: Tensor) -> Tensor:
        """Undo `normalize`."""
        mean, std = self._vectors(x)
        return x * std + mean
