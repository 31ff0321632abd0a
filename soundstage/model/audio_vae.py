"""Audio VAE: stereo log-mel (B, 2, M, 64) <-> normalised latents (B, 8, T, 16), 25 latents a second.

T = ceil(M / 4) for the encoder, M = 4T - 3 for the decoder. Time is dim 2 and causal in both: latent i
depends on mel frames up to 4i, mel frame m on latents up to ceil(m / 4). No attention, no learned norm.
Checkpoint names are the attribute names (`encoder.down.0.block.1.conv2.conv.weight`, ...).

Source: docs/model/audio.md, "Audio VAE"; numbers held by tests/parity/test_audio_vae.py.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soundstage.model.config import AudioVaeConfig
from soundstage.model.precision import with_exact_products
from soundstage.model.statistics import ChannelStatistics

NORM_EPS = 1e-6


def pixel_norm(x: Tensor) -> Tensor:
    """Divide by the root mean square over channels (dim 1), in x's dtype."""
    return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + NORM_EPS)


def patchify_audio(latents: Tensor) -> Tensor:
    """Return latents (B, 8, T, 16) as tokens (B, T, 128); the feature index is channel * 16 + row."""
    return latents.transpose(1, 2).flatten(2)


def unpatchify_audio(tokens: Tensor, latent_channels: int = 8) -> Tensor:
    """Undo `patchify_audio`."""
    return torch.unflatten(tokens, 2, (latent_channels, -1)).transpose(1, 2)


class CausalConv(nn.Module):
    """Convolve 3x3 and keep the size: zeros before the first frame and on both mel sides."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (1, 1, 2, 0)))  # type: ignore[no-any-return]


class PointConv(nn.Module):
    """Convolve 1x1, nested as the checkpoint nests every convolution."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)  # type: ignore[no-any-return]


class ResBlock(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = CausalConv(in_channels, out_channels)
        self.conv2 = CausalConv(out_channels, out_channels)
        self.nin_shortcut = PointConv(in_channels, out_channels) if in_channels != out_channels else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(pixel_norm(x)))
        h = self.conv2(F.silu(pixel_norm(h)))
        shortcut = x if self.nin_shortcut is None else self.nin_shortcut(x)
        return shortcut + h  # type: ignore[no-any-return]


class Downsample(nn.Module):
    """Halve both axes: frames L -> ceil(L / 2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 2, 0)))  # type: ignore[no-any-return]


class Upsample(nn.Module):
    """Double both axes and drop the first frame, which has no pair: frames L -> 2L - 1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = CausalConv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))[:, :, 1:]  # type: ignore[no-any-return]


class Middle(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block_1 = ResBlock(channels, channels)
        self.block_2 = ResBlock(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.block_1(x))  # type: ignore[no-any-return]


class Level(nn.Module):
    """Apply residual blocks at one resolution, then change the scale if another level follows."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_blocks: int,
        *,
        downsample: bool = False,
        upsample: bool = False,
    ) -> None:
        super().__init__()
        widths = [in_channels] + [out_channels] * num_blocks
        self.block = nn.ModuleList(ResBlock(widths[i], widths[i + 1]) for i in range(num_blocks))
        self.downsample = Downsample(out_channels) if downsample else None
        self.upsample = Upsample(out_channels) if upsample else None

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        if self.downsample is not None:
            x = self.downsample(x)
        if self.upsample is not None:
            x = self.upsample(x)
        return x


class AudioEncoder(nn.Module):
    """Encode log-mel (B, 2, M, 64) as means of latents, not yet normalised, (B, 8, ceil(M / 4), 16)."""

    def __init__(self, config: AudioVaeConfig) -> None:
        super().__init__()
        self.latent_channels = config.latent_channels
        widths = [config.base_channels * m for m in config.channel_multipliers]
        self.conv_in = CausalConv(2, config.base_channels)
        self.down = nn.ModuleList()
        width, last = config.base_channels, len(widths) - 1
        for i, out_width in enumerate(widths):
            self.down.append(Level(width, out_width, config.num_res_blocks, downsample=i < last))
            width = out_width
        self.mid = Middle(width)
        self.conv_out = CausalConv(width, 2 * config.latent_channels)

    def forward(self, mel: Tensor) -> Tensor:
        return self.posterior(mel)[:, : self.latent_channels]

    def posterior(self, mel: Tensor) -> Tensor:
        """Return the means and then their log-variances, (B, 16, ceil(M / 4), 16), for training."""
        x = self.conv_in(mel)
        for level in self.down:
            x = level(x)
        return self.conv_out(F.silu(pixel_norm(self.mid(x))))  # type: ignore[no-any-return]


class AudioDecoder(nn.Module):
    """Decode denormalised latents (B, 8, T, 16) to log-mel (B, 2, 4T - 3, 64)."""

    def __init__(self, config: AudioVaeConfig) -> None:
        super().__init__()
        widths = [config.base_channels * m for m in config.channel_multipliers]
        width = widths[-1]
        self.conv_in = CausalConv(config.latent_channels, width)
        self.mid = Middle(width)
        levels: list[Level] = []
        for i in reversed(range(len(widths))):
            levels.append(Level(width, widths[i], config.num_res_blocks + 1, upsample=i > 0))
            width = widths[i]
        # The checkpoint numbers levels by resolution, finest first; they are computed in reverse.
        self.up = nn.ModuleList(reversed(levels))
        self.conv_out = CausalConv(width, 2)

    def forward(self, latents: Tensor) -> Tensor:
        x = self.mid(self.conv_in(latents))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(F.silu(pixel_norm(x)))  # type: ignore[no-any-return]


class AudioVae(nn.Module):
    """Hold encoder, decoder and their statistics, one pair per (channel, row) of a latent."""

    def __init__(self, config: AudioVaeConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = AudioEncoder(config)
        self.decoder = AudioDecoder(config)
        self.per_channel_statistics = ChannelStatistics(config.latent_channels * config.latent_bins)

    @with_exact_products
    def encode(self, mel: Tensor) -> Tensor:
        """Encode log-mel (B, 2, M, 64) as normalised latents (B, 8, ceil(M / 4), 16).

        Raises ValueError for another number of channels or bins.
        """
        if mel.ndim != 4 or mel.shape[1] != 2 or mel.shape[3] != self.config.mel_bins:
            raise ValueError(
                f"the audio encoder takes stereo log-mel (B, 2, M, {self.config.mel_bins}), "
                f"not {tuple(mel.shape)}; make it with soundstage.model.mel.log_mel"
            )
        means = patchify_audio(self.encoder(mel)).transpose(1, 2)
        latents = self.per_channel_statistics.normalize(means).transpose(1, 2)
        return unpatchify_audio(latents, self.config.latent_channels)

    @with_exact_products
    def decode(self, latents: Tensor) -> Tensor:
        """Decode normalised latents (B, 8, T, 16) to log-mel (B, 2, 4T - 3, 64)."""
        features = patchify_audio(latents).transpose(1, 2)
        means = self.per_channel_statistics.denormalize(features).transpose(1, 2)
        return self.decoder(unpatchify_audio(means, self.config.latent_channels))  # type: ignore[no-any-return]
