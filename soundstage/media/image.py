"""A clip on one page: a row of its frames over its waveform, on a common time line."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

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


def contact_sheet(
    frames: NDArray[np.uint8] | None, waveform: NDArray[np.float32] | None, fps: float
) -> Image.Image:
    """Return the sheet. frames: (F, H, W, 3); waveform: (2, n) in [-1, 1]; either may be None.

    Shows up to eight frames from the first to the last, each under its time in seconds.
    """
    strips = []
    if frames is not None:
        strips.append(_frame_strip(frames, fps, WIDTH))
    if waveform is not None:
        strips.append(_wave_strip(waveform, WIDTH))
    return page_of(strips)


def comparison_row(
    label: str, frames: NDArray[np.uint8] | None, waveform: NDArray[np.float32] | None, fps: float
) -> NDArray[np.uint8]:
    """Return the row of one clip on a sheet of several: its label over its frames, or over its waveform."""
    from PIL import Image, ImageDraw

    title = Image.new("RGB", (WIDTH, LABEL_HEIGHT), BACKGROUND)
    plain = label.encode("latin-1", "replace").decode("latin-1")  # what Pillow's own font has
    ImageDraw.Draw(title).text((GAP, 2), plain, fill=INK)
    rows = [np.asarray(title)]
    if frames is not None:
        rows.append(_frame_strip(frames, fps, WIDTH))
    elif waveform is not None:
        rows.append(_wave_strip(waveform, WIDTH))
    return np.concatenate(rows)


def page_of(strips: Sequence[NDArray[np.uint8]]) -> Image.Image:
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


def _frame_strip(frames: NDArray[np.uint8], fps: float, width: int) -> NDArray[np.uint8]:
    from PIL import Image, ImageDraw

    cell_height = round(CELL_WIDTH * frames.shape[1] / frames.shape[2])
    strip = Image.new("RGB", (width, LABEL_HEIGHT + cell_height), BACKGROUND)
    draw = ImageDraw.Draw(strip)
    for column, index in enumerate(shown_frames(len(frames))):
        left = GAP + column * (CELL_WIDTH + GAP)
        draw.text((left, 2), f"{index / fps:.2f} s", fill=INK)
        cell = Image.fromarray(frames[index]).resize((CELL_WIDTH, cell_height), Image.Resampling.LANCZOS)
        strip.paste(cell, (left, LABEL_HEIGHT))
    return np.asarray(strip)


def _wave_strip(waveform: NDArray[np.float32], width: int) -> NDArray[np.uint8]:
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
