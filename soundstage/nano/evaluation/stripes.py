"""Tell whether a yellow thing has a broad black stripe: dark pixels with yellow ones on both sides."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from soundstage.media.arrays import Frames

DARK = 75  # of 255: no channel of a dark pixel is lighter
REACH_PX = 18  # how far the yellow of either side may be
LEAST_SHARE = 0.12  # of dark pixels, of the yellow ones, in a frame with a stripe
LEAST_FRAMES = 0.25  # with a stripe, of those that show something yellow
LEAST_YELLOW = 40  # pixels of a frame that shows something yellow
DIRECTIONS = ((1, 0), (0, 1), (1, 1), (1, -1))


def stripe_seen(frames: Frames) -> bool:
    """Return whether a stripe is in a quarter of the frames (F, H, W, 3) that show something yellow."""
    shares = [share for frame in frames[::2] if (share := stripe_share(frame)) is not None]
    return bool(shares) and float(np.mean([share >= LEAST_SHARE for share in shares])) >= LEAST_FRAMES


def stripe_share(frame: NDArray[np.uint8]) -> float | None:
    """Return the dark pixels between yellow ones, over the yellow ones; None where nothing is yellow."""
    red, green, blue = (frame[..., channel].astype(np.int16) for channel in range(3))
    yellow = (red > 110) & (green > 85) & (blue < 110) & (red - blue > 70) & (np.abs(red - green) < 90)
    if yellow.sum() < LEAST_YELLOW:
        return None
    dark = np.max(frame, axis=-1) < DARK
    between = np.zeros_like(dark)
    for down, right in DIRECTIONS:
        between |= _within(yellow, down, right) & _within(yellow, -down, -right)
    return float((dark & between).sum() / yellow.sum())


def _within(mask: NDArray[np.bool_], down: int, right: int) -> NDArray[np.bool_]:
    """Return the pixels that have one of the mask within REACH_PX in a direction."""
    height, width = mask.shape
    padded = np.pad(mask, REACH_PX)
    found = np.zeros_like(mask)
    for step in range(2, REACH_PX + 1):
        top, left = REACH_PX + step * down, REACH_PX + step * right
        found |= padded[top : top + height, left : left + width]
    return found
