"""Frames while they are prepared: OpenCV where it is needed, sizes, and files beside the clip."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soundstage.errors import MissingExtraError
from soundstage.media.arrays import Pixels
from soundstage.media.in_memory import File
from soundstage.media.load import frames_shown
from soundstage.media.probe import probe

Grey = NDArray[np.uint8]  # (H, W)


def opencv() -> Any:
    """Return OpenCV's module. Raises MissingExtraError where it is not installed."""
    try:
        import cv2
    except ImportError as error:
        raise MissingExtraError("control", "preparing a control") from error
    return cv2


def grey(frame: Pixels) -> Grey:
    """Return a frame (H, W, 3) as its luma (H, W)."""
    luma: Grey = opencv().cvtColor(np.ascontiguousarray(frame), opencv().COLOR_RGB2GRAY)
    return luma


def rgb(picture: Grey) -> Pixels:
    """Return a grey picture (H, W) as RGB."""
    return np.repeat(picture[..., None], 3, axis=2)


def scaled(picture: NDArray[Any], width: int, height: int) -> NDArray[Any]:
    """Return a picture at another size: averaged where it becomes smaller, else interpolated."""
    if picture.shape[:2] == (height, width):
        return picture
    cv2 = opencv()
    smaller = width * height < picture.shape[0] * picture.shape[1]
    way = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    made: NDArray[Any] = cv2.resize(np.ascontiguousarray(picture), (width, height), interpolation=way)
    return made


def within(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """Return a size whose shorter side is at most `short_side`, in even numbers; a smaller one as it is."""
    width, height = size
    if not short_side or min(size) <= short_side:
        return size
    share = short_side / min(size)
    return even(width * share), even(height * share)


def each(frames: Iterator[Pixels], change: Callable[[Pixels], Pixels]) -> Iterator[Pixels]:
    """Yield each frame changed; one that is held is changed once."""
    before = after = None
    for frame in frames:
        if after is None or frame is not before:
            before, after = frame, change(frame)
        yield after


def even(side: float) -> int:
    """Return the nearest even number of pixels, at least 2."""
    return max(2, round(side / 2) * 2)


def file_frames(file: File, fps: float) -> Iterator[Pixels]:
    """Yield the frames of a file at a rate, from its start; the last one, or a still, goes on for ever."""
    info = probe(file)
    count = 1 if info.num_frames <= 1 else int((info.num_frames - 1) / (info.fps or fps) * fps + 1e-6) + 1
    frame: Pixels | None = None
    for frame in frames_shown(file, [i / fps for i in range(count)], fps):
        yield frame
    while frame is not None:
        yield frame
