"""Show what a clip looks like while it is made: a small moving picture in the terminal, else a file.

In a terminal with colours two pixels are one character, the upper half block, in two colours. Elsewhere a
small WebP beside the output is refreshed, and removed when the clip is done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.color import Color
from rich.console import RenderableType
from rich.segment import Segment, Segments
from rich.style import Style

from soundstage.clip import Clip
from soundstage.errors import MediaError
from soundstage.files import reserved_name
from soundstage.media.arrays import Frames
from soundstage.rendering.events import Event, Preview

if TYPE_CHECKING:
    from soundstage.planning.plan import Plan
    from soundstage.rendering.screen import Screen

COLORFUL = ("256", "truecolor")  # rich's names of what a terminal shows
MAX_COLUMNS, MAX_ROWS, MIN_ROWS = 72, 20, 4
ROWS_BELOW = 6  # of the terminal, for the bars and a line above them
HALF = "\N{UPPER HALF BLOCK}"


@contextmanager
def previewing(plan: Plan, output: Path | None, screen: Screen) -> Iterator[Callable[[Event], None]]:
    """Give what shows the previews among a run's events, while this block lasts.

    output: the clip's file; None shows nothing.
    """
    if output is None:
        yield lambda event: None
        return
    rows = screen.console.height - ROWS_BELOW
    if screen.is_live and screen.console.color_system in COLORFUL and rows >= MIN_ROWS:
        size = (min(MAX_COLUMNS, screen.console.width - 1), min(MAX_ROWS, rows))
        try:
            yield lambda event: _on_screen(event, plan, screen, size)
        finally:
            screen.picture = lambda: None
    else:
        with _PreviewFile(plan, output, screen.say) as file:
            yield file.show


# --- in the terminal -----------------------------------------------------------------------------------


def _on_screen(event: Event, plan: Plan, screen: Screen, size: tuple[int, int]) -> None:
    if isinstance(event, Preview):
        screen.picture = MovingPicture(event.frames, _fps(event.frames, plan), size)


class MovingPicture:
    """Frames as half blocks, played by the clock. size: the most columns and rows."""

    def __init__(self, frames: Frames, fps: float, size: tuple[int, int]) -> None:
        self._frames, self._fps = frames, fps
        height, width = frames.shape[1:3]
        scale = min(size[0] / width, 2 * size[1] / height)
        self._size = max(1, round(width * scale)), 2 * max(1, round(height * scale / 2))
        self._drawn: dict[int, Segments] = {}
        self._began = time.monotonic()

    def __call__(self) -> RenderableType:
        """Return the frame that is shown now."""
        index = int((time.monotonic() - self._began) * self._fps) % len(self._frames)
        if index not in self._drawn:
            self._drawn[index] = half_blocks(self._frames[index], self._size)
        return self._drawn[index]


def half_blocks(frame: NDArray[np.uint8], size: tuple[int, int]) -> Segments:
    """Return a frame (H, W, 3) as characters. size: columns, and pixels down, two for each row."""
    pixels = np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BOX)).astype(int) & ~7
    segments = []
    for upper, lower in zip(pixels[::2].tolist(), pixels[1::2].tolist(), strict=True):
        segments += [Segment(HALF, _style(*a, *b)) for a, b in zip(upper, lower, strict=True)]
        segments.append(Segment.line())
    return Segments(segments)


@lru_cache(maxsize=4096)
def _style(*rgb: int) -> Style:
    return Style(color=Color.from_rgb(*rgb[:3]), bgcolor=Color.from_rgb(*rgb[3:]))


# --- in a file -----------------------------------------------------------------------------------------


class _PreviewFile:
    """A small WebP beside the output, which each preview replaces. say: prints a line for people."""

    def __init__(self, plan: Plan, output: Path, say: Callable[[str], None]) -> None:
        self._plan, self._say = plan, say
        stem = output.stem.replace("%", "")
        self._name = reserved_name(output.parent, f"{stem}.preview", ".webp")
        self._told = False

    def __enter__(self) -> _PreviewFile:
        self._reserved = self._name.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._reserved.path.unlink(missing_ok=True)
        self._name.__exit__(None, None, None)

    def show(self, event: Event) -> None:
        """Write a preview over the one before. One that cannot be written is left out."""
        if not isinstance(event, Preview):
            return
        clip = Clip(event.frames, None, _fps(event.frames, self._plan))
        try:
            clip.save(self._reserved.path)
        except MediaError as error:
            told = f"notice: no preview: {error}"
        else:
            told = f"preview {self._reserved.path}"
        if not self._told:
            self._say(told)
        self._told = True


def _fps(frames: Frames, plan: Plan) -> float:
    """Return the rate at which a preview is as long as the clip."""
    clip = plan.made_clips[0]
    return max(1.0, min(60.0, len(frames) * clip.fps / clip.num_frames))
