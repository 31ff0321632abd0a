"""A tiny model whose codecs take no time, for tests of what happens between them.

The codecs are causal, as the true ones are: a latent frame is the mean of its eight pixel frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.tiny_model import TinyParts


class QuickCodecs(TinyParts):
    """The true transformer between codecs that take no time; num_encoded counts what they encode."""

    num_encoded: int = 0

    def load(self, modalities: Sequence[str], at: Any = None) -> None:
        self.encoded = getattr(self, "encoded", [])
        _ = self.transformer

    def encode_video(self, pixels: Tensor) -> Tensor:
        self.num_encoded += 1
        frames = F.adaptive_avg_pool3d(pixels, (None, pixels.shape[3] // 8, pixels.shape[4] // 8))
        cells = F.pixel_unshuffle(frames[0].transpose(0, 1), 4)  # (F, 48, h, w)
        groups = cells[1:].unflatten(0, (-1, 8)).mean(dim=1)
        latents = torch.cat([cells[:1], groups]).transpose(0, 1)[None]
        return torch.cat([latents, latents, latents], dim=1)[:, :128]

    def decode_video(self, latents: Tensor) -> Tensor:
        frames = torch.cat([latents[:, :3, :1], latents[:, :3, 1:].repeat_interleave(8, dim=2)], dim=2)
        return frames.repeat_interleave(32, dim=3).repeat_interleave(32, dim=4).clamp(-1, 1)

    def preview_video(self, latents: Tensor) -> Tensor:
        return self.decode_video(latents)

    def decode_pieces(self, latents: Tensor) -> Iterator[Tensor]:
        yield self.decode_video(latents)

    def encode_audio(self, waveform: Tensor, sample_rate_hz: int) -> Tensor:
        count = waveform.shape[2] * 25 // sample_rate_hz
        return F.adaptive_avg_pool1d(waveform.float(), 64 * count).view(1, 2 * 4, 16, count).mT

    def decode_audio(self, latents: Tensor, num_samples: int | None = None) -> Tensor:
        return latents[:, :2, :, 0].repeat_interleave(1920, dim=2)
