"""Compare pictures and sounds, for several sections."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from soundstage.media.arrays import Frames
from soundstage.nano.evaluation.actions import Path
from soundstage.nano.evaluation.backdrop import Floats, find_backdrop
from soundstage.nano.evaluation.picture import path
from soundstage.nano.evaluation.shapes import find_shape
from soundstage.nano.evaluation.sound import rms_dbfs
from soundstage.nano.evaluation.tracks import find_blobs
from soundstage.nano.world.motion import Track
from soundstage.types import OUTPUT_RATE_HZ

BEST_DB = 78.1  # for a mean squared error of 0.001 levels or less
UNSEEN = 3.0  # radii that a subject is taken to be away where it is not seen
QUIETEST_STEP = 0.01  # between samples; steps below this are never clicks


def psnr(made: Frames, true: Frames) -> float:
    """Return the PSNR in dB between 8-bit pictures (..., H, W, 3), at most BEST_DB."""
    error = np.square(made.astype(np.float32) - true.astype(np.float32)).mean(dtype=np.float64)
    return min(BEST_DB, 10 * float(np.log10(255**2 / max(float(error), 1e-3))))


def bicubic(frames: Frames, width: int, height: int) -> Frames:
    """Return frames (F, H, W, 3) at another size."""
    resized = [
        np.asarray(Image.fromarray(f).resize((width, height), Image.Resampling.BICUBIC)) for f in frames
    ]
    return np.stack(resized)


def between(frames: Frames) -> Frames:
    """Return the means of neighbouring frames: (F, H, W, 3) to (F - 1, H, W, 3)."""
    pairs = frames[:-1].astype(np.float32) + frames[1:].astype(np.float32)
    return (pairs / 2).round().astype(np.uint8)


def paths_by_color(frames: Frames, fps: float) -> dict[str, Path]:
    """Return the paths of the foreground's subjects in world units, by colour."""
    backdrop = find_backdrop(frames, fps)
    found = {}
    for blob in find_blobs(frames, backdrop):
        found[blob.color] = path(blob, find_shape(frames, backdrop, blob), backdrop)
    return found


def colors_seen(frames: Frames, fps: float) -> dict[str, NDArray[np.bool_]]:
    """Return for each colour of the foreground the frames (F,) in which it is seen."""
    return {blob.color: blob.seen for blob in find_blobs(frames, find_backdrop(frames, fps))}


def radii_away(seen: Path | None, true: Track) -> Floats:
    """Return the distances (F,) of a path from a track in the track's radii; UNSEEN where it is not seen."""
    if seen is None:
        return np.full(len(true.radius), UNSEEN, dtype=np.float32)
    away = np.hypot(seen.x - true.position[:, 0], seen.y - true.position[:, 1]) / true.radius
    return np.where(np.isfinite(away), np.minimum(away, UNSEEN), UNSEEN).astype(np.float32)


def changes(frames: Frames) -> Floats:
    """Return the mean absolute difference (F - 1,) of each frame from the one before, in levels of 8 bits."""
    pairs = itertools.pairwise(frames)
    return np.array([np.abs(b.astype(np.int16) - a).mean() for a, b in pairs], dtype=np.float32)


def step_ratio(waveform: Floats, span: tuple[float, float], usual: tuple[float, float]) -> float:
    """Return the largest step between samples in a span of seconds, over the largest in another span."""
    return _largest_step(waveform, span) / max(_largest_step(waveform, usual), QUIETEST_STEP)


def loudness_step(waveform: Floats, at_s: float, reach_s: float = 0.25) -> float:
    """Return the absolute difference in dB of the levels just after and just before a time."""
    before, after = ((at_s - reach_s, at_s), (at_s, at_s + reach_s))
    return abs(rms_dbfs(waveform, [after]) - rms_dbfs(waveform, [before]))


def _largest_step(waveform: Floats, span: tuple[float, float]) -> float:
    start, end = (max(0, round(t * OUTPUT_RATE_HZ)) for t in span)
    steps = np.abs(np.diff(waveform[:, start:end], axis=1))
    return float(steps.max()) if steps.size else 0.0
