"""Show the frames of a video as a player does: upright, with square pixels, in standard colours, as RGB."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from soundstage.errors import MediaError
from soundstage.media.arrays import Light, Pixels
from soundstage.media.colour import (
    check_colours,
    colour_notice,
    is_high,
    is_standard,
    light_from,
    mapped,
    scaler_matrix,
)

MAX_ASPECT = 8  # of one pixel; more is a damaged header
MAX_DISPLAY_SIDE = 16_384
UPRIGHT = (1, 0, 0, 1)
Kind = TypeVar("Kind", np.uint8, np.float32)


@dataclass(frozen=True)
class Display:
    """Turn the frames of one track into pictures.

    width, height: size of a frame before it is turned, with square pixels. turn: the linear part (a, b, c, d)
    of the display matrix, each -1, 0 or 1: a pixel at (x, y) is shown at (ax + cy, bx + dy). name: the file's
    name. notices: what the user should know of it. high: it has high dynamic range.
    """

    width: int
    height: int
    turn: tuple[int, int, int, int]
    name: str
    notices: tuple[str, ...]
    high: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """Width and height as shown."""
        return (self.width, self.height) if self.turn[0] else (self.height, self.width)

    def picture(self, frame: Any, at_least: tuple[int, int] | None = None) -> Pixels:
        """Return a frame as (H, W, 3) RGB.

        at_least: width and height that are enough for who asks. Frames whose colours are mapped are averaged
        down by a whole factor to no less than that, which makes 4K of high range four times as fast and
        more. Raises MediaError for colours that are not known.
        """
        check_colours(frame, self.name)
        shared = self._shared(frame)
        if not is_standard(frame):
            factor = self._spare_factor(at_least)
            shared |= {"width": self.width // factor, "height": self.height // factor}
            shared["interpolation"] = "AREA" if factor > 1 else None
            deep = frame.reformat(format="rgb48le", **shared).to_ndarray()
            flat = mapped(deep, frame.color_trc, frame.color_primaries)
        elif has_alpha(frame):
            flat = on_black(frame.reformat(format="rgba", **shared).to_ndarray())
        else:
            flat = frame.reformat(format="rgb24", **shared).to_ndarray()
        return turned(flat, self.turn)

    def light(self, frame: Any) -> Light:
        """Return a frame of high dynamic range as (H, W, 3) light. Raises MediaError as `picture`."""
        check_colours(frame, self.name)
        deep = frame.reformat(format="rgb48le", **self._shared(frame)).to_ndarray()
        return turned(light_from(deep, frame.color_trc, frame.color_primaries), self.turn)

    def _shared(self, frame: Any) -> dict[str, Any]:
        return {"width": self.width, "height": self.height, "src_colorspace": scaler_matrix(frame)}

    def _spare_factor(self, at_least: tuple[int, int] | None) -> int:
        """Return by how much both sides may be divided."""
        if at_least is None:
            return 1
        return max(1, min(own // enough for own, enough in zip(self.size, at_least, strict=True)))


def display_of(frame: Any, aspect: Fraction | None, name: str) -> Display:
    """Return how a track's frames are shown, from the first of them. aspect: width of a pixel by its height.

    Raises MediaError for colours that are not known and for sides over 16,384 pixels.
    """
    check_colours(frame, name)
    turn, odd_angle = _turn(frame)
    notices = [colour_notice(frame)]
    width, height = frame.width, frame.height
    if aspect and aspect != 1 and 1 / MAX_ASPECT <= aspect <= MAX_ASPECT:
        width = max(1, round(width * aspect))
        notices.append(f"pixels of {aspect.numerator}:{aspect.denominator} are made square")
    if max(width, height) > MAX_DISPLAY_SIDE or min(width, height) < 1:
        raise MediaError(f"{name} is {width}x{height}; a side may have at most {MAX_DISPLAY_SIDE} pixels")
    if odd_angle:
        notices.append(
            f"the display matrix turns it by {odd_angle:.0f} degrees; it is shown by quarter turns"
        )
    if frame.interlaced_frame:
        notices.append("interlaced fields are made whole frames")
    if has_alpha(frame):
        notices.append("transparent parts are shown on black")
    return Display(width, height, turn, name, tuple(n for n in notices if n), is_high(frame))


def has_alpha(frame: Any) -> bool:
    return any(component.is_alpha for component in frame.format.components)


def on_black(rgba: Pixels) -> Pixels:
    """Return (H, W, 3) of (H, W, 4): what is transparent is black."""
    weighted = rgba[..., :3].astype(np.uint16) * rgba[..., 3:]
    return ((weighted + 127) // 255).astype(np.uint8)


def turned(picture: NDArray[Kind], turn: tuple[int, int, int, int]) -> NDArray[Kind]:
    """Return a picture (H, W, 3) turned and mirrored as `Display.turn` says."""
    if turn == UPRIGHT:
        return picture
    a, b, c, d = turn
    straight = picture if a else picture.transpose(1, 0, 2)
    rows, columns = (d, a) if a else (b, c)
    return np.ascontiguousarray(straight[::rows, ::columns])


def _turn(frame: Any) -> tuple[tuple[int, int, int, int], float]:
    """Return the nearest of the eight turns to a frame's display matrix, and its angle if it is another."""
    numbers = _display_matrix(frame)
    if numbers is None:
        return UPRIGHT, 0.0
    a, b, c, d = numbers[0], numbers[1], numbers[3], numbers[4]
    if not a * d - b * c:
        return UPRIGHT, 0.0
    angle = math.degrees(math.atan2(b, a))
    odd = angle if abs(angle - 90 * round(angle / 90)) > 1 else 0.0
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return (_sign(a), 0, 0, _sign(d)), odd
    return (0, _sign(b), _sign(c), 0), odd


def _display_matrix(frame: Any) -> tuple[int, ...] | None:
    try:
        data = frame.side_data.get("DISPLAYMATRIX")
    except (KeyError, ValueError):  # PyAV knows not every kind of side data by name
        return None
    return None if data is None or len(bytes(data)) < 36 else struct.unpack("=9i", bytes(data)[:36])


def _sign(value: int) -> int:
    return -1 if value < 0 else 1
