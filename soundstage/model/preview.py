"""Previews while denoising: normalised latents to small or rough frames, at a small part of a decode's cost.

`TinyDecoder` is the decoder of a tiny VAE of the TAEHV family (the published `taeltx2_3`, or nano's own): 2-D
convolutions and, in each block, the frame before, so it is causal. `LinearPreview` needs no file: one linear
map from a cell's 128 numbers to a patch of colours, fitted to what the model's own decoder makes.
Both have `decode`, which gives pixels as `VideoVae.decode` does, but smaller and, the linear one, fewer.

Source of the structure: docs/model/video-vae.md, "Tiny preview decoder".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soundstage.errors import WeightsError
from soundstage.model.video_vae import VideoVae
from soundstage.types import LATENT_CHANNELS

BLOCKS_PER_STAGE = 3
# Random stills that a linear map is fitted to, and what share of a cell's variance all cells of a still have
# in common: cells of a picture are alike. On nano this is 2 dB nearer to true previews than white noise.
FIT_STILLS, FIT_CELLS = 96, 3
FIT_COMMON = 0.81
PATCH = 4


class Bound(nn.Module):
    """Apply 3 tanh(x / 3): latents of a noisy step stay within the range that was trained on."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


class MemoryBlock(nn.Module):
    """Apply a residual block that also reads the frame before; zeros before the first."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(2 * channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor, batch: int) -> Tensor:
        """Update frames (batch * T, C, H, W), those of a clip together."""
        clips = torch.unflatten(x, 0, (batch, -1))
        before = F.pad(clips, (0, 0, 0, 0, 0, 0, 1, 0))[:, :-1].flatten(0, 1)
        return F.relu(x + self.conv(torch.cat([x, before], dim=1)))


class GrowTime(nn.Module):
    """Make two frames of each."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 2 * channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.unflatten(self.conv(x), 1, (2, -1)).flatten(0, 1)


@dataclass(frozen=True)
class TinyVaeConfig:
    """Hold the structure of a tiny VAE's decoder.

    widths: channels of the three stages and of the layers after them. patch: side of an output cell, in
    pixels.

    The decoder makes 8 patch pixels a side of a latent cell: patch 4 is full size, 1 a quarter of it.
    """

    latent_channels: int = LATENT_CHANNELS
    widths: tuple[int, int, int, int] = (256, 128, 64, 64)
    patch: int = 4

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, tuple[int, ...]]) -> TinyVaeConfig:
        """Read the structure from the shapes of a file's tensors, under the names of `TinyDecoder`.

        Raises WeightsError for a file of another layout.
        """
        first, last = shapes.get("decoder.1.weight"), shapes.get("decoder.22.weight")
        stages = [shapes.get(f"decoder.{i}.conv.0.weight") for i in (3, 9, 15)]
        if first is None or last is None or None in stages:
            raise WeightsError(
                "the preview VAE is not laid out as taeltx2_3 (layers decoder.1, .3, .9, .15 and .22); "
                "get that file, not its wide variant"
            )
        patch = round((last[0] / 3) ** 0.5)
        widths = tuple(stage[0] for stage in stages if stage is not None)
        return cls(first[1], (*widths, last[1]), patch)  # type: ignore[arg-type]


class TinyDecoder(nn.Module):
    """Decode latents to small pictures. Published names: `decoder.N` by place in the sequence."""

    def __init__(self, config: TinyVaeConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.widths
        layers: list[nn.Module] = [
            Bound(),
            nn.Conv2d(config.latent_channels, widths[0], 3, padding=1),
            nn.ReLU(),
        ]
        for width, next_width in pairwise(widths):
            layers += [MemoryBlock(width) for _ in range(BLOCKS_PER_STAGE)]
            layers += [nn.Upsample(scale_factor=2), GrowTime(width)]
            layers.append(nn.Conv2d(width, next_width, 3, padding=1, bias=False))
        layers += [nn.ReLU(), nn.Conv2d(widths[-1], 3 * config.patch**2, 3, padding=1)]
        self.decoder = nn.Sequential(*layers)

    def forward(self, latents: Tensor) -> Tensor:
        """Return colours (B, 3, 8T - 7, 8 patch h, 8 patch w) of normalised latents (B, 128, T, h, w).

        They are about [0, 1], not clamped, for training.
        """
        batch = latents.shape[0]
        x = latents.transpose(1, 2).flatten(0, 1)
        for layer in self.decoder:
            x = layer(x, batch) if isinstance(layer, MemoryBlock) else layer(x)
        frames = torch.unflatten(F.pixel_shuffle(x, self.config.patch), 0, (batch, -1))
        return frames[:, 7:].transpose(1, 2)  # the first latent is one frame, the last of its eight

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents of any dtype to the pixels of `forward`, in [-1, 1]."""
        colours: Tensor = self(latents.to(next(self.parameters()).dtype))
        return colours.clamp(0, 1).mul(2).sub(1)


class LinearPreview(nn.Module):
    """Apply one linear map per cell, to 4x4 colours for its 32x32 pixels, one frame per latent."""

    def __init__(self, latent_channels: int = LATENT_CHANNELS) -> None:
        super().__init__()
        self.linear = nn.Linear(latent_channels, 3 * PATCH**2)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Decode normalised latents (B, 128, T, h, w) to pixels (B, 3, T, 4h, 4w) in [-1, 1]."""
        weight = self.linear.weight
        patches: Tensor = self.linear(latents.to(weight.dtype).movedim(1, -1))
        batch, num_frames, height, width, _ = patches.shape
        patches = patches.view(batch, num_frames, height, width, 3, PATCH, PATCH)
        colours = patches.permute(0, 4, 1, 2, 5, 3, 6)
        return colours.reshape(batch, 3, num_frames, PATCH * height, PATCH * width).clamp(-1, 1)

    @classmethod
    @torch.no_grad()
    def fitted(cls, vae: VideoVae, latents: Tensor | None = None) -> LinearPreview:
        """Fit the map, by least squares, to stills that the model's decoder decodes.

        latents: normalised stills (n, 128, 1, h, w); None draws random ones, which need no data.
        """
        like = next(vae.decoder.parameters())
        latents = _random_stills(vae.config.latent_channels) if latents is None else latents
        rows, targets = [], []
        for still in torch.split(latents.to(like), 1):  # type: ignore[no-untyped-call]
            pixels = vae.decode(still)[:, :, 0].float()
            small = F.avg_pool2d(pixels, pixels.shape[-1] // (still.shape[-1] * PATCH))
            cells = torch.unflatten(torch.unflatten(small, 3, (-1, PATCH)), 2, (-1, PATCH))  # b c h p w q
            targets.append(cells.permute(0, 2, 4, 1, 3, 5).reshape(-1, 3 * PATCH**2))
            rows.append(still.float().movedim(1, -1).reshape(-1, still.shape[1]))
        x = torch.cat(rows)
        x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
        solution = torch.linalg.lstsq(x, torch.cat(targets)).solution
        preview = cls(x.shape[1] - 1).to(like.device)
        preview.linear.weight.copy_(solution[:-1].T)
        preview.linear.bias.copy_(solution[-1])
        return preview.requires_grad_(False).eval()


def _random_stills(channels: int) -> Tensor:
    """Return latents (FIT_STILLS, channels, 1, FIT_CELLS, FIT_CELLS) of unit variance, always the same."""
    generator = torch.Generator().manual_seed(0)
    common: Tensor = torch.randn(FIT_STILLS, channels, 1, 1, 1, generator=generator)
    own: Tensor = torch.randn(FIT_STILLS, channels, 1, FIT_CELLS, FIT_CELLS, generator=generator)
    mixed: Tensor = FIT_COMMON**0.5 * common + (1 - FIT_COMMON) ** 0.5 * own
    return mixed
