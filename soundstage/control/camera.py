"""The motion of a clip's camera, without what the clip shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soundstage.control.frames import grey, opencv
from soundstage.control.settings import seeded
from soundstage.media.arrays import Pixels

CAMERA = seeded("pattern")
NUM_POINTS = 300
MIN_SPREAD = 0.4  # of the picture's sides; points closer together are on one thing
MIN_POINTS = 6  # fewer say nothing about the camera


def camera_motion(frames: Iterator[Pixels], fps: float, given: Mapping[str, Any]) -> Iterator[Pixels]:
    """Yield a drawn pattern that moves, turns and grows as most of the picture does."""
    cv2 = opencv()
    before: Any = None
    whole = np.eye(3)
    for frame in frames:
        height, width = frame.shape[:2]
        luma = grey(frame)
        if before is None:
            pattern = _pattern(height, width, given["seed"])
        else:
            whole = motion(before, luma) @ whole
        before = luma
        moved = cv2.warpAffine(pattern, whole[:2], (width, height), borderMode=cv2.BORDER_REFLECT_101)
        yield np.ascontiguousarray(moved)


def motion(before: Any, now: Any) -> NDArray[np.float64]:
    """Return the (3, 3) matrix from places in one frame to the next, by most of the points."""
    cv2 = opencv()
    found_motion = np.eye(3)
    points = cv2.goodFeaturesToTrack(before, NUM_POINTS, 0.005, 5)
    if points is None or len(points) < MIN_POINTS:
        return found_motion
    ends, found, _ = cv2.calcOpticalFlowPyrLK(before, now, points, None)
    kept = found.ravel() == 1
    if kept.sum() >= MIN_POINTS:
        cv2.setRNGSeed(0)  # of RANSAC
        matrix, _ = cv2.estimateAffinePartial2D(points[kept], ends[kept])
        spread = np.ptp(points[kept].reshape(-1, 2), axis=0) / before.shape[::-1]
        if matrix is not None and spread.min() > MIN_SPREAD:
            found_motion[:2] = matrix
    return found_motion


def _pattern(height: int, width: int, seed: int) -> Pixels:
    """Return soft spots of grey on grey, which say how they move and nothing else."""
    cv2 = opencv()
    rng = np.random.default_rng([4, seed])
    noise = rng.uniform(-1, 1, (height, width)).astype(np.float32)
    made = np.zeros_like(noise)
    for share in (0.02, 0.06):
        soft = cv2.GaussianBlur(
            noise, (0, 0), max(1.0, share * min(height, width)), borderType=cv2.BORDER_REFLECT
        )
        made += soft / max(1e-6, float(soft.std()))
    values = np.clip(128 + 24 * made, 0, 255).astype(np.uint8)
    return np.repeat(values[..., None], 3, axis=2)
