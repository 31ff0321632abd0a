"""Plain comparisons of pictures and sounds that several sections use."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from soundstage.nano.evaluation.actions import Path
from soundstage.nano.evaluation.backdrop import Array, Frames, find_backdrop
from soundstage.nano.evaluation.picture import path
from soundstage.nano.evaluation.shapes import find_shape
from soundstage.nano.evaluation.sound import rms_dbfs
from soundstage.nano.evaluation.tracks import find_blobs
from soundstage.nano.world.motion import Track
from soundstage.types import OUTPUT_RATE_HZ

BEST_DB = 78.1  # a mean squared error of 0.001 levels: what is the same counts as this
UNSEEN = 3.0  # radii that a subject is taken to be away where it is not seen
QUIETEST_STEP = 0.01  # of a sample: steps below this are no clicks, whatever is around them


def psnr(made: Frames, true: Frames) -> float:
    """dB between pictures (..., H, W, 3) of 8 bits, at most BEST_DB."""
    error = np.square(made.astype(np.float32) - true.astype(np.float32)).mean(dtype=np.float64)
    return min(BEST_DB, 10 * float(np.log10(255**2 / max(float(error), 1e-3))))


def bicubic(frames: Frames, width: int, height: int) -> Frames:
    """(F, H, W, 3) at another size."""
    resized = [
        np.asarray(Image.fromarray(f).resize((width, height), Image.Resampling.BICUBIC)) for f in frames
    ]
    return np.stack(resized)


def between(frames: Frames) -> Frames:
    """(F, H, W, 3) -> (F - 1, H, W, 3), each the mean of two neighbours."""
    pairs = frames[:-1].astype(np.float32) + frames[1:].astype(np.float32)
    return (pairs / 2).round().astype(np.uint8)


def paths_by_color(frames: Frames, fps: float) -> dict[str, Path]:
    """What stands before the backdrop, by colour, in world units."""
    backdrop = find_backdrop(frames, fps)
    found = {}
    for blob in find_blobs(frames, backdrop):
        found[blob.color] = path(blob, find_shape(frames, backdrop, blob), backdrop)
    return found


def colors_seen(frames: Frames, fps: float) -> dict[str, NDArray[np.bool_]]:
    """Colours that stand before the backdrop -> (F,) in which frames."""
    return {blob.color: blob.seen for blob in find_blobs(frames, find_backdrop(frames, fps))}


def radii_away(seen: Path | None, true: Track) -> Array:
    """(F,) distance of a path's centres from a track's, in the track's radii; UNSEEN where there is none."""
    if seen is None:
        return np.full(len(true.radius), UNSEEN, dtype=np.float32)
    away = np.hypot(seen.x - true.position[:, 0], seen.y - true.position[:, 1]) / true.radius
    return np.where(np.isfinite(away), np.minimum(away, UNSEEN), UNSEEN).astype(np.float32)


def changes(frames: Frames) -> Array:
    """(F - 1,) mean absolute difference of each frame from the one before, in levels."""
    pairs = itertools.pairwise(frames)
    return np.array([np.abs(b.astype(np.int16) - a).mean() for a, b in pairs], dtype=np.float32)


def step_ratio(waveform: Array, span: tuple[float, float], usual: tuple[float, float]) -> float:
    """The largest step between samples in a span of seconds, over the largest in another."""
    return _largest_step(waveform, span) / max(_largest_step(waveform, usual), QUIETEST_STEP)


def loudness_step(waveform: Array, at_s: float, reach_s: float = 0.25) -> float:
    """dB between the levels just after and just before a time, in either direction."""
    before, after = ((at_s - reach_s, at_s), (at_s, at_s + reach_s))
    return abs(rms_dbfs(waveform, [after]) - rms_dbfs(waveform, [before]))


def _largest_step(waveform: Array, span: tuple[float, float]) -> float:
    start, end = (max(0, round(t * OUTPUT_RATE_HZ)) for t in span)
    steps = np.abs(np.diff(waveform[:, start:end], axis=1))
    return float(steps.max()) if steps.size else 0.0
