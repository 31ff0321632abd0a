"""Depth of a clip in grey, near is white: by a model, or guessed from classical cues."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soundstage.control.frames import grey, opencv, rgb, scaled, within
from soundstage.control.onnx import Extents, PictureModel, check_given, picture_model, values_setting
from soundstage.control.settings import Setting, check_unused
from soundstage.errors import MediaError
from soundstage.media.arrays import Pixels

Map = NDArray[np.float32]  # (h, w)
WINDOW = 32  # pictures that a model of clips gets at once, where it does not say
OVERLAP = 8  # of them that are seen again with the next ones, to bring both to one scale
LOOKED_AT = 192  # pixels of the shorter side at which depth is guessed
ASPECT = 1.5  # a map whose shape differs more from its picture's is none
DEPTH = {
    "resolution": Setting(518, "shorter side of what the model sees, where the model does not say", 56, 2048),
    "multiple": Setting(14, "whole number that its sides are multiples of; 32 for DPT and MiDaS", 1, 128),
    "far": Setting(
        "dark",
        "dark where the model's values grow towards the camera, bright where away, metres where they are "
        "distances",
        choices=("dark", "bright", "metres"),
    ),
    "values": values_setting("the model"),
}
RANGE = (2, 98)  # percent of the first frame's values, which become black and white


def depth(frames: Iterator[Pixels], fps: float, given: Mapping[str, Any]) -> Iterator[Pixels]:
    """Yield depth as a model finds it, on one scale for the whole clip."""
    low = high = 0.0
    for frame, found in _found(picture_model(given["model"]), frames, given):
        values = _nearness(found, given["far"])
        if high - low < 1e-6:  # until a frame shows anything at all
            low, high = (float(np.percentile(values, share)) for share in RANGE)
        yield _shown(values, low, high, frame)


def check_depth(given: Mapping[str, Any]) -> None:
    """Raise where no model is given, or one that gives no depth."""
    check_given("depth", "depth-classical", given["model"])
    model = picture_model(given["model"])
    size = (model.shape[-2], model.shape[-1])
    if not any(_is_map(shape, size, model) for _, shape in model.outputs):
        raise _no_depth(model, model.outputs)
    if None not in size:
        sees = f"model {model.path} sees pictures of {size[1]}x{size[0]} alone"
        check_unused(DEPTH, given, "resolution multiple", sees)


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


# --- What a model finds -----------------------------------------------------------------------------


def _found(
    model: PictureModel, frames: Iterator[Pixels], given: Mapping[str, Any]
) -> Iterator[tuple[Pixels, Map]]:
    """Yield each frame with the model's map of it."""
    if model.window is None:
        for frame in frames:
            yield frame, _maps(model, [frame], given)[0]
        return
    window = model.window or WINDOW
    overlap = min(OVERLAP, window // 2)
    held: list[Pixels] = []
    known: list[Map] = []  # of the last frames, which are not yielded before they were seen again
    while more := list(islice(frames, window - len(held))):
        maps = _joined(known, _maps(model, held + more, given))
        held += more
        last = len(held) - min(overlap, len(more))
        yield from zip(held[:last], maps[:last], strict=True)
        held, known = held[last:], maps[last:]
    yield from zip(held, known, strict=True)


def _joined(known: Sequence[Map], maps: list[Map]) -> list[Map]:
    """Return maps on the scale of those known of the first of them, which they fade over from."""
    if not known:
        return maps
    before, again = np.stack(known), np.stack(maps[: len(known)])
    deviation = again - again.mean()
    spread = float((deviation**2).mean())
    scale = 1.0 if spread < 1e-12 else float((deviation * (before - before.mean())).mean()) / spread
    scale = scale if scale > 0 else 1.0  # nothing in common: only the level is kept
    moved = [scale * (one - again.mean()) + before.mean() for one in maps]
    for i, one in enumerate(known):
        share = (i + 1) / (len(known) + 1)
        moved[i] = (1 - share) * one + share * moved[i]
    return moved


def _maps(model: PictureModel, held: Sequence[Pixels], given: Mapping[str, Any]) -> list[Map]:
    """Return the model's map of each of some frames."""
    width, height = _input_size(model, held[0], given)
    values = model.values(given["values"], "imagenet")
    pictures = np.stack([model.picture(frame, width, height, values) for frame in held])
    if model.window is None:
        outputs = model.run(pictures)
    else:
        short = (model.window or len(held)) - len(held)  # the last picture fills a fixed number up
        outputs = model.run(np.concatenate([pictures, pictures[-1:].repeat(short, axis=0)])[None])
    shapes = [(name, one.shape) for name, one in outputs]
    ordered = sorted(outputs, key=lambda output: "depth" not in output[0].lower())
    found = [one for _, one in ordered if _is_map(one.shape, (height, width), model)]
    maps = found[0].reshape(-1, *_plane(found[0].shape)) if found else np.zeros((0, 1, 1), np.float32)
    if len(maps) < len(held):
        raise _no_depth(model, shapes)
    if not np.isfinite(maps).all():
        raise MediaError(
            f"model {model.path} gives values that are not numbers; give it other values, as values=unit"
        )
    return list(maps[: len(held)])


def _plane(shape: Sequence[Any]) -> tuple[Any, Any]:
    """Return height and width of a map, whose one channel may come last."""
    last = len(shape) == 4 and shape[-1] == 1 and shape[1] != 1
    return (shape[-3], shape[-2]) if last else (shape[-2], shape[-1])


def _is_map(shape: Extents, size: tuple[int | None, int | None], model: PictureModel) -> bool:
    """Return whether an output of a shape may be one value for each place of a picture of a size."""
    if not 2 <= len(shape) <= 5:
        return False
    height, width = _plane(shape)
    leading = shape[:-2] if (height, width) == tuple(shape[-2:]) else (shape[0], shape[-1])
    counts = (1, None, model.shape[0] if model.window is None else model.window or WINDOW)
    if model.window != 0 and any(side not in counts for side in leading):
        return False
    known = height and width and size[0] and size[1]
    return not known or 1 / ASPECT < (height * size[1]) / (width * size[0]) < ASPECT


def _no_depth(model: PictureModel, shapes: Sequence[tuple[str, Sequence[Any]]]) -> MediaError:
    sees = "x".join(str(side or "N") for side in (model.shape[-1], model.shape[-2]))
    return MediaError(
        f"model {model.path} sees pictures of {sees} and gives {model.described(shapes)}; control 'depth' "
        "needs one map of each, such as (1, H, W)"
    )


def _input_size(model: PictureModel, frame: Pixels, given: Mapping[str, Any]) -> tuple[int, int]:
    height, width = frame.shape[:2]
    share, step = given["resolution"] / min(height, width), given["multiple"]
    across, down = (max(step, round(side * share / step) * step) for side in (width, height))
    return model.size(across, down)


def _nearness(found: Map, far: str) -> Map:
    if far == "metres":
        nearest = max(1e-6, float(np.percentile(found, RANGE[0])))
        return np.asarray(1 / np.maximum(found, nearest), np.float32)
    return -found if far == "bright" else found


def _shown(values: Map, low: float, high: float, frame: Pixels) -> Pixels:
    shares = np.clip((values - low) / max(1e-6, high - low), 0, 1)
    sized = scaled(shares.astype(np.float32), frame.shape[1], frame.shape[0])
    return rgb(np.rint(sized * 255).astype(np.uint8))


def _share(values: Map) -> Map:
    """Return values as shares of their highest."""
    found: Map = values / max(1e-6, float(values.max()))
    return found
