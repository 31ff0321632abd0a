"""Shapes, rates and scale factors of LTX-2.3 that every room shares. Loads nothing heavy.

Tensor letters used in comments: B batch, C channels, T frames (latent unless said), H height, W width,
N tokens, D width of a token, S text tokens, M mel frames.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

TIME_SCALE = 8  # pixel frames per latent frame, after the first, which stands alone
SPACE_SCALE = 32  # pixels per latent cell on each side
LATENT_CHANNELS = 128

MEL_RATE_HZ = 16_000
MEL_HOP = 160
MEL_BINS = 64
AUDIO_LATENTS_PER_S = 25
AUDIO_LATENT_CHANNELS = 8
AUDIO_LATENT_BINS = 16
OUTPUT_RATE_HZ = 48_000
# A frame is shown from so much of its length before its time on: the nearest, of two equally near the first.
JUST_UNDER_HALF = 0.499

Crop = Literal["center", "stretch", "pad"]  # how a picture of another shape fills a size
Modality = Literal["video", "audio"]
Range = tuple[int, int]  # [first, end) of latent frames or audio latents
# Which references and voices take part in the attention between picture and sound: all; those that read the
# other stream and are not read by it; or none, so that only the clip's own tokens do.
Exchange = Literal["all", "reads", "clip"]
# What a LoRA's layers do: the streams' own, attention into video and into audio, the reading of prompts.
Group = Literal["video", "audio", "a2v", "v2a", "text"]
GROUPS: tuple[Group, ...] = get_args(Group)
Axis = Literal["space", "time"]
UpsamplerRole = Literal["space-x2", "space-x1.5", "time-x2"]
# What each latent upsampler enlarges, and by how much.
UPSAMPLERS: Mapping[UpsamplerRole, tuple[Axis, Fraction]] = {
    "space-x2": ("space", Fraction(2)),
    "space-x1.5": ("space", Fraction(3, 2)),
    "time-x2": ("time", Fraction(2)),
}


@dataclass(frozen=True)
class VideoShape:
    """Size of a clip in pixels. num_frames is 8k+1; height and width are multiples of 32."""

    num_frames: int
    height: int
    width: int

    def __post_init__(self) -> None:
        if self.num_frames < 1 or (self.num_frames - 1) % TIME_SCALE:
            raise ValueError(f"num_frames must be 8k+1 (1, 9, 17, ...), not {self.num_frames}")
        for side in ("height", "width"):
            value = getattr(self, side)
            if value < SPACE_SCALE or value % SPACE_SCALE:
                raise ValueError(f"{side} must be a positive multiple of {SPACE_SCALE}, not {value}")

    @property
    def latent(self) -> tuple[int, int, int]:
        """Return the latent grid, (frames, height, width)."""
        return (
            (self.num_frames - 1) // TIME_SCALE + 1,
            self.height // SPACE_SCALE,
            self.width // SPACE_SCALE,
        )

    @property
    def num_tokens(self) -> int:
        frames, height, width = self.latent
        return frames * height * width


def enlargement(roles: Iterable[UpsamplerRole], axis: Axis) -> Fraction:
    """Return how many times larger latents are after some upsamplers, on their sides or in frames."""
    found = (UPSAMPLERS[role] for role in roles)
    return math.prod((factor for enlarged, factor in found if enlarged == axis), start=Fraction(1))


def audio_latent_length(num_frames: int, fps: float) -> int:
    """Audio latents that go with a clip: 25 a second, rounded half to even as the reference does."""
    return max(1, round(num_frames / fps * AUDIO_LATENTS_PER_S))
