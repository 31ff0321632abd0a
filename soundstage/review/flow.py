"""Optical flow between two small grey pictures, and the motion of the whole picture that explains it.

Flow: the local least squares of Lucas and Kanade (1981) on a pyramid of means, iterated with warping. Global
motion: a similarity (shift, zoom, turn), fitted by reweighted least squares with Tukey's weights, so that
things which move by themselves have no say. In numpy, because it must run in every installation, and at the
size of a review a pair costs a few milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import numpy as np
from numpy.typing import NDArray

Luma = NDArray[np.float32]  # (H, W), 0 to 255

WINDOW = 3  # pixels to each side over which a flow is one
MIN_SIDE = 8  # of the smallest picture of the pyramid
ITERATIONS, LAST_ITERATIONS = 4, 2
STIFFNESS = 4.0  # of a window: squared grey levels per pixel that noise may have
TEXTURE = 4.0  # squared grey levels per pixel in every direction, from which a flow is trusted
MIN_TRUSTED = 0.02  # share of the picture
MOST_POINTS = 1200  # of a fit
ROUNDS = 6  # of the reweighted fit
TUKEY = 4.7  # times the median deviation, where weights become 0
LEAST_SCALE = 0.15  # pixels: residuals of flow are no smaller than this


@dataclass(frozen=True)
class Similarity:
    """The map from a place (x, y), from the centre, to (x + dx, y + dy) in the next picture.

    dx = a x - b y + shift_x, dy = b x + a y + shift_y.
    """

    a: float = 0.0
    b: float = 0.0
    shift_x: float = 0.0
    shift_y: float = 0.0

    def then(self, later: Similarity) -> Similarity:
        """Return the map of both, one after the other."""
        one, two = complex(1 + self.a, self.b), complex(1 + later.a, later.b)
        scale = one * two
        shift = two * complex(self.shift_x, self.shift_y) + complex(later.shift_x, later.shift_y)
        return Similarity(scale.real - 1, scale.imag, shift.real, shift.imag)

    def flow(self, x: Luma, y: Luma) -> tuple[Luma, Luma]:
        """Return the flow at places from the centre."""
        return (
            np.float32(self.a) * x - np.float32(self.b) * y + np.float32(self.shift_x),
            np.float32(self.b) * x + np.float32(self.a) * y + np.float32(self.shift_y),
        )


class PixelGrid:
    """The places of pictures of one size, and what is computed on them."""

    def __init__(self, height: int, width: int) -> None:
        y, x = np.mgrid[:height, :width].astype(np.float32)
        self._x, self._y = x, y
        self.from_centre = (x - (width - 1) / 2, y - (height - 1) / 2)
        self._limit = (np.float32(width - 1.001), np.float32(height - 1.001))

    def warped(self, picture: Luma, flow: tuple[Luma, Luma]) -> tuple[Luma, NDArray[np.bool_]]:
        """Return what a picture shows at places moved by a flow, and which of them lie within it."""
        x, y = self._x + flow[0], self._y + flow[1]
        inside = (x >= 0) & (y >= 0) & (x <= self._limit[0] + 0.001) & (y <= self._limit[1] + 0.001)
        x, y = np.clip(x, 0, self._limit[0]), np.clip(y, 0, self._limit[1])
        left, top = x.astype(np.int32), y.astype(np.int32)
        dx, dy = x - left, y - top
        width = picture.shape[1]
        flat, at = picture.ravel(), top * width + left
        upper = flat[at] * (1 - dx) + flat[at + 1] * dx
        lower = flat[at + width] * (1 - dx) + flat[at + width + 1] * dx
        return upper * (1 - dy) + lower * dy, inside


@lru_cache(maxsize=8)
def grid_of(height: int, width: int) -> PixelGrid:
    """Return the grid of a size; each is made once."""
    return PixelGrid(height, width)


@dataclass(frozen=True)
class FlowField:
    """flow: (u, v) of each place. trusted: where there is texture for it. whole: None where that is rare."""

    flow: tuple[Luma, Luma]
    trusted: NDArray[np.bool_]
    whole: Similarity | None


def box_mean(values: Luma, radius: int = WINDOW) -> Luma:
    """Return the mean of each place's window; beyond the edges the last values go on."""
    size = 2 * radius + 1
    padded = np.pad(values, radius, mode="edge")
    height, width = values.shape
    rows = padded[:height].copy()
    for i in range(1, size):
        rows += padded[i : i + height]
    mean = rows[:, :width].copy()
    for i in range(1, size):
        mean += rows[:, i : i + width]
    mean /= size * size
    return mean


def motion(before: Luma, after: Luma) -> FlowField:
    """Return the flow from one picture to the next, of the same size."""
    pyramid = [(before, after)]
    while min(pyramid[-1][0].shape) >= 2 * MIN_SIDE:
        pyramid.append((_halved(pyramid[-1][0]), _halved(pyramid[-1][1])))
    u = v = np.zeros(pyramid[-1][0].shape, np.float32)
    trusted = np.zeros(u.shape, bool)
    for level in reversed(range(len(pyramid))):
        first, second = pyramid[level]
        if u.shape != first.shape:
            u, v = (2 * _doubled(part, first.shape) for part in (u, v))
        u, v, trusted = _refined(first, second, u, v, ITERATIONS if level else LAST_ITERATIONS)
    return FlowField((u, v), trusted, _fitted(u, v, trusted))


def _refined(
    first: Luma, second: Luma, u: Luma, v: Luma, rounds: int
) -> tuple[Luma, Luma, NDArray[np.bool_]]:
    """Return a better flow at one level of the pyramid, and where there is texture enough for it."""
    grid = grid_of(*first.shape)
    gy, gx = cast(tuple[Luma, Luma], np.gradient(first))
    xx, xy, yy = box_mean(gx * gx), box_mean(gx * gy), box_mean(gy * gy)
    half = (xx + yy) / 2
    least = half - np.sqrt(np.maximum(0, (xx - yy) ** 2 / 4 + xy**2))  # smaller eigenvalue
    xx, yy = xx + STIFFNESS, yy + STIFFNESS
    determinant = xx * yy - xy**2
    for _ in range(rounds):
        moved, inside = grid.warped(second, (u, v))
        change = np.where(inside, moved - first, 0)
        bx, by = box_mean(gx * change), box_mean(gy * change)
        u = u - np.clip((yy * bx - xy * by) / determinant, -1.5, 1.5)
        v = v - np.clip((xx * by - xy * bx) / determinant, -1.5, 1.5)
    return u, v, least > TEXTURE


def _fitted(u: Luma, v: Luma, trusted: NDArray[np.bool_]) -> Similarity | None:
    """Return the similarity that explains most of a flow; None where little of it can be trusted."""
    if trusted.mean() < MIN_TRUSTED:
        return None
    parts = (*grid_of(*u.shape).from_centre, u, v)
    x, y, du, dv = (
        part[trusted][:: 1 + int(trusted.sum()) // MOST_POINTS].astype(np.float64) for part in parts
    )
    weights = np.ones(len(du))
    found = np.array([0.0, 0.0, np.median(du), np.median(dv)])
    one, none = np.ones(len(x)), np.zeros(len(x))
    rows = np.concatenate([np.stack([x, -y, one, none], 1), np.stack([y, x, none, one], 1)])
    target = np.concatenate([du, dv])
    for _ in range(ROUNDS):
        misses = np.hypot(*np.split(rows @ found - target, 2))
        scale = TUKEY * max(LEAST_SCALE, 1.48 * float(np.median(misses)))
        weights = np.maximum(0, 1 - (misses / scale) ** 2) ** 2
        both = np.concatenate([weights, weights])[:, None]
        square = rows.T @ (rows * both) + np.diag([1.0, 1.0, 1e-6, 1e-6])  # a zoom needs evidence
        found = np.linalg.solve(square, rows.T @ (target * both[:, 0]))
    return Similarity(*map(float, found))


def _halved(picture: Luma) -> Luma:
    height, width = (side // 2 * 2 for side in picture.shape)
    blocks = picture[:height, :width].reshape(height // 2, 2, width // 2, 2)
    halved: Luma = blocks.mean(axis=(1, 3))
    return halved


def _doubled(part: Luma, shape: tuple[int, ...]) -> Luma:
    """Return a part in twice its size, with its last row and column repeated where the shape is odd."""
    doubled = part.repeat(2, axis=0).repeat(2, axis=1)
    height, width = shape
    return np.pad(doubled, ((0, height - doubled.shape[0]), (0, width - doubled.shape[1])), mode="edge")
