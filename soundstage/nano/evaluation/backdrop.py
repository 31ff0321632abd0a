"""Find background and camera move, by comparison of the whole picture with rendered hypotheses."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from soundstage.media.arrays import Frames
from soundstage.nano.world.motion import simulate
from soundstage.nano.world.render import render
from soundstage.nano.world.scene import BACKGROUNDS, CAMERAS, Scene
from soundstage.types import VideoShape

Floats = NDArray[np.float32]

GLANCES = 5  # frames compared per hypothesis
OUTLIER = 0.12  # differences beyond this are the subjects', not the background's
MAX_TINT = 0.06  # an overall colour error up to this is forgiven


@dataclass(frozen=True)
class Backdrop:
    """A background, and the camera's view of it."""

    stage: Scene  # without subjects
    plate: Frames  # (F, H, W, 3) uint8, the stage as the camera sees it
    view: Floats  # (F, 3) centre and zoom of the camera

    def to_world(self, pixels: Floats, axis: int) -> Floats:
        """Return pixel coordinates (F, ...) along axis 0 (x) or 1 (y) in world units."""
        height, width = self.plate.shape[1:3]
        unit, middle = min(height, width), (width, height)[axis] / 2
        trailing = (slice(None),) + (None,) * (pixels.ndim - 1)
        zoom, centre = self.view[:, 2][trailing], self.view[:, axis][trailing]
        return (pixels - middle) / (unit * zoom) + centre  # type: ignore[no-any-return]

    def pixels_per_unit(self) -> Floats:
        """Return how many pixels a world unit covers in each frame (F,)."""
        return min(self.plate.shape[1:3]) * self.view[:, 2]  # type: ignore[no-any-return]


def find_backdrop(frames: Frames, fps: float) -> Backdrop:
    """Return the background and camera move that fit (F, H, W, 3) uint8 frames best."""
    shape = VideoShape(*frames.shape[:3])
    seen = _small(frames[_glances(shape.num_frames)])
    hypotheses = _hypotheses(shape, fps)
    errors = {key: _error(seen, small) for key, small in hypotheses.items()}
    background = min(errors, key=lambda key: errors[key])[0]
    tint = np.median(seen - hypotheses[min(errors, key=lambda key: errors[key])], axis=(0, 1, 2))
    seen = seen - np.clip(tint, -MAX_TINT, MAX_TINT)
    camera = min(CAMERAS, key=lambda move: _error(seen, hypotheses[background, move]))
    return _backdrop(shape, fps, background, camera)


def _glances(num_frames: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, num_frames - 1, GLANCES).round().astype(np.int64))


def _small(frames: Frames) -> Floats:
    """Return frames at half size, with values from 0 to 1."""
    count, height, width = frames.shape[:3]
    cells = frames.reshape(count, height // 2, 2, width // 2, 2, 3)
    return cells.mean(axis=(2, 4), dtype=np.float32) / np.float32(255)  # type: ignore[no-any-return]


def _error(seen: Floats, expected: Floats) -> float:
    return float(np.minimum(np.abs(seen - expected), OUTLIER).mean())


def _empty(shape: VideoShape, fps: float, background: str, camera: str) -> Scene:
    return Scene(seed=0, shape=shape, background=background, camera=camera, subjects=(), fps=fps)


@lru_cache(maxsize=4)
def _hypotheses(shape: VideoShape, fps: float) -> dict[tuple[str, str], Floats]:
    found = {}
    for background in BACKGROUNDS:
        for camera in CAMERAS:
            scene = _empty(shape, fps, background, camera)
            motion = simulate(scene)
            glances = [render(scene, motion, range(f, f + 1))[0] for f in _glances(shape.num_frames)]
            found[background, camera] = _small(np.stack(glances))
    return found


@lru_cache(maxsize=8)
def _backdrop(shape: VideoShape, fps: float, background: str, camera: str) -> Backdrop:
    stage = _empty(shape, fps, background, camera)
    motion = simulate(stage)
    if camera == "static":
        still = render(stage, motion, range(1))
        return Backdrop(stage, np.broadcast_to(still, (shape.num_frames, *still.shape[1:])), motion.camera)
    return Backdrop(stage, render(stage, motion), motion.camera)
