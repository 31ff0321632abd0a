"""Make pairs of a clip and its reference from a scene, for in-context LoRAs: data, and what to hold them to.

    PAIRS["edges"](scene).reference    # (F, H, W, 3) uint8

A reference is what `soundstage control` makes of the scene's own clip, or what the renderer knows of it, so
that it is exact. Equal scenes give equal pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soundstage.clip import Clip
from soundstage.control.kinds import KINDS
from soundstage.media.arrays import Frames
from soundstage.media.light import to_logc3
from soundstage.nano.world.layers import covers, depth, light
from soundstage.nano.world.motion import simulate
from soundstage.nano.world.render import render
from soundstage.nano.world.scene import Scene

OpenCells = NDArray[np.bool_]  # (F, H, W)

TRAIL_WIDTH = 6  # of tracks: nano's VAE does not see thinner ones
MARGINS = (0, 16, 32, 48)  # pixels that outpainting adds on a side
BOX_GROWTH = 6  # pixels of a painted box around its subject
AROUND_SUBJECT = 0.7  # of the painted boxes; others are anywhere
GRADE = 1.5  # amount


@dataclass(frozen=True)
class ControlPair:
    """A clip and its reference, (F, H, W, 3) uint8. made: what a filling kind leaves open."""

    clip: Frames
    reference: Frames
    made: OpenCells | None = None


def edges(scene: Scene) -> ControlPair:
    """Return a clip and its edges."""
    frames = render(scene)
    return ControlPair(frames, prepared("canny", frames, scene.fps, {}))


def depth_of_world(scene: Scene) -> ControlPair:
    """Return a clip and its depth, from the world's own geometry."""
    return ControlPair(render(scene), depth(scene))


def tracks(scene: Scene) -> ControlPair:
    """Return a clip and trails of its subjects' middles."""
    frames = render(scene)
    places = simulate(scene).screen_positions(scene).swapaxes(0, 1)  # (tracks, F, 2)
    points = "|".join(" ".join(f"{x:.2f} {y:.2f}" for x, y in path) for path in places)
    return ControlPair(
        frames, prepared("tracks", frames, scene.fps, {"points": points, "width": TRAIL_WIDTH})
    )


def inpaint(scene: Scene) -> ControlPair:
    """Return a clip and the same with a box painted over: around its first subject, or anywhere."""
    frames, rng = render(scene), np.random.default_rng([scene.seed, 11])
    made = np.zeros(frames.shape[:3], bool)
    if rng.random() < AROUND_SUBJECT:
        for f, cover in enumerate(covers(scene)[:, 0] > 0.5):
            made[f][_box_around(cover)] = True
    if not made.any():
        whole: list[int] = list(made.shape[1:])
        sides = [int(side * rng.uniform(0.3, 0.7)) for side in whole]
        first = [int(rng.integers(side - own)) for side, own in zip(whole, sides, strict=True)]
        made[:, first[0] : first[0] + sides[0], first[1] : first[1] + sides[1]] = True
    with TemporaryDirectory() as folder:
        mask = Path(folder) / "mask.mkv"
        Clip(np.repeat(255 * made[..., None].astype(np.uint8), 3, axis=-1), None, scene.fps).save(
            mask, codec="ffv1"
        )
        return ControlPair(frames, prepared("inpaint", frames, scene.fps, {"mask": str(mask)}), made)


def outpaint(scene: Scene) -> ControlPair:
    """Return a clip and its middle on black."""
    frames, rng = render(scene), np.random.default_rng([scene.seed, 12])
    left, top, right, bottom = (int(rng.choice(MARGINS)) for _ in range(4))
    if not any((left, top, right, bottom)):
        left = right = max(MARGINS)
    height, width = frames.shape[1:3]
    inside = (slice(None), slice(top, height - bottom), slice(left, width - right))
    made = np.ones(frames.shape[:3], bool)
    made[inside] = False
    sides = {"left": left, "top": top, "right": right, "bottom": bottom}
    return ControlPair(frames, prepared("outpaint", frames[inside], scene.fps, sides), made)


def ungrade(scene: Scene) -> ControlPair:
    """Return a clip and the same in a drawn grade."""
    frames = render(scene)
    return ControlPair(frames, prepared("grade", frames, scene.fps, {"seed": scene.seed, "amount": GRADE}))


def hdr(scene: Scene) -> ControlPair:
    """Return the world's light, beyond white in places, in codes of LogC3, and its picture."""
    codes = to_logc3(light(scene).astype(np.float32))
    return ControlPair((codes * 255 + 0.5).astype(np.uint8), render(scene))


PAIRS: Mapping[str, Callable[[Scene], ControlPair]] = {
    "edges": edges,
    "depth": depth_of_world,
    "tracks": tracks,
    "inpaint": inpaint,
    "outpaint": outpaint,
    "ungrade": ungrade,
    "hdr": hdr,
}


def prepared(kind: str, frames: Frames, fps: float, options: Mapping[str, Any]) -> Frames:
    """Return the reference that a kind of `soundstage control` makes of a clip."""
    return np.stack(list(KINDS[kind].prepare(iter(frames), fps, options, len(frames))))


def _box_around(cover: OpenCells) -> tuple[slice, slice]:
    """Return rows and columns of a box around what is covered; empty where nothing is."""
    rows, columns = (np.flatnonzero(cover.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return slice(0), slice(0)
    return (
        slice(max(0, rows[0] - BOX_GROWTH), rows[-1] + 1 + BOX_GROWTH),
        slice(max(0, columns[0] - BOX_GROWTH), columns[-1] + 1 + BOX_GROWTH),
    )
