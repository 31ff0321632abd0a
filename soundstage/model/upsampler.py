"""Latent upsamplers: denormalised video latents (B, 128, T, H, W) -> more cells or more frames.

"space": height and width by 2, or by 3/2 through a shuffle up and a blurred step down. "time": T -> 2T - 1.
Convolutions are plain (zeros on every side, not causal) and GroupNorm spans the whole clip, so a clip must
be upsampled as a whole: tiles or chunks give another result. Checkpoint names are the attribute names.

Source: docs/model/video-vae.md, "Upsamplers"; numbers held by tests/parity/test_upsampler.py.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soundstage.model.config import UpsamplerConfig
from soundstage.model.statistics import ChannelStatistics

NORM_GROUPS = 32


class ResBlock(nn.Module):
    """Convolve, norm and activate twice; the second activation comes after the sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(channels, channels, 3, padding=1)
        self.norm1 = nn.GroupNorm(NORM_GROUPS, channels)
        self.conv2 = nn.Conv3d(channels, channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(NORM_GROUPS, channels)

    def forward(self, x: Tensor) -> Tensor:
        h = F.silu(self.norm1(self.conv1(x)))
        return F.silu(x + self.norm2(self.conv2(h)))


class ShuffleSpace(nn.Module):
    """Move channels into space: (N, C * scale^2, H, W) -> (N, C, scale * H, scale * W)."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(x, self.scale)


class ShuffleTime(nn.Module):
    """Move channels into time: (B, 2C, T, H, W) -> (B, C, 2T - 1, H, W), without the first frame's twin."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.unflatten(x, 1, (-1, 2)).transpose(2, 3).flatten(2, 3)[:, :, 1:]


class BlurDown(nn.Module):
    """Blur each channel by a binomial 5x5 and keep every `stride`-th pixel; stride 1 changes nothing."""

    kernel: Tensor

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride
        row = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
        self.register_buffer("kernel", torch.outer(row, row)[None, None])

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 1:
            return x
        channels = x.shape[1]
        kernel = self.kernel.to(x.dtype).expand(channels, -1, -1, -1)
        return F.conv2d(x, kernel, stride=self.stride, padding=2, groups=channels)


class RationalResampler(nn.Module):
    """Scale frames (N, C, H, W) by num / den on each side, sizes rounded up."""

    def __init__(self, channels: int, num: int, den: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels * num**2, 3, padding=1)
        self.shuffle = ShuffleSpace(num)
        self.blur_down = BlurDown(den)

    def forward(self, x: Tensor) -> Tensor:
        return self.blur_down(self.shuffle(self.conv(x)))  # type: ignore[no-any-return]


def _scale_change(config: UpsamplerConfig) -> nn.Module:
    width = config.mid_channels
    num, den = config.scale
    if config.kind == "time":
        return nn.Sequential(nn.Conv3d(width, 2 * width, 3, padding=1), ShuffleTime())
    if config.rational:
        return RationalResampler(width, num, den)
    return nn.Sequential(nn.Conv2d(width, width * num**2, 3, padding=1), ShuffleSpace(num))


class LatentUpsampler(nn.Module):
    def __init__(self, config: UpsamplerConfig) -> None:
        super().__init__()
        self.config = config
        width, count = config.mid_channels, config.blocks_per_stage
        self.initial_conv = nn.Conv3d(config.latent_channels, width, 3, padding=1)
        self.initial_norm = nn.GroupNorm(NORM_GROUPS, width)
        self.res_blocks = nn.ModuleList(ResBlock(width) for _ in range(count))
        self.upsampler = _scale_change(config)
        self.post_upsample_res_blocks = nn.ModuleList(ResBlock(width) for _ in range(count))
        self.final_conv = nn.Conv3d(width, config.latent_channels, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        """Upsample denormalised latents (B, 128, T, H, W) to (B, 128, T', H', W').

        T' = 2T - 1 for "time"; H' = ceil(H * num / den), and W' likewise, for "space".
        """
        x = F.silu(self.initial_norm(self.initial_conv(latents)))
        for block in self.res_blocks:
            x = block(x)
        x = self.upsampler(x) if self.config.kind == "time" else self._each_frame(x)
        for block in self.post_upsample_res_blocks:
            x = block(x)
        return self.final_conv(x)  # type: ignore[no-any-return]

    def _each_frame(self, x: Tensor) -> Tensor:
        batch = x.shape[0]
        frames = self.upsampler(x.transpose(1, 2).flatten(0, 1))
        return torch.unflatten(frames, 0, (batch, -1)).transpose(1, 2)


def upsample_latents(latents: Tensor, upsampler: LatentUpsampler, statistics: ChannelStatistics) -> Tensor:
    """Upsample normalised latents, which are denormalised for the upsampler and normalised again."""
    return statistics.normalize(upsampler(statistics.denormalize(latents)))
