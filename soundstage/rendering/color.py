"""Bring frames back to the colours their take began with.

Mean and deviation of each channel of Lab, followed slowly over a window's length, are moved to what they
were over the first window. Slow means that a bright subject which comes in stays bright; what is taken out
is drift. Source: docs/model/conditioning.md, "Long takes".
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatPixels = NDArray[np.float32]

# sRGB's primaries and white (D65), IEC 61966-2-1.
_TO_XYZ = np.array(
    [
        [0.4123908, 0.3575843, 0.1804808],
        [0.2126390, 0.7151687, 0.0721923],
        [0.0193308, 0.1191948, 0.9505322],
    ],
    dtype=np.float32,
)
_WHITE = _TO_XYZ.sum(axis=1)
_FROM_XYZ = np.linalg.inv(_TO_XYZ).astype(np.float32)
_EDGE = (6 / 29) ** 3


class ColorMatch:
    """Corrects frames in order, piece by piece.

    strength: 0 (as they are) to 1. horizon: frames of a window; the first ones are the reference and stay.
    """

    def __init__(self, strength: float, horizon: int) -> None:
        self.strength, self.horizon = strength, horizon
        self._seen = 0
        self._now: FloatPixels | None = None  # (2, 3): mean and deviation, followed
        self._reference: FloatPixels | None = None

    def __call__(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return corrected frames, (n, H, W, 3) sRGB."""
        if self.strength == 0:
            return frames
        return np.stack([self._frame(frame) for frame in frames])

    def _frame(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        lab = to_lab(frame)
        self._follow(np.stack([lab.mean(axis=(0, 1)), lab.std(axis=(0, 1))]))
        if self._reference is None or self._now is None:
            return frame
        gain = self._reference[1] / np.maximum(self._now[1], 1e-3)
        matched = (lab - self._now[0]) * gain + self._reference[0]
        return from_lab(lab + self.strength * (matched - lab))

    def _follow(self, statistics: FloatPixels) -> None:
        if self._reference is None and self._seen == self.horizon:
            self._reference = self._now
        self._seen += 1
        weight = 1 / min(self._seen, self.horizon)
        self._now = statistics if self._now is None else self._now + weight * (statistics - self._now)


def to_lab(rgb: NDArray[np.uint8]) -> FloatPixels:
    """Convert sRGB in 0 to 255, (..., 3), to CIE Lab: L 0 to 100, a and b about 0."""
    x = rgb.astype(np.float32) / 255
    linear = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
    scaled = linear @ _TO_XYZ.T / _WHITE
    f = np.where(scaled > _EDGE, np.cbrt(scaled), scaled * (29 / 6) ** 2 / 3 + 4 / 29)
    parts = [116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])]
    return _float32(np.stack(parts, axis=-1))


def from_lab(lab: FloatPixels) -> NDArray[np.uint8]:
    """Convert CIE Lab to sRGB in 0 to 255, clipped to what sRGB can show."""
    y = (lab[..., 0] + 16) / 116
    f = np.stack([y + lab[..., 1] / 500, y, y - lab[..., 2] / 200], axis=-1)
    scaled = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29))
    linear = np.clip((scaled * _WHITE) @ _FROM_XYZ.T, 0, 1)
    x = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.asarray(np.round(x * 255), dtype=np.uint8)


def _float32(x: Any) -> FloatPixels:
    return np.asarray(x, dtype=np.float32)
