"""Draw what a renderer knows of a scene besides its colours: subjects, depth, and light beyond white.

    LAYERS["depth"](scene)    # (F, H, W, 3) uint8, grey

They are exact: references to train on, and what results are held against. The camera is that of the picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from soundstage.media.arrays import Frames, LightFrames
from soundstage.media.light import from_srgb
from soundstage.nano.world.motion import Array, Motion, simulate
from soundstage.nano.world.render import grid, lamp, outline, render
from soundstage.nano.world.scene import Scene

Covers = NDArray[np.float32]  # (F, tracks, H, W), 0 to 1

FAR = 0.12  # nearness of the wall or the sky, of 1
GROUND_FAR, GROUND_NEAR = 0.2, 0.8  # of the ground at the horizon, and below the picture
SUN, MOON, FLASH, GLOSS = 12.0, 3.0, 4.0, 8.0  # light of each beyond what the picture shows; 1 is white
STAGE, ROUNDNESS = 0.62, 0.35  # of the outline of subjects, and how much nearer their middle is


def covers(scene: Scene, motion: Motion | None = None) -> Covers:
    """Return how much of each pixel each subject covers; a handover's gift is the third."""
    motion = motion or simulate(scene)
    found = np.zeros((len(motion.times), len(motion.tracks), *_size(scene)), np.float32)
    for f, x, y, pixel in _views(scene, motion):
        for index, track in enumerate(motion.tracks):
            seen = outline(x, y, pixel, track, f)
            if seen is not None:
                found[f, index][seen[0]] = seen[1]
    return found


def silhouettes(scene: Scene) -> Frames:
    """Return frames (F, H, W, 3) that are white where a subject is."""
    return _grey(covers(scene).max(axis=1))


def depth(scene: Scene) -> Frames:
    """Return frames (F, H, W, 3) of nearness in grey: wall, ground, and subjects that are round."""
    motion = simulate(scene)
    found = np.empty((len(motion.times), *_size(scene)), np.float32)
    for f, x, y, pixel in _views(scene, motion):
        down = (y - scene.horizon_y) / (1.3 * scene.half_height - scene.horizon_y)
        ground = GROUND_FAR + (GROUND_NEAR - GROUND_FAR) * np.clip(down, 0, 1)
        found[f] = np.where(down > 0, ground, FAR)[:, None]
        for track in motion.tracks:
            seen = outline(x, y, pixel, track, f)
            if seen is not None:
                window, cover, distance, _ = seen
                near = STAGE + ROUNDNESS * np.sqrt(np.clip(-distance, 0, 1))
                found[f][window] += cover * (near - found[f][window])
    return _grey(found)


def light(scene: Scene) -> LightFrames:
    """Return frames (F, H, W, 3) of linear light: the sun, the moon, flashes and gloss are beyond white.

    All else is the light of the picture that `render` draws.
    """
    motion = simulate(scene)
    found = from_srgb(render(scene, motion) / np.float32(255))
    for f, x, y, pixel in _views(scene, motion):
        beyond = lamp(scene, x, y) * (SUN if scene.background == "day" else MOON)
        for track in motion.tracks:
            seen = outline(x, y, pixel, track, f)
            if seen is not None:
                window, cover, _, shade = seen
                own = GLOSS * np.maximum(shade - 1, 0) + FLASH * track.glow[f]
                beyond[window] += cover * (own - beyond[window])
        found[f] += beyond[..., None]
    return found.astype(np.float16)


LAYERS: Mapping[str, Callable[[Scene], Frames]] = {"depth": depth, "silhouettes": silhouettes}


def _views(scene: Scene, motion: Motion) -> Iterator[tuple[int, Array, Array, float]]:
    """Yield each frame's number, x and y of its pixels, and their size."""
    for f in range(len(motion.times)):
        yield f, *grid(scene, motion.camera[f])


def _size(scene: Scene) -> tuple[int, int]:
    return scene.shape.height, scene.shape.width


def _grey(values: Array) -> Frames:
    frames: Frames = np.repeat((values * 255 + 0.5).astype(np.uint8)[..., None], 3, axis=-1)
    return frames
