"""Edges of a clip, white on black, as union control adapters were trained with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from soundstage.control.frames import each, grey, opencv, rgb, scaled, within
from soundstage.control.settings import Setting, refused
from soundstage.media.arrays import Pixels

CANNY = {
    "low": Setting(92, "weakest gradient of an edge that goes on from a stronger one", 0, 1000),
    "high": Setting(200, "weakest gradient where an edge begins", 0, 1000),
    "resolution": Setting(
        512, "largest shorter side at which edges are looked for; 0 is the clip's", 0, 4096
    ),
}


def check_thresholds(given: Mapping[str, Any]) -> None:
    """Raise RequestError for thresholds in the wrong order."""
    if given["low"] > given["high"]:
        raise refused(f"low is {given['low']}, above high, {given['high']}; give low at most as large")


def detection_size(size: tuple[int, int], given: Mapping[str, Any]) -> tuple[int, int]:
    """Return the size at which a clip is looked at: never larger than it is."""
    return within(size, int(given["resolution"]))


def canny(frames: Iterator[Pixels], fps: float, given: Mapping[str, Any]) -> Iterator[Pixels]:
    """Yield the edges of each frame by Canny's method."""

    def edges(frame: Pixels) -> Pixels:
        height, width = frame.shape[:2]
        smaller = scaled(frame, *detection_size((width, height), given))
        return rgb(opencv().Canny(grey(smaller), given["low"], given["high"]))

    return each(frames, edges)
