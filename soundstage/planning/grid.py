"""The grid of latents in time and space: what sizes and lengths snap to, and which latents a time touches."""

from __future__ import annotations

import math
from fractions import Fraction

from soundstage.media.probe import Info
from soundstage.types import AUDIO_LATENTS_PER_S, SPACE_SCALE, TIME_SCALE, Range

# Seconds of a voice that are heard, and of the whole soundtrack of a speaker. The second is a bound on work:
# the reference has none, and every second is 25 tokens.
IDENTITY_MAX_S = 10.0
SOUNDTRACK_MAX_S = 120.0

NEARLY = 0.05  # of a frame; a sound that is longer by less ends with the frame before


def snap_side(pixels: int, step: int = SPACE_SCALE) -> int:
    """Return the nearest multiple of `step`, at least that; halves go up."""
    return max(step, (pixels + step // 2) // step * step)


def snap_frames(count: int, step: int = TIME_SCALE) -> int:
    """Return the nearest multiple of `step` plus 1, at least 1; halves go up."""
    return max(0, (count - 1 + step // 2) // step) * step + 1


def cover_frames(count: int, step: int = TIME_SCALE) -> int:
    """Return the smallest multiple of `step` plus 1 that is at least `count`."""
    return -(-(count - 1) // step) * step + 1


def frames_over(seconds: float, fps: float, thin: int = 1) -> int:
    """Return the frames that last as long as a sound does, so that every thin-th of them covers it."""
    return thin * (max(1, math.ceil(seconds * fps / thin - NEARLY)) - 1) + 1


def video_edges(latent_frames: int, fps: float) -> list[tuple[float, float]]:
    """Return [start, end) of each latent frame in seconds; the first holds one pixel frame."""
    return [
        (max(0, TIME_SCALE * k - TIME_SCALE + 1) / fps, (TIME_SCALE * k + 1) / fps)
        for k in range(latent_frames)
    ]


def audio_edges(num_latents: int) -> list[tuple[float, float]]:
    """Return [start, end) of each audio latent in seconds: [0, .01), [.01, .05), [.05, .09), ..."""
    return [(max(0, 4 * i - 3) / 100, (4 * i + 1) / 100) for i in range(num_latents)]


def latents_in(spans: list[tuple[float, float]], edges: list[tuple[float, float]]) -> tuple[Range, ...]:
    """Return the ranges of latents that spans touch: those that end after its start and start before its end.

    Source: docs/model/conditioning.md, "Masks and time".
    """
    touched = [any(end > a and start < b for a, b in spans) for start, end in edges]
    ranges: list[Range] = []
    for i, made in enumerate(touched):
        if made and ranges and ranges[-1][1] == i:
            ranges[-1] = (ranges[-1][0], i + 1)
        elif made:
            ranges.append((i, i + 1))
    return tuple(ranges)


def heard_s(identity: str) -> float:
    """Return how many seconds of the input sound a pass hears at most. identity: see `recipe.Pass`."""
    return SOUNDTRACK_MAX_S if identity == "soundtrack" else IDENTITY_MAX_S


def identity_latents(sound_s: float, identity: str = "input") -> int:
    """Return the number of audio latents of a voice sample. identity: see `recipe.Pass`."""
    return max(1, math.ceil(min(sound_s, heard_s(identity)) * AUDIO_LATENTS_PER_S))


def frames_at(info: Info, fps: float, own_fps: float) -> int:
    """Return how many frames a clip has at another rate, from its first to its last.

    own_fps: the rate of a clip that does not say.
    """
    own = info.fps or own_fps
    if info.num_frames <= 1 or _same_rate(own, fps):
        return info.num_frames
    return int((info.num_frames - 1) / own * fps + 1e-6) + 1


def sample_times(info: Info, fps: float, own_fps: float, limit: int, first: int = 0) -> list[float]:
    """Return the seconds at which frames `first` to `limit` of another rate are shown, as many as there are.

    At the clip's own rate, or one so near that no frame is to be left out, these are its own frames.
    """
    own = info.fps or own_fps
    rate = own if _same_rate(own, fps) else fps
    return [i / rate for i in range(first, min(frames_at(info, fps, own_fps), limit))]


def held_times(times_s: list[float], own_fps: float) -> list[float]:
    """Return the times of a clip's own frames that are nearest to these, of two equally near the first.

    A clip shown at twice its rate so gives each frame twice, also where its file rounds the times of frames.
    """
    return [math.ceil(round(time_s * own_fps, 6) - 0.5) / own_fps for time_s in times_s]


def _same_rate(a: float, b: float) -> bool:
    """Return whether two rates differ by no more than 24 and 23.976 do."""
    return math.isclose(a, b, rel_tol=1e-3)


def scaled_side(pixels: int, scale: Fraction) -> int:
    return max(SPACE_SCALE, int(pixels * scale))
