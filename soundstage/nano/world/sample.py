"""Make clips of the world itself, or of a layer of it, as files that carry their scene."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from soundstage.clip import Clip
from soundstage.errors import RequestError, listed
from soundstage.nano.world.captions import caption
from soundstage.nano.world.layers import LAYERS
from soundstage.nano.world.motion import simulate
from soundstage.nano.world.render import render
from soundstage.nano.world.scene import BUCKETS, Scene, draw_scene
from soundstage.nano.world.sound import synthesize
from soundstage.types import VideoShape


def sample(
    seed: int,
    size: str = "landscape",
    num_frames: int = 49,
    *,
    held_out: bool = False,
    layer: str | None = None,
) -> Clip:
    """Return the world's clip of a scene; its provenance has the caption.

    size: a name of BUCKETS. held_out: draw from the scenes that training never shows. layer: a name of
    LAYERS, shown without sound in place of the picture. Raises RequestError for a size, a number of frames
    or a layer that the world does not have.
    """
    if layer is not None and layer not in LAYERS:
        raise RequestError(f"layer is '{layer}'; give one of {listed(layer, LAYERS)}", field="layer")
    if size not in BUCKETS:
        raise RequestError(f"size is '{size}'; give one of {listed(size, BUCKETS)}", field="size")
    if num_frames < 1 or num_frames % 8 != 1:
        raise RequestError(f"frames is {num_frames}; give 8k + 1, such as 9, 17 or 49", field="frames")
    width, height = BUCKETS[size]
    scene = draw_scene(seed, VideoShape(num_frames, height, width), held_out=held_out)
    if layer is not None:
        return clip_of(scene, LAYERS[layer](scene), None, caption(scene, full=True))
    motion = simulate(scene)
    return clip_of(scene, render(scene, motion), synthesize(scene, motion), caption(scene, full=True))


def clip_of(
    scene: Scene, frames: NDArray[np.uint8], waveform: NDArray[np.float32] | None, words: str | None
) -> Clip:
    """Return frames and samples as a clip that carries its scene. words: what the clip was asked for with."""
    return Clip(frames, waveform, scene.fps, {"world_seed": scene.seed, "caption": words})
