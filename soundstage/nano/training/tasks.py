"""Draw what a step asks of each clip: noise levels, and which tokens are given clean.

Both streams are noised alike, each to its own level, or one is given clean (picture for sound, sound for
picture); a first frame may be given, or what lies around a stretch of time. So one model serves every way of
conditioning.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from soundstage.types import VideoShape

SHIFT, MIDDLE_SHIFT = 2.3, 0.6  # of the logits of noise levels
MIDDLE_SHARE, UNIFORM_SHARE = 0.3, 0.1  # of the levels


@dataclass(frozen=True)
class Task:
    """The task of a batch of clips. A mask is 1 where a token is generated and 0 where it is given."""

    video_sigma: Tensor  # (B,)
    audio_sigma: Tensor  # (B,)
    video_mask: Tensor  # (B, Nv, 1)
    audio_mask: Tensor  # (B, Na, 1)


def draw_sigma(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Return logit-normal noise levels in (0, 1), shifted; one in ten is uniform.

    LTX-2.3 is trained by this law with a shift that grows with the number of tokens, and then stretched
    (docs/model/sampling.md, "Training levels"). Nano's clips have few tokens, and a token holds 32x32 pixels
    of 8 frames in 128 channels: place and colour of a subject can be read from noised tokens up to 0.9. What
    words decide is learned above that, where the law as it stands puts one sample in forty. So most levels
    have the shift SHIFT and none are stretched, which would undo a large shift; the others have MIDDLE_SHIFT,
    for detail.
    """
    shift = np.where(rng.random(count) < MIDDLE_SHARE, MIDDLE_SHIFT, SHIFT)
    y = 1 / (1 + np.exp(-(rng.standard_normal(count) + shift)))
    uniform = 1e-3 + (1 - 1e-3) * rng.random(count)
    return np.where(rng.random(count) < UNIFORM_SHARE, uniform, y)


def draw_task(rng: np.random.Generator, count: int, shape: VideoShape, num_audio: int) -> Task:
    """Return noise levels and masks of a batch of clips of a shape with num_audio audio tokens."""
    frames, height, width = shape.latent
    cells = height * width
    video = draw_sigma(rng, count)
    audio = np.where(rng.random(count) < 0.6, video, draw_sigma(rng, count))
    video_mask = np.ones((count, frames, cells), dtype=np.float32)
    audio_mask = np.ones((count, num_audio), dtype=np.float32)
    for i, kind in enumerate(rng.random(count)):
        if kind < 0.15:
            video_mask[i], video[i] = 0, 0
        elif kind < 0.3:
            audio_mask[i], audio[i] = 0, 0
        elif kind < 0.4:
            video_mask[i, 0] = 0
        elif kind < 0.5 and frames > 2:
            start, end = draw_stretch(rng, frames)
            video_mask[i, :start] = video_mask[i, end:] = 0
            audio_mask[i, : num_audio * start // frames] = 0
            audio_mask[i, num_audio * end // frames :] = 0
    return Task(
        torch.from_numpy(video).float(),
        torch.from_numpy(audio).float(),
        torch.from_numpy(video_mask).flatten(1).unsqueeze(2),
        torch.from_numpy(audio_mask).unsqueeze(2),
    )


def draw_stretch(rng: np.random.Generator, frames: int) -> tuple[int, int]:
    """Return [start, end) of the latent frames that are generated: after, before or between given ones."""
    start, end = sorted(int(x) for x in rng.choice(np.arange(1, frames), size=2, replace=False))
    kind = rng.random()
    return (start, frames) if kind < 0.4 else (0, end) if kind < 0.6 else (start, end)
