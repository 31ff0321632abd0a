"""Seams between made and kept frames and samples: which of them change, and how they fade.

Whole latents are made, 8 frames or 40 ms. Only the frames that were asked for are shown in full; in the rest
the made picture or sound fades in. So no more of a clip changes than its latents need. Pure data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from soundstage.types import OUTPUT_RATE_HZ, TIME_SCALE, Range

# The shortest fades between kept and made frames and samples. In them the model's rendering of the kept part
# fades into the kept part itself; longer fades make no smaller jump on nano and change more of the clip.
SEAM_FRAMES = 3
SEAM_SAMPLES = 1440  # 30 ms


@dataclass(frozen=True)
class Seam:
    """Hold a stretch that changes, in frames or samples.

    All of [first, end) changes; it fades in over [start, first) and out over [end, stop).
    """

    start: int
    first: int
    end: int
    stop: int

    def scaled(self, factor: float) -> Seam:
        """Return the same stretch of time at another rate."""
        return Seam(*(round(factor * at) for at in (self.start, self.first, self.end, self.stop)))


def seams(asked: Sequence[Range], made: Sequence[Range], total: int, least: int) -> tuple[Seam, ...]:
    """Return the seams between made and kept frames or samples.

    asked: the ranges that were asked to change. made: the ranges that whole latents make for them. The fades
    lie in the part that is made without being asked for, and are at least `least` long. total: the length;
    a stretch that reaches it does not fade there.
    """
    found = []
    for first, end in asked:
        inside = [(a, b) for a, b in made if a < end and first < b]
        begin = min([a for a, _ in inside], default=first)
        close = max([b for _, b in inside], default=end)
        start = max(0, first - max(least, first - begin)) if first > 0 else 0
        stop = min(total, end + max(least, close - end)) if end < total else total
        found.append(Seam(start, first, min(end, total), stop))
    return tuple(found)


def frames_in(spans: Sequence[tuple[float, float]], fps: float, total: int) -> tuple[Range, ...]:
    """Return the ranges of frames that are shown during spans of seconds, of `total` frames."""
    ranges = [(max(0, math.floor(a * fps + 1e-6)), min(total, math.ceil(b * fps - 1e-6))) for a, b in spans]
    return tuple((first, end) for first, end in ranges if first < end)


def latent_video_frames(latents: Sequence[Range]) -> list[Range]:
    """Return the pixel frames that ranges of latent frames hold."""
    return [(max(0, TIME_SCALE * (a - 1) + 1), TIME_SCALE * (b - 1) + 1) for a, b in latents]


def latent_samples(latents: Sequence[Range]) -> list[Range]:
    """Return the samples at the output's rate that ranges of audio latents hold."""
    per = OUTPUT_RATE_HZ // 100
    return [(per * max(0, 4 * a - 3), per * (4 * (b - 1) + 1)) for a, b in latents]
