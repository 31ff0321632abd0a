"""Find the foreground of a clip: one blob per colour.

Shading, highlights, fog and glow only scale a colour or add white, so a subject keeps its hue. Pixels are
sorted by hue, and a colour that covers enough of the clip is a subject.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from soundstage.media.arrays import Frames
from soundstage.nano.evaluation.backdrop import Backdrop, Floats
from soundstage.nano.world.scene import COLORS

Mask = NDArray[np.bool_]
Bytes = NDArray[np.int16]

MAX_TINT = 15  # levels of 255 of overall colour error that are forgiven
UNLIKE = 28  # levels by which a pixel must differ from the plate
MIN_CHROMA = 44  # levels between the strongest and the weakest channel of a subject's pixel
SHADOW_SLACK = 16  # levels by which a darkened plate may differ from a shadow
SHADOW_REACH = 0.1  # shadows lie within this of the floor's line, in world units
MIN_PIXELS = 36  # of a colour in a frame, edges left out
MIN_INNER_PIXELS = 20  # the same with one more row of pixels left out
MIN_SHARE = 0.4  # of the frames that a subject must be seen in; halos of lights stay below
RIM_PX = 4  # how far around a subject its rim may be misread as another colour
STRAYS = (4, 96)  # percentiles that bound a colour, a few misread pixels elsewhere left out
EDGE_PX = 1.5  # an outline this near to the frame's border is taken to be cut off

PALETTE = tuple(COLORS)


@dataclass
class Blob:
    """A colour of the foreground over F frames. The outline (F,) is in pixels, NaN where it is not seen."""

    color: str
    left: Floats
    right: Floats
    top: Floats
    bottom: Floats
    glow: Floats  # (F,) 0 to 1
    solid: Mask  # (F, H, W) its pixels, with highlights and edges

    @property
    def seen(self) -> Mask:
        return np.isfinite(self.left)


def find_blobs(frames: Frames, backdrop: Backdrop) -> list[Blob]:
    """Return the colours of the foreground, from left to right as first seen."""
    front = _foreground(frames, backdrop)
    labels = _hues(frames, front)
    core = _eroded(labels)
    blobs = [blob for c in _present(core) if (blob := _blob(c, frames, front, labels, core)) is not None]
    return sorted(blobs, key=lambda b: float(np.nanmean((b.left + b.right)[b.seen][:3])))


def _foreground(frames: Frames, backdrop: Backdrop) -> Mask:
    """Return the pixels (F, H, W) unlike the plate, without shadows on it."""
    tint = _tint(frames, backdrop.plate)
    front = np.zeros(frames.shape[:3], dtype=bool)
    for channel in range(3):  # planes, since numpy is slow along an axis of three
        difference = frames[..., channel].astype(np.int16) - backdrop.plate[..., channel] - tint[channel]
        front |= np.abs(difference) > UNLIKE
    return front & ~_shadow(frames, backdrop, front, tint)


def _tint(frames: Frames, plate: Frames) -> Bytes:
    """Return the overall colour error (3,), at most MAX_TINT."""
    sample = slice(None, None, max(1, len(frames) // 3)), slice(None, None, 3), slice(None, None, 3)
    difference = (frames[sample].astype(np.int16) - plate[sample]).reshape(-1, 3)
    return np.median(difference, axis=0).clip(-MAX_TINT, MAX_TINT).astype(np.int16)  # type: ignore[no-any-return]


def _shadow(frames: Frames, backdrop: Backdrop, front: Mask, tint: Bytes) -> Mask:
    """Return the pixels near the floor that are the plate, darker by one factor in all channels."""
    count, height = frames.shape[:2]
    rows = backdrop.to_world(np.tile(np.arange(height, dtype=np.float32) + 0.5, (count, 1)), axis=1)
    near = front & (np.abs(rows - backdrop.stage.floor_y) < SHADOW_REACH)[:, :, None]
    pixels = [(frames[..., c][near].astype(np.float32) - tint[c]) for c in range(3)]
    plate = [backdrop.plate[..., c][near].astype(np.float32) for c in range(3)]
    product = sum(a * b for a, b in zip(pixels, plate, strict=True))
    factor = product / np.maximum(sum(b * b for b in plate), 1)
    fits = (factor > 0.45) & (factor < 1)
    for a, b in zip(pixels, plate, strict=True):
        fits &= np.abs(a - factor * b) < SHADOW_SLACK
    shadow = np.zeros_like(front)
    shadow[near] = fits
    return shadow


def _hues(frames: Frames, front: Mask) -> Bytes:
    """Return the index (F, H, W) of the palette colour with the nearest hue, -1 where there is none."""
    labels = np.full(front.shape, -1, dtype=np.int16)
    red, green, blue = (frames[..., c][front].astype(np.float32) for c in range(3))
    chroma = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    nearest = _nearest_colors()[_hue(red, green, blue).astype(np.int16) % 360]
    labels[front] = np.where(chroma > MIN_CHROMA, nearest, -1)
    return labels


def _hue(red: Floats, green: Floats, blue: Floats) -> Floats:
    """Return hues from -180 to 180 degrees, as the angle between opponent axes."""
    return np.degrees(np.arctan2(np.float32(3**0.5) * (green - blue), 2 * red - green - blue))  # type: ignore[no-any-return]


@lru_cache(maxsize=1)
def _nearest_colors() -> Bytes:
    """Return the index (360,) of the palette colour nearest to each degree of hue."""
    hues = _hue(*np.array(list(COLORS.values()), dtype=np.float32).T)
    away = np.abs((np.arange(360)[:, None] + 0.5 - hues + 180) % 360 - 180)
    return away.argmin(axis=1).astype(np.int16)  # type: ignore[no-any-return]


def _eroded(labels: Bytes) -> Bytes:
    """Return the labels with -1 for each pixel that differs from one of its four neighbours."""
    inner = labels[:, 1:-1, 1:-1]
    same = (inner == labels[:, :-2, 1:-1]) & (inner == labels[:, 2:, 1:-1])
    same &= (inner == labels[:, 1:-1, :-2]) & (inner == labels[:, 1:-1, 2:])
    core = np.full_like(labels, -1)
    core[:, 1:-1, 1:-1] = np.where(same, inner, -1)
    return core


def _present(core: Bytes) -> list[int]:
    """Return up to three palette indices that cover enough of enough frames, the largest first."""
    inner = _eroded(core)  # a misread rim is thin
    counts = np.stack([(inner == c).sum(axis=(1, 2)) for c in range(len(PALETTE))])  # (colours, F)
    enough = (counts >= MIN_INNER_PIXELS).mean(axis=1) >= MIN_SHARE
    order = np.argsort(-counts.mean(axis=1))
    found: list[int] = []
    for c in order:
        if enough[c] and not any(_is_rim(core, int(c), owner) for owner in found):
            found.append(int(c))
    return found[:3]


def _is_rim(core: Bytes, minor: int, owner: int) -> bool:
    """Return whether a colour is a misread rim or highlight: only seen within a stronger one's outline."""
    inside, total = 0, 0
    for frame in core[:: max(1, len(core) // 8)]:
        rows, cols = np.nonzero(frame == minor)
        if len(rows) < MIN_PIXELS / 2:
            continue
        own_rows, own_cols = np.nonzero(frame == owner)
        total += len(rows)
        if len(own_rows):
            top, bottom = np.percentile(own_rows, STRAYS)
            left, right = np.percentile(own_cols, STRAYS)
            near = (rows >= top - RIM_PX) & (rows <= bottom + RIM_PX)
            near &= (cols >= left - RIM_PX) & (cols <= right + RIM_PX)
            inside += int(near.sum())
    strength = int((core == minor).sum()) / max(1, int((core == owner).sum()))
    return total > 0 and inside > (0.7 if strength < 0.3 else 0.9) * total and strength < 0.8


def _blob(c: int, frames: Frames, front: Mask, labels: Bytes, core: Bytes) -> Blob | None:
    count = len(frames)
    outline = np.full((4, count), np.nan, dtype=np.float32)
    for f in range(count):
        mask = core[f] == c
        if mask.sum() >= MIN_PIXELS / 2:
            outline[:2, f] = _extent(mask.sum(axis=0))
            outline[2:, f] = _extent(mask.sum(axis=1))
    if np.isfinite(outline[0]).sum() < 3:
        return None
    solid = front & ((labels == c) | (labels == -1))
    glow = _glow(frames, solid, outline)
    return Blob(PALETTE[c], outline[0], outline[1], outline[2], outline[3], glow, solid)


def _extent(profile: NDArray[np.int64]) -> tuple[float, float]:
    """Return the ends of the run of pixels around a projection's median, with the eroded edge put back."""
    solid = profile > 0
    middle = int(np.searchsorted(np.cumsum(profile), profile.sum() / 2))
    gap = max(4, int(0.25 * solid.sum()))  # a ring's hole or a stripe does not end the run
    first = last = middle
    for step in (-1, 1):
        empty, at = 0, middle
        while 0 <= at < len(solid) and empty <= gap:
            if solid[at]:
                empty = 0
                first, last = min(first, at), max(last, at)
            else:
                empty += 1
            at += step
    return first - 1.0, last + 2.0


def _glow(frames: Frames, solid: Mask, outline: Floats) -> Floats:
    """Return how much whiter the body is in each frame (F,) than usual, 0 to 1."""
    count = len(frames)
    seen = np.flatnonzero(np.isfinite(outline[0]))
    box = np.stack([np.interp(np.arange(count), seen, side[seen]) for side in outline])
    white = np.zeros(count, dtype=np.float32)
    height, width = frames.shape[1:3]
    for f in range(count):
        left, right, top, bottom = box[:, f].round().astype(int)
        window = (slice(max(top, 0), min(bottom, height)), slice(max(left, 0), min(right, width)))
        body = solid[f][window]
        if body.any():
            white[f] = np.median(frames[f][window].min(axis=-1)[body]) / 255
    usual = float(np.median(white[seen]))
    return np.clip((white - usual) / max(0.75 * (0.97 - usual), 0.1), 0, 1).astype(np.float32)  # type: ignore[no-any-return]
