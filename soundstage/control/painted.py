"""Clips with areas painted over for an adapter to fill, a panel beside them, and the blend afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from soundstage.control.frames import each, even, file_frames, opencv, scaled
from soundstage.control.regions import REGION, in_blocks, regions
from soundstage.control.settings import Setting, colour, refused
from soundstage.media.arrays import Pixels

BLOCKS = Setting(8, "side of the cells that are filled whole where the region touches them; 1 is off", 1, 64)
INPAINT = {**REGION, "fill": Setting("magenta", "colour that is painted", colour=True), "blocks": BLOCKS}
GREEN_INPAINT = {
    **REGION,
    "grow": Setting(5, "pixels by which the region is made larger; 32 for objects", 0, 512),
    "fill": Setting("canvas-green", "colour that is painted", colour=True),
    "blocks": Setting(1, "side of the cells that are filled whole; 1 is off", 1, 64),
}
MASKED_REFERENCE = {
    **INPAINT,
    "side": Setting("left", "side of the panel", choices=("left", "right", "top", "bottom")),
    "panel": Setting(0.5, "size of the panel as a share of the clip's side", 0.1, 1),
}
SIDES = {
    side: Setting(0, f"pixels of the clip that are added {where}", 0, 2048)
    for side, where in (
        ("left", "on the left"),
        ("top", "above"),
        ("right", "on the right"),
        ("bottom", "below"),
    )
}
OUTPAINT = {
    **SIDES,
    "fill": Setting("black", "colour of the new area; canvas-green for the official adapter", colour=True),
    "gamma": Setting(1.0, "2 lifts dark footage off a black canvas; gamma=2 undoes it in the result", 1, 4),
}
GAMMA = {"gamma": Setting(2.0, "power of each value from 0 to 1", 0.25, 4)}
BLEND = {
    **REGION,
    "levels": Setting(7, "most halvings of the pyramid; 0 is a hard edge", 0, 7),
}


def inpaint(frames: Iterator[Pixels], fps: float, given: Mapping[str, Any]) -> Iterator[Pixels]:
    """Yield frames with the region painted over in one colour."""
    fill = colour(given["fill"], "fill")
    for frame, region in regions(frames, fps, given):
        painted = frame.copy()
        painted[in_blocks(region, given["blocks"])] = fill
        yield painted


def panel_size(size: tuple[int, int], given: Mapping[str, Any]) -> tuple[int, int]:
    """Return the size of a clip with its panel."""
    width, height = size
    beside = given["side"] in ("left", "right")
    share = even((width if beside else height) * given["panel"])
    return (width + share, height) if beside else (width, height + share)


def masked_reference(frames: Iterator[Pixels], fps: float, given: Mapping[str, Any]) -> Iterator[Pixels]:
    """Yield painted frames beside a green panel that shows an object, or nothing."""
    held = None
    for frame in inpaint(frames, fps, given):
        height, width = frame.shape[:2]
        if held is None:
            whole = panel_size((width, height), given)
            beside = given["side"] in ("left", "right")
            held = _panel((whole[0] - width, height) if beside else (width, whole[1] - height), given)
        first = [held, frame] if given["side"] in ("left", "top") else [frame, held]
        yield np.concatenate(first, axis=1 if held.shape[0] == height else 0)


def _panel(size: tuple[int, int], given: Mapping[str, Any]) -> Pixels:
    panel = np.empty((size[1], size[0], 3), np.uint8)
    panel[:] = colour("green", "panel")
    if given["image"] is not None:
        picture = next(file_frames(given["image"], 24.0))
        share = min(size[0] / picture.shape[1], size[1] / picture.shape[0])
        shown = scaled(picture, *(max(1, int(side * share)) for side in (picture.shape[1], picture.shape[0])))
        top, left = (size[1] - shown.shape[0]) // 2, (size[0] - shown.shape[1]) // 2
        panel[top : top + shown.shape[0], left : left + shown.shape[1]] = shown
    return panel


def check_canvas(given: Mapping[str, Any]) -> None:
    """Raise RequestError for a canvas that is no larger than the clip."""
    if not any(given[side] for side in SIDES):
        raise refused(
            "control 'outpaint' adds nothing; give left, top, right or bottom in pixels of the clip"
        )


def border(frames: Iterator[Pixels], fps: float, given: Mapping[str, Any]) -> Iterator[Pixels]:
    """Yield frames whose margins are painted over: what is left within them on a canvas of their own size."""
    left, top = given["left"], given["top"]

    def inner(frame: Pixels) -> Pixels:
        return frame[top : frame.shape[0] - given["bottom"], left : frame.shape[1] - given["right"]]

    return outpaint(map(inner, frames), fps, given)


def check_border(size: tuple[int, int], given: Mapping[str, Any]) -> None:
    """Raise RequestError for margins that leave nothing of a clip of a width and height."""
    if given["left"] + given["right"] >= size[0] or given["top"] + given["bottom"] >= size[1]:
        raise refused(
            f"the margins leave nothing of the clip of {size[0]}x{size[1]} pixels; give smaller ones"
        )


def canvas_size(size: tuple[int, int], given: Mapping[str, Any]) -> tuple[int, int]:
    """Return the size of a clip on its canvas."""
    return size[0] + given["left"] + given["right"], size[1] + given["top"] + given["bottom"]


def outpaint(frames: Iterator[Pixels], fps: float, given: Mapping[str, Any]) -> Iterator[Pixels]:
    """Yield frames on a larger canvas of one colour."""
    fill = colour(given["fill"], "fill")
    table = _powers(1 / given["gamma"])

    def placed(frame: Pixels) -> Pixels:
        height, width = frame.shape[:2]
        whole = canvas_size((width, height), given)
        canvas = np.empty((whole[1], whole[0], 3), np.uint8)
        canvas[:] = fill
        canvas[given["top"] : given["top"] + height, given["left"] : given["left"] + width] = table[frame]
        return canvas

    return each(frames, placed)


def gamma(frames: Iterator[Pixels], fps: float, given: Mapping[str, Any]) -> Iterator[Pixels]:
    """Yield frames with each value raised to a power."""
    table = _powers(given["gamma"])
    return each(frames, lambda frame: table[frame])


def blend(frames: Iterator[Pixels], fps: float, given: Mapping[str, Any]) -> Iterator[Pixels]:
    """Yield frames that show the clip within the region and another clip outside, joined over many scales."""
    others = file_frames(given["image"], fps)
    for frame, region in regions(frames, fps, given):
        height, width = frame.shape[:2]
        other = scaled(next(others), width, height)
        levels = min(given["levels"], max(0, min(height, width).bit_length() - 2))
        yield _joined(frame, other, region.astype(np.float32), levels)


def _joined(inside: Pixels, outside: Pixels, weight: Any, levels: int) -> Pixels:
    """Blend two pictures: each scale of detail by the weights at that scale.

    Source: Burt and Adelson, "A multiresolution spline with application to image mosaics".
    """
    cv2 = opencv()
    weights = [weight]
    for _ in range(levels):
        weights.append(cv2.pyrDown(weights[-1]))
    made: Any = 0
    pictures = [inside.astype(np.float32), outside.astype(np.float32)]
    details = [_details(picture, levels) for picture in pictures]
    for level in range(levels, -1, -1):
        share = weights[level][..., None]
        mixed = details[0][level] * share + details[1][level] * (1 - share)
        made = mixed if level == levels else cv2.pyrUp(made, dstsize=mixed.shape[1::-1]) + mixed
    rounded: Pixels = np.clip(np.rint(made), 0, 255).astype(np.uint8)
    return rounded


def _details(picture: Any, levels: int) -> list[Any]:
    cv2 = opencv()
    found = []
    for _ in range(levels):
        smaller = cv2.pyrDown(picture)
        found.append(picture - cv2.pyrUp(smaller, dstsize=picture.shape[1::-1]))
        picture = smaller
    return [*found, picture]


def _powers(power: float) -> Pixels:
    table: Pixels = np.rint((np.arange(256) / 255) ** power * 255).astype(np.uint8)
    return table
