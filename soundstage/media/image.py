"""A clip on one page: a row of its frames over its waveform, on a common time line."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from soundstage.media.arrays import Frames, Pixels, Waveform

if TYPE_CHECKING:
    from PIL import Image

COLUMNS = 8
CELL_WIDTH = 192
GAP = 4
WIDTH = COLUMNS * (CELL_WIDTH + GAP) + GAP
LABEL_HEIGHT = 16
WAVE_HEIGHT = 64  # per channel
BACKGROUND = (24, 24, 27)
INK = (228, 228, 231)
WAVES = ((96, 165, 250), (251, 146, 60))  # left, right


def contact_sheet(frames: Frames | None, waveform: Waveform | None, fps: float) -> Image.Image:
    """Return the sheet. frames: (F, H, W, 3); waveform: (2, n) in [-1, 1]; either may be None.

    Shows up to eight frames from the first to the last, each under its time in seconds.
    """
    pictures = [] if frames is None else _overview(frames, fps)
    return sheet(pictures, waveform)


def sheet(pictures: Sequence[tuple[float, Pixels]], waveform: Waveform | None) -> Image.Image:
    """Return the sheet of these frames (H, W, 3), each under its time in seconds, over a waveform."""
    strips = [_frame_strip(pictures, WIDTH)] if pictures else []
    if waveform is not None:
        strips.append(_wave_strip(waveform, WIDTH))
    return page_of(strips)


def _overview(frames: Frames, fps: float) -> list[tuple[float, Pixels]]:
    return [(index / fps, frames[index]) for index in shown_frames(len(frames))]


def comparison_row(label: str, frames: Frames | None, waveform: Waveform | None, fps: float) -> Pixels:
    """Return the row of one clip on a sheet of several: its label over its frames, or over its waveform."""
    if frames is not None:
        return titled_row([label], _overview(frames, fps), None)
    return titled_row([label], [], waveform)


def titled_row(
    lines: Sequence[str], pictures: Sequence[tuple[float, Pixels]], waveform: Waveform | None
) -> Pixels:
    """Return lines of text over frames, each under its time in seconds, and over a waveform."""
    from PIL import Image, ImageDraw

    title = Image.new("RGB", (WIDTH, LABEL_HEIGHT * len(lines)), BACKGROUND)
    for number, line in enumerate(lines):
        plain = line.encode("latin-1", "replace").decode("latin-1")  # what Pillow's own font has
        ImageDraw.Draw(title).text((GAP, 2 + LABEL_HEIGHT * number), plain, fill=INK)
    rows = [np.asarray(title)]
    if pictures:
        rows.append(_frame_strip(pictures, WIDTH))
    if waveform is not None:
        rows.append(_wave_strip(waveform, WIDTH))
    return np.concatenate(rows)


def page_of(strips: Sequence[Pixels]) -> Image.Image:
    """Return a picture of strips of pixels, one below the other."""
    from PIL import Image

    height = sum(strip.shape[0] for strip in strips) + GAP * (len(strips) + 1)
    page = np.full((height, WIDTH, 3), BACKGROUND, np.uint8)
    top = GAP
    for strip in strips:
        page[top : top + strip.shape[0]] = strip
        top += strip.shape[0] + GAP
    return Image.fromarray(page)


def shown_frames(num_frames: int) -> list[int]:
    """Return the indices of the frames on the sheet, evenly from the first to the last."""
    count = min(COLUMNS, num_frames)
    return [round(i * (num_frames - 1) / max(1, count - 1)) for i in range(count)]


def _frame_strip(pictures: Sequence[tuple[float, Pixels]], width: int) -> Pixels:
    from PIL import Image, ImageDraw

    height, own_width = pictures[0][1].shape[:2]
    cell_height = max(1, round(CELL_WIDTH * height / own_width))
    strip = Image.new("RGB", (width, LABEL_HEIGHT + cell_height), BACKGROUND)
    draw = ImageDraw.Draw(strip)
    for column, (time_s, frame) in enumerate(pictures):
        left = GAP + column * (CELL_WIDTH + GAP)
        draw.text((left, 2), f"{time_s:.2f} s", fill=INK)
        cell = Image.fromarray(np.ascontiguousarray(frame)).resize(
            (CELL_WIDTH, cell_height), Image.Resampling.LANCZOS
        )
        strip.paste(cell, (left, LABEL_HEIGHT))
    return np.asarray(strip)


def _wave_strip(waveform: Waveform, width: int) -> Pixels:
    """Return each channel's lowest and highest sample under every column of pixels."""
    strip = np.full((WAVE_HEIGHT * len(waveform), width, 3), BACKGROUND, np.uint8)
    edges = np.linspace(0, waveform.shape[1], width + 1).astype(int)
    rows = np.arange(WAVE_HEIGHT)[:, None]
    for channel, samples in enumerate(np.clip(np.nan_to_num(waveform), -1, 1)):
        spans = [samples[a : max(b, a + 1)] for a, b in itertools.pairwise(edges)]
        low = np.array([span.min(initial=0) for span in spans])
        high = np.array([span.max(initial=0) for span in spans])
        middle = (WAVE_HEIGHT - 1) / 2
        inside = (rows >= middle - high * middle - 0.5) & (rows <= middle - low * middle + 0.5)
        top = channel * WAVE_HEIGHT
        strip[top : top + WAVE_HEIGHT][inside] = WAVES[channel % len(WAVES)]
    return strip
