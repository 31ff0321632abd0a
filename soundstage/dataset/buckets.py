"""Buckets: the few sizes and lengths that all clips are brought to, and the one that each clip gets.

Samples of one bucket can share a batch. The choice depends on a clip and the list alone, never on its order.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from soundstage.types import SPACE_SCALE, TIME_SCALE

WANTED = "WIDTHxHEIGHTxFRAMES such as 768x448x89"
NEARLY = 0.02  # seconds that a sound may lack of its bucket; they are silent


@dataclass(frozen=True, order=True)
class Bucket:
    """A size in pixels and a length in frames; one frame is a picture."""

    width: int
    height: int
    num_frames: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}x{self.num_frames}"

    @property
    def size(self) -> tuple[int, int, int]:
        """Return width, height and frames."""
        return self.width, self.height, self.num_frames

    @property
    def num_tokens(self) -> int:
        """Return how many tokens the transformer sees of it."""
        cells = (self.width // SPACE_SCALE) * (self.height // SPACE_SCALE)
        return cells * ((self.num_frames - 1) // TIME_SCALE + 1)


def parse_bucket(text: str) -> Bucket:
    """Return a bucket from its words. Raises ValueError with the nearest one that would do."""
    found = re.fullmatch(r"\s*(\d{1,5})\s*[xX*]\s*(\d{1,5})\s*(?:[xX*]\s*(\d{1,5})\s*)?", text)
    if found is None:
        raise ValueError(f"buckets has '{text}', which is no bucket; give {WANTED}")
    width, height, frames = (int(part or 1) for part in found.groups())
    near = Bucket(_snapped(width), _snapped(height), max(0, (frames - 1 + 4) // TIME_SCALE) * TIME_SCALE + 1)
    if (width, height, frames) != near.size:
        raise ValueError(
            f"buckets has {text.strip()}, which is off the grid: sides are multiples of {SPACE_SCALE} and "
            f"frames 8k + 1; the nearest is {near}"
        )
    return near


def choose_bucket(width: int, height: int, num_frames: int, buckets: Iterable[Bucket]) -> Bucket | None:
    """Return the bucket of a clip, None where all are longer than it.

    Those that are no longer than the clip are looked at: the nearest shape wins (the logarithm of the aspect
    ratio), then more frames, then more pixels, then the wider one. A picture has 1 frame and takes the size
    of any bucket; a clip takes none of 1 frame.
    """
    if num_frames == 1:
        fitting = {Bucket(b.width, b.height, 1) for b in buckets}
    else:
        fitting = {b for b in buckets if 1 < b.num_frames <= num_frames}
    shape = math.log(width / height)

    def rank(bucket: Bucket) -> tuple[float, int, int, int]:
        distance = round(abs(math.log(bucket.width / bucket.height) - shape), 9)
        return distance, -bucket.num_frames, -bucket.width * bucket.height, -bucket.width

    return min(fitting, key=rank, default=None)


def choose_length(seconds: float, lengths_s: Sequence[float]) -> float | None:
    """Return the length for a sound alone: the longest that it fills, None where it fills none."""
    return max((length for length in lengths_s if length <= seconds + NEARLY), default=None)


def proposed(clips: Sequence[tuple[int, int, int]], most_pixels: int) -> list[Bucket]:
    """Return buckets for clips of these widths, heights and frames: one for each common shape.

    most_pixels: the area of a frame at most. Frames are as many as nine in ten clips have, at most 121.
    """
    if not clips:
        return []
    lengths = sorted(frames for _, _, frames in clips if frames > 1)
    frames = lengths[len(lengths) // 10] if lengths else 1
    frames = min(121, max(0, (frames - 1) // TIME_SCALE) * TIME_SCALE + 1)
    found: dict[Bucket, int] = {}
    for width, height, _ in clips:
        scale = min(1.0, math.sqrt(most_pixels / (width * height)))
        bucket = Bucket(_snapped(int(width * scale)), _snapped(int(height * scale)), frames)
        found[bucket] = found.get(bucket, 0) + 1
    common = sorted(found, key=lambda bucket: (-found[bucket], bucket))
    return sorted(common[:3])


def _snapped(pixels: int) -> int:
    return max(SPACE_SCALE, (pixels + SPACE_SCALE // 2) // SPACE_SCALE * SPACE_SCALE)
