"""Depth of a clip in grey, near is white: by a model, or guessed from classical cues."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soundstage.control.frames import grey, opencv, rgb, scaled, within
from soundstage.control.onnx import PictureModel, as_input, picture_model
from soundstage.control.settings import Setting
from soundstage.errors import MediaError
from soundstage.media.arrays import Pixels

Map = NDArray[np.float32]  # (h, w)
WINDOW = 32  # pictures that a model of clips gets at once, where it does not say
LOOKED_AT = 192  # pixels of the shorter side at which depth is guessed
PATCH = 14  # sides of vision transformers' inputs are multiples of it
DEPTH = {
    "resolution": Setting(518, "shorter side of what the model sees, where the model does not say", 56, 2048),
    "far": Setting(
        "dark",
        "dark where the model's values grow towards the camera, bright where away",
        choices=("dark", "bright"),
    ),
}
RANGE = (2, 98)  # percent of the first frame's values, which become black and white


def depth(frames: Iterator[Pixels], fps: float, given: Mapping[str, Any]) -> Iterator[Pixels]:
    """Yield depth as a model finds it, on one scale for the whole clip."""
    model = picture_model(given["model"])
    low = high = None
    for frame, found in _found(model, frames, given["resolution"]):
        values = -found if given["far"] == "bright" else found
        if low is None:
            low, high = (float(np.percentile(values, share)) for share in RANGE)
        yield _shown(values, low, high or 0.0, frame)


def depth_classical(frames: Iterator[Pixels], fps: float, given: Mapping[str, Any]) -> Iterator[Pixels]:
    """Yield a guess: low in the picture, in focus and in motion is near."""
    cv2 = opencv()
    before: Any = None
    for frame in frames:
        luma = grey(scaled(frame, *within((frame.shape[1], frame.shape[0]), LOOKED_AT)))
        height, width = luma.shape
        soft = max(2.0, min(height, width) / 24)
        down = np.linspace(0, 1, height, dtype=np.float32)[:, None].repeat(width, 1)
        detail = np.abs(cv2.Laplacian(luma.astype(np.float32), cv2.CV_32F))
        near = 0.55 * down + 0.25 * _share(cv2.GaussianBlur(detail, (0, 0), soft))
        if before is not None:
            flow = cv2.calcOpticalFlowFarneback(before, luma, None, 0.5, 3, 15, 3, 5, 1.1, 0)
            moved = np.linalg.norm(flow - np.median(flow, axis=(0, 1)), axis=2).astype(np.float32)
            near += 0.2 * _share(cv2.GaussianBlur(moved, (0, 0), soft / 2)) * (moved.max() > 0.5)
        before = luma
        near = cv2.bilateralFilter(near.astype(np.float32), 9, 0.1, soft)
        yield _shown(near, 0.0, 1.0, frame)


def _found(model: PictureModel, frames: Iterator[Pixels], resolution: int) -> Iterator[tuple[Pixels, Map]]:
    """Yield each frame with the model's map of it."""
    count = 1 if model.window is None else model.window or WINDOW
    while held := list(islice(frames, count)):
        width, height = _input_size(model, held[0], resolution)
        pictures = np.stack([as_input(frame, width, height) for frame in held])
        if model.window:  # a fixed number: the last picture fills it up
            pictures = np.concatenate([pictures, pictures[-1:].repeat(count - len(held), axis=0)])
        maps = np.squeeze(model.run(pictures if model.window is None else pictures[None])[0])
        maps = maps[None] if maps.ndim == 2 else maps
        if maps.ndim != 3 or len(maps) < len(held):
            raise MediaError(
                f"model {model.path} gives {maps.shape} for {len(held)} pictures; depth is one map each"
            )
        yield from zip(held, maps, strict=False)


def _input_size(model: PictureModel, frame: Pixels, resolution: int) -> tuple[int, int]:
    height, width = frame.shape[:2]
    share = resolution / min(height, width)
    sides = (max(PATCH, round(side * share / PATCH) * PATCH) for side in (width, height))
    own = (model.shape[-1], model.shape[-2])
    found = [fixed or side for fixed, side in zip(own, sides, strict=True)]
    return found[0], found[1]


def _shown(values: Map, low: float, high: float, frame: Pixels) -> Pixels:
    shares = np.clip((values - low) / max(1e-6, high - low), 0, 1)
    sized = scaled(shares.astype(np.float32), frame.shape[1], frame.shape[0])
    return rgb(np.rint(sized * 255).astype(np.uint8))


def _share(values: Map) -> Map:
    """Return values as shares of their highest."""
    found: Map = values / max(1e-6, float(values.max()))
    return found
