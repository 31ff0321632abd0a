"""Coordinates of tokens: half-open intervals in seconds (time) and pixels (height, width), float32.

Both latent grids are causal: the first latent covers one frame (or one mel step), every later one a
whole group. Source: docs/model/transformer.md, "Positions"; numbers held by
tests/parity/test_transformer.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

from soundstage.types import MEL_HOP, MEL_RATE_HZ, SPACE_SCALE, TIME_SCALE

MEL_FRAMES_PER_LATENT = 4


def video_positions(
    latent_frames: int,
    latent_height: int,
    latent_width: int,
    fps: float,
    *,
    device: torch.device | str | None = None,
) -> Tensor:
    """Return intervals [start, end) of a clip's tokens, (1, 3, N, 2), in (frame, row, column) order.

    Axes: time in seconds, height and width in pixels. At 24 fps the first latent frame covers
    [0, 1/24), the second [1/24, 9/24).
    """
    frames = _causal(_intervals(latent_frames, device), TIME_SCALE) / fps
    rows = _intervals(latent_height, device) * SPACE_SCALE
    columns = _intervals(latent_width, device) * SPACE_SCALE
    grid = (latent_frames, latent_height, latent_width, 2)
    axes = (frames[:, None, None], rows[None, :, None], columns[None, None, :])
    return torch.stack([axis.expand(grid).reshape(-1, 2) for axis in axes]).unsqueeze(0)


def audio_positions(num_latents: int, *, shift: int = 0, device: torch.device | str | None = None) -> Tensor:
    """Return intervals [start, end) in seconds, (1, 1, N, 2): [0, .01), [.01, .05), [.05, .09), ...

    shift: index of the first latent.
    """
    mel_frames = _causal(_intervals(num_latents, device) + shift, MEL_FRAMES_PER_LATENT)
    return (mel_frames * MEL_HOP / MEL_RATE_HZ).view(1, 1, num_latents, 2)


def _intervals(count: int, device: torch.device | str | None) -> Tensor:
    """Return intervals [k, k + 1), (count, 2)."""
    start = torch.arange(count, dtype=torch.float32, device=device)
    return torch.stack([start, start + 1], dim=-1)


def _causal(latent: Tensor, scale: int) -> Tensor:
    """Convert latent bounds to units of which the first latent holds one and the others `scale`."""
    return (latent * scale + 1 - scale).clamp(min=0)


def guide_positions(
    latent_frames: int,
    latent_height: int,
    latent_width: int,
    fps: float,
    *,
    frame: int,
    still: bool,
    device: torch.device | str | None = None,
) -> Tensor:
    """Return intervals (1, 3, N, 2) of guide tokens from pixel frame `frame` on, negative before the clip.

    Space is the clip's. Every latent covers 8 frames, but for the first of a guide at frame 0, which is
    causal as the clip's own. still: the guide is one pixel frame, so its interval is one frame long:
    [8, 9) at frame 8, [-1, 0) at frame -1. Source: docs/model/conditioning.md, "Guides".
    """
    bounds = _intervals(latent_frames, device)
    frames = _causal(bounds, TIME_SCALE) if frame == 0 else bounds * TIME_SCALE
    frames = frames + frame
    if still:
        frames = torch.stack([frames[:, 0], frames[:, 0] + 1], dim=-1)
    positions = video_positions(latent_frames, latent_height, latent_width, fps, device=device)
    return _with_time(positions, frames / fps)


def reference_positions(
    latent_frames: int,
    latent_height: int,
    latent_width: int,
    fps: float,
    *,
    downscale: int = 1,
    temporal: int = 1,
    device: torch.device | str | None = None,
) -> Tensor:
    """Return intervals (1, 3, N, 2) of a reference clip's tokens, which lie over the clip itself.

    downscale: cells of the clip that a cell of the reference covers, on each side. temporal: the reference
    is every temporal-th frame (0, 1, 1 + S, ...); 2 gives [0, 1), [1, 17), [17, 33) frames.
    Source: docs/model/conditioning.md, "References".
    """
    positions = video_positions(latent_frames, latent_height, latent_width, fps, device=device)
    frames = _causal(_intervals(latent_frames, device), TIME_SCALE) * temporal - (temporal - 1)
    positions = _with_time(positions, frames.clamp(min=0) / fps)
    positions[:, 1:] *= downscale
    return positions


def identity_positions(num_latents: int, *, device: torch.device | str | None = None) -> Tensor:
    """Return intervals (1, 1, N, 2) of a voice sample that ends 0.04 s before the clip begins.

    Source: docs/model/conditioning.md, "Voices".
    """
    positions = audio_positions(num_latents, device=device)
    gap = MEL_FRAMES_PER_LATENT * MEL_HOP / MEL_RATE_HZ
    return positions - positions[..., -1:, 1:] - gap


def _with_time(positions: Tensor, seconds: Tensor) -> Tensor:
    """Replace the time of positions (1, 3, N, 2) by the intervals (T, 2) of their latent frames."""
    per_frame = positions.shape[2] // seconds.shape[0]
    positions[:, 0] = seconds.repeat_interleave(per_frame, dim=0)
    return positions
