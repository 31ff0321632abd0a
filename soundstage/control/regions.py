"""Regions of a clip: a painted mask, a box that may follow what is in it, or all that has a colour."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soundstage.control.frames import file_frames, grey, opencv, scaled
from soundstage.control.settings import Setting, check_unused, colour, numbers, refused
from soundstage.errors import MediaError
from soundstage.media.arrays import Pixels

Region = NDArray[np.bool_]  # (H, W)
REGION = {
    "box": Setting(
        "", "region as x, y, width and height in pixels of the clip, such as 40 30 64 48", numbers=(4,)
    ),
    "follow": Setting("no", "move the box along with what is in it", choices=("no", "yes")),
    "key": Setting("", "region as all that has this colour", colour=True),
    "tolerance": Setting(60, "largest distance from the key's colour, of 0 to 441", 0, 441),
    "grow": Setting(0, "pixels by which the region is made larger", 0, 512),
}
NUM_POINTS = 60  # that a box is followed by


def regions(
    frames: Iterator[Pixels], fps: float, given: Mapping[str, Any]
) -> Iterator[tuple[Pixels, Region]]:
    """Yield each frame with its region, grown as asked.

    Raises MediaError at the end of a clip in no frame of which anything is marked.
    """
    marked = False
    masks = None if given["mask"] is None else file_frames(given["mask"], fps)
    box = _Box(given["box"], follows=given["follow"] == "yes") if given["box"] else None
    for frame in frames:
        if masks is not None:
            found = _painted(next(masks), frame)
        elif box is not None:
            found = box.region(frame)
        else:
            found = _keyed(frame, given["key"], given["tolerance"])
        marked = marked or bool(found.any())
        yield frame, grown(found, given["grow"])
    if not marked:
        name = next(name for name in ("mask", "box", "key") if given[name])
        raise MediaError(
            f"the {name} {given[name]} marks nothing in any frame of the clip; give another region"
        )


def check_region(given: Mapping[str, Any]) -> None:
    """Raise RequestError where no region is given, or more than one."""
    ways = [name for name in ("mask", "box", "key") if given[name]]
    if len(ways) != 1:
        told = (
            f"both {ways[0]} and {ways[1]} are given; keep one" if ways else "give one of mask, box and key"
        )
        raise refused(f"the control needs one region; {told}")
    check_box(given)
    if not given["box"]:
        check_unused(REGION, given, "follow", f"moves a box, and {ways[0]} is given")
    if not given["key"]:
        check_unused(REGION, given, "tolerance", f"is of a key's colour, and {ways[0]} is given")


def check_box(given: Mapping[str, Any]) -> None:
    """Raise RequestError for a box that holds nothing."""
    if given["box"] and min(numbers(given["box"], "box")[2:]) <= 0:
        raise refused(f"box is '{given['box']}'; its width and height should be above 0")


def check_place(size: tuple[int, int], given: Mapping[str, Any]) -> None:
    """Raise RequestError for a box of which nothing lies in a clip of a width and height."""
    if not given["box"]:
        return
    x, y, width, height = numbers(given["box"], "box")
    if x >= size[0] or y >= size[1] or x + width <= 0 or y + height <= 0:
        raise refused(
            f"box is '{given['box']}', and the clip has {size[0]}x{size[1]} pixels; give x, y, width and "
            "height within them"
        )


def grown(region: Region, pixels: int) -> Region:
    """Return a region made larger by so many pixels on all sides, with round corners."""
    if not pixels:
        return region
    cv2 = opencv()
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * pixels + 1, 2 * pixels + 1))
    made: Region = cv2.dilate(region.astype(np.uint8), disc) > 0
    return made


def in_blocks(region: Region, side: int) -> Region:
    """Return the cells of a grid, counted from the top left corner, that a region touches."""
    if side <= 1:
        return region
    height, width = region.shape
    padded = np.pad(region, ((0, -height % side), (0, -width % side)))
    rows, columns = padded.shape[0] // side, padded.shape[1] // side
    touched = padded.reshape(rows, side, columns, side).any(axis=(1, 3))
    return touched.repeat(side, axis=0).repeat(side, axis=1)[:height, :width]


def _painted(mask: Pixels, frame: Pixels) -> Region:
    height, width = frame.shape[:2]
    return scaled(grey(mask), width, height) > 127


def _keyed(frame: Pixels, name: str, tolerance: float) -> Region:
    away = frame.astype(np.int32) - np.array(colour(name, "key"))
    near: Region = (away**2).sum(axis=2) <= tolerance**2
    return near


class _Box:
    """A box in pixels. It may be moved by the points in it, as far and as large as most of them go."""

    def __init__(self, text: str, *, follows: bool) -> None:
        x, y, width, height = numbers(text, "box")
        self.corners = np.array([[x, y], [x + width, y + height]], np.float64)
        self.follows = follows
        self._before: Any = None

    def region(self, frame: Pixels) -> Region:
        """Return the box as pixels of the next frame."""
        if self.follows:
            luma = grey(frame)
            if self._before is not None:
                self._move(luma)
            self._before = luma
        height, width = frame.shape[:2]
        region = np.zeros((height, width), bool)
        (left, top), (right, bottom) = np.rint(self.corners).astype(int)
        region[max(0, top) : max(0, bottom), max(0, left) : max(0, right)] = True
        return region

    def _move(self, luma: Any) -> None:
        cv2 = opencv()
        inside = np.zeros_like(luma)
        (left, top), (right, bottom) = np.rint(self.corners).astype(int)
        inside[max(0, top) : max(0, bottom), max(0, left) : max(0, right)] = 255
        points = cv2.goodFeaturesToTrack(self._before, NUM_POINTS, 0.01, 3, mask=inside)
        if points is None:
            return
        ends, found, _ = cv2.calcOpticalFlowPyrLK(self._before, luma, points, None)
        kept = found.ravel() == 1
        if kept.any():
            self.corners += np.median((ends - points).reshape(-1, 2)[kept], axis=0)
