"""The picture of a film, frame by frame: shots fitted, dissolved, faded, with what is drawn over them.

No more than two shots are open at once, so memory does not grow with the film. Pixels are mixed as they are
coded, as in the xfade and fade filters of FFmpeg, but on exact frames and with rounding instead of cutting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from soundstage.editing.grid import FilmGrid, PlacedShot
from soundstage.media.arrays import Pixels
from soundstage.media.load import frames_shown
from soundstage.types import Crop

Change = Callable[[Pixels], Pixels]
Overlay = Callable[[int, Pixels], Pixels]  # (number of a frame of the film, frame) -> frame


def film_frames(
    grid: FilmGrid, changes: dict[int, Change], overlay: Overlay | None = None
) -> Iterator[Pixels]:
    """Yield the film's frames (H, W, 3).

    changes: what is done with the pixels of a cut, by its number, before bars are put around them. overlay:
    draws over the finished frames.
    """
    before: Iterator[Pixels] = iter(())
    for index, placed in enumerate(grid.placed):
        shot = shot_frames(grid, placed, changes.get(placed.number))
        following = grid.placed[index + 1] if index + 1 < len(grid.placed) else None
        own = placed.num_frames - (following.overlap if following else 0)
        for i in range(own):
            frame = next(shot)
            if i < placed.overlap:
                frame = _mixed(next(before), frame, (i + 1) / (placed.overlap + 1))
            level = _level(placed, i)
            if level < 1:
                frame = _mixed(np.zeros_like(frame), frame, level)
            yield frame if overlay is None else overlay(placed.first + i, frame)
        before = shot


def shot_frames(grid: FilmGrid, placed: PlacedShot, change: Change | None = None) -> Iterator[Pixels]:
    """Yield the frames of a shot in the film's size. One that is held is fitted once."""
    size = (grid.width, grid.height)
    if placed.info is None or not placed.info.num_frames:
        yield from (np.zeros((size[1], size[0], 3), np.uint8) for _ in range(placed.num_frames))
        return
    times_s = shot_times_s(grid, placed)
    frame = made = None
    for shown in frames_shown(str(placed.cut.source), times_s, at_least=_enough(grid, placed)):
        if made is None or shown is not frame:
            frame, made = shown, fitted(shown, size, grid.timeline.fit, change)
        yield made


def shot_times_s(grid: FilmGrid, placed: PlacedShot) -> list[float]:
    """Return the seconds of its source at which each frame of a shot is taken."""
    assert placed.info is not None
    if placed.info.num_frames == 1:
        return [0.0] * placed.num_frames
    last_s = (placed.info.num_frames - 1) / (placed.info.fps or 1.0)
    step_s = float(1 / grid.fps)
    return [min(placed.cut.start_s + i * step_s, last_s) for i in range(placed.num_frames)]


def _enough(grid: FilmGrid, placed: PlacedShot) -> tuple[int, int]:
    """Return the width and height in which the frames of a shot are enough for the film."""
    assert placed.info is not None
    return _inner((placed.info.width, placed.info.height), (grid.width, grid.height), grid.timeline.fit)


def fitted(frame: Pixels, size: tuple[int, int], fit: Crop, change: Change | None = None) -> Pixels:
    """Return a frame in another size (width, height). change: done before bars are put around it."""
    from PIL import Image

    height, width = frame.shape[:2]
    inner = _inner((width, height), size, fit)
    if inner != (width, height):
        picture = Image.fromarray(np.ascontiguousarray(frame))
        frame = np.asarray(picture.resize(inner, Image.Resampling.LANCZOS))
    if change is not None:
        frame = change(frame)
    if inner == size:
        return frame
    left, top = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    if fit == "center":
        return frame[-top : size[1] - top, -left : size[0] - left]
    page = np.zeros((size[1], size[0], 3), np.uint8)
    page[top : top + inner[1], left : left + inner[0]] = frame
    return page


def _inner(own: tuple[int, int], size: tuple[int, int], fit: Crop) -> tuple[int, int]:
    """Return the size that a whole frame is scaled to, before it is cut or bars are added."""
    if fit == "stretch" or own == size:
        return size
    shares = (size[0] / own[0], size[1] / own[1])
    share = max(shares) if fit == "center" else min(shares)
    inner = (max(1, round(own[0] * share)), max(1, round(own[1] * share)))
    return tuple(max(i, s) for i, s in zip(inner, size, strict=True)) if fit == "center" else inner  # type: ignore[return-value]


def _mixed(one: Pixels, other: Pixels, share: float) -> Pixels:
    """Return two frames over each other. share: that of the other, from 0 to 1."""
    weight = round(share * 65536)
    mixed = one.astype(np.uint32) * np.uint32(65536 - weight) + other.astype(np.uint32) * np.uint32(weight)
    made: Pixels = ((mixed + 32768) >> 16).astype(np.uint8)
    return made


def _level(placed: PlacedShot, i: int) -> float:
    """Return how bright frame i of a shot is in a fade: 0 is black. First and last frames of fades are."""
    level = 1.0
    if i < placed.rise:
        level = i / placed.rise
    left = placed.num_frames - 1 - i
    if left < placed.fall:
        level = min(level, left / placed.fall)
    return level
