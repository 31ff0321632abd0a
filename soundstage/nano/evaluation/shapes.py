"""Find the shape of a blob, by comparison of silhouette and shading with rendered templates."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from soundstage.media.arrays import Frames
from soundstage.nano.evaluation.backdrop import Backdrop, Floats
from soundstage.nano.evaluation.tracks import EDGE_PX, Blob, Mask
from soundstage.nano.world.motion import Motion, Track
from soundstage.nano.world.render import render
from soundstage.nano.world.scene import SHAPES, Scene
from soundstage.types import VideoShape

FRAMES_LOOKED_AT = 6
CELLS, OVERSAMPLE = 24, 4  # a template's side; rendered pixels per cell
WINDOW = 1.2  # half the template's side in radii
SHADING = 0.8  # weight of colour against silhouette
LEANS = (-0.4, -0.2, 0.0, 0.2, 0.4)
ANGLES: dict[str, tuple[float, ...]] = {
    "ball": tuple(np.arange(8) * np.pi / 8),
    "ring": tuple(np.arange(12) * np.pi / 6),
    "cube": LEANS,
    "pyramid": LEANS,
    "star": LEANS,
}
# Outline of each shape, upright, in radii: half its width, its top and its bottom.
OUTLINES: dict[str, tuple[float, float, float]] = {
    "ball": (1.0, -1.0, 1.0),
    "ring": (1.0, -1.0, 1.0),
    "cube": (0.86, -0.86, 0.86),
    "pyramid": (1.04, -1.0, 1.0),
    "star": (0.95, -1.0, 0.81),
}
# Corrections of an outline that are tried: x and y in radii, radius as a factor.
NUDGES = tuple(product((-0.08, 0.0, 0.08), (-0.08, 0.0, 0.08), (0.88, 0.94, 1.0, 1.06, 1.13, 1.2)))


@dataclass(frozen=True)
class BlobFit:
    """Centre and radius (F,) of a blob in pixels, if it has a given shape; NaN where it is not seen."""

    x: Floats
    y: Floats
    radius: Floats


def place(blob: Blob, shape: str, frame_size: tuple[int, int], pixels_per_unit: Floats) -> BlobFit:
    """Return centre and radius from the outline; an outline cut off by the frame is completed.

    frame_size: height, width. pixels_per_unit: (F,), to carry the radius from whole outlines over.
    """
    half, top, bottom = OUTLINES[shape]
    height, width = frame_size
    cut_left, cut_right = blob.left < EDGE_PX, blob.right > width - EDGE_PX
    cut_top, cut_bottom = blob.top < EDGE_PX, blob.bottom > height - EDGE_PX
    wide = np.where(cut_left | cut_right, np.nan, (blob.right - blob.left) / (2 * half))
    tall = np.where(cut_top | cut_bottom, np.nan, (blob.bottom - blob.top) / (bottom - top))
    radius = _mean(wide, tall)
    whole = np.isfinite(radius)
    usual = np.median((radius / pixels_per_unit)[whole]) if whole.any() else np.nan
    radius = np.where(whole, radius, usual * pixels_per_unit)
    x = np.where(cut_left, blob.right - half * radius, (blob.left + blob.right) / 2)
    x = np.where(cut_right & ~cut_left, blob.left + half * radius, x)
    y = _mean(
        np.where(cut_top, np.nan, blob.top - top * radius),
        np.where(cut_bottom, np.nan, blob.bottom - bottom * radius),
    )
    hidden = ~blob.seen
    return BlobFit(*(np.where(hidden, np.nan, v).astype(np.float32) for v in (x, y, radius)))


def _mean(a: Floats, b: Floats) -> Floats:
    """Return the mean of two values, or the one that is known, or NaN."""
    return np.where(np.isnan(a), b, np.where(np.isnan(b), a, (a + b) / 2))


@dataclass(frozen=True)
class Shape:
    """A shape that was found. nudge: the correction (x, y, radius) of its outline, as in NUDGES."""

    name: str
    misfit: float
    nudge: tuple[float, float, float]


def find_shape(frames: Frames, backdrop: Backdrop, blob: Blob) -> Shape:
    """Return the shape whose templates fit a blob best."""
    chosen = _clear_frames(blob, frames.shape[1:3])
    return min((_fit(frames, backdrop, blob, name, chosen) for name in SHAPES), key=lambda s: s.misfit)


def _fit(frames: Frames, backdrop: Backdrop, blob: Blob, name: str, chosen: NDArray[np.int64]) -> Shape:
    where = place(blob, name, frames.shape[1:3], backdrop.pixels_per_unit())
    colors, covers = _templates(name, blob.color, backdrop.stage.background == "fog")
    fits = [
        _misfit(frames[f], blob.solid[f], (where.x[f], where.y[f], where.radius[f]), colors, covers)
        for f in chosen
        if np.isfinite(where.x[f] + where.y[f] + where.radius[f])
    ]
    if not fits:
        return Shape(name, np.inf, (0.0, 0.0, 1.0))
    x, y, radius = np.median([NUDGES[nudge] for _, nudge in fits], axis=0)
    return Shape(name, float(np.mean([error for error, _ in fits])), (float(x), float(y), float(radius)))


def _clear_frames(blob: Blob, frame_size: tuple[int, int]) -> NDArray[np.int64]:
    """Return the numbers of frames that show a blob large, whole and unlit."""
    height, width = frame_size
    area = (blob.right - blob.left) * (blob.bottom - blob.top)
    cut = (blob.left < EDGE_PX) | (blob.right > width - EDGE_PX)
    cut |= (blob.top < EDGE_PX) | (blob.bottom > height - EDGE_PX)
    merit = np.nan_to_num(area, nan=-np.inf) * np.where(cut, 0.2, 1) * np.where(blob.glow > 0.3, 0.1, 1)
    good = np.flatnonzero(merit > 0.6 * merit.max())
    return good[np.unique(np.linspace(0, len(good) - 1, FRAMES_LOOKED_AT).round().astype(int))]  # type: ignore[no-any-return]


def _misfit(
    frame: NDArray[np.uint8], solid: Mask, where: tuple[float, float, float], colors: Floats, covers: Floats
) -> tuple[float, int]:
    """Return the least difference between a frame and templates at `where` (x, y, radius), and its nudge."""
    cells = (np.arange(CELLS, dtype=np.float32) + 0.5) / CELLS * 2 - 1
    nudges = np.array(NUDGES, dtype=np.float32)
    x, y, radius = where
    reach = (radius * nudges[:, 2] * WINDOW)[:, None] * cells
    cols = (x + nudges[:, :1] * radius + reach).astype(np.int64)
    rows = (y + nudges[:, 1:2] * radius + reach).astype(np.int64)
    height, width = solid.shape
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((cols >= 0) & (cols < width))[:, None, :]
    at = (rows.clip(0, height - 1)[:, :, None], cols.clip(0, width - 1)[:, None, :])
    mask = solid[at].reshape(len(nudges), -1).astype(np.float32)
    known = inside.reshape(len(nudges), -1).astype(np.float32)
    seen = frame[at].reshape(len(nudges), -1, 3).astype(np.float32) / 255
    # |mask - cover| of bits is mask + cover - 2 * mask * cover, so that all pairs are one product
    cover = covers.reshape(len(covers), -1).T
    total = (mask * known).sum(axis=1)[:, None] + known @ cover - 2 * (mask * known) @ cover
    nudge = total.argmin(axis=0)  # the best per template
    shade = np.abs(seen[nudge] - colors.reshape(len(colors), -1, 3)).mean(axis=-1)
    shade = (np.minimum(shade, 0.3) * cover.T * (mask * known)[nudge]).sum(axis=1)
    error = (total[nudge, np.arange(len(nudge))] + SHADING * shade) / np.maximum(known[nudge].sum(axis=1), 1)
    return float(error.min()), int(nudge[error.argmin()])


@lru_cache(maxsize=128)
def _templates(shape: str, color: str, foggy: bool) -> tuple[Floats, Floats]:
    """Return colours (A, cells, cells, 3) and cover (A, cells, cells) of a shape at each of its angles."""
    side, radius = OVERSAMPLE * CELLS, 0.2
    background = "fog" if foggy else "day"
    scene = Scene(0, VideoShape(1, side, side), background, "static", ())
    view = np.array([[0, 0, 0.5 / (WINDOW * radius)]], dtype=np.float32)
    one = np.ones(1, dtype=np.float32)

    def picture(paint: str, angle: float) -> Floats:
        body = Track(shape, paint, np.zeros((1, 2), np.float32), one * radius, one * angle, one * 0)
        frame = render(scene, Motion(one * 0, [body], view))[0].astype(np.float32) / 255
        return frame.reshape(CELLS, OVERSAMPLE, CELLS, OVERSAMPLE, 3).mean(axis=(1, 3))  # type: ignore[no-any-return]

    empty = render(scene, Motion(one * 0, [], view))[0].astype(np.float32) / 255
    empty = empty.reshape(CELLS, OVERSAMPLE, CELLS, OVERSAMPLE, 3).mean(axis=(1, 3))
    colors = np.stack([picture(color, a) for a in ANGLES[shape]])
    covers = np.stack([np.abs(picture("red", a) - empty).max(axis=-1) > 0.15 for a in ANGLES[shape]])
    return colors.astype(np.float32), covers.astype(np.float32)
