"""Text drawn into pictures with Pillow: titles, captions and labels, with wrapped lines and a dark edge."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from soundstage.editing.fonts import FontStack
from soundstage.errors import MediaError
from soundstage.media.arrays import Pixels

if TYPE_CHECKING:
    from PIL import Image

LINE_HEIGHT = 1.25  # of the letters' size
EDGE = 0.06  # width of the dark edge, of the letters' size
BOX_PAD = 0.3  # around letters in a box, of the letters' size
MIN_LETTERS = 8  # pixels
WIDEST = 0.9  # share of a side that text may take
MARGIN = 0.04  # share of a side that is kept free around it


@dataclass(frozen=True)
class TextLayer:
    """Pixels to draw over a frame. left, top: where. color: (H, W, 3). cover: (H, W, 1), from 0 to 1."""

    left: int
    top: int
    color: NDArray[np.float32]
    cover: NDArray[np.float32]

    def over(self, frame: Pixels, share: float = 1.0) -> Pixels:
        """Return a frame with it. share: how far it has appeared."""
        height, width = self.cover.shape[:2]
        made = frame.copy()
        there = made[self.top : self.top + height, self.left : self.left + width]
        cover = self.cover * np.float32(share)
        there[:] = np.rint(there * (1 - cover) + self.color * cover).astype(np.uint8)
        return made


def wrapped(text: str, font: FontStack, width: float) -> list[str]:
    """Return the lines of a text that are at most so many pixels wide; a longer word is broken."""
    lines: list[str] = []
    for paragraph in text.splitlines() or [""]:
        line = ""
        for word in paragraph.split():
            if line and font.getlength(f"{line} {word}") > width:
                lines.append(line)
                line = word
            else:
                line = f"{line} {word}".strip()
            while len(line) > 1 and font.getlength(line) > width:
                count = next(
                    n for n in range(len(line) - 1, 0, -1) if n == 1 or font.getlength(line[:n]) <= width
                )
                lines.append(line[:count])
                line = line[count:]
        lines.append(line)
    return lines


def balanced(text: str, font: FontStack, width: float) -> list[str]:
    """Return as few lines as `wrapped` does, of like length."""
    lines = wrapped(text, font, width)
    narrower = width
    while narrower > width / 2:
        narrower -= width / 20
        tried = wrapped(text, font, narrower)
        if len(tried) > len(lines):
            break
        lines = tried
    return lines


@dataclass(frozen=True)
class Style:
    """Letters: height of a line as a share of the picture's, colours by CSS names, a font's file."""

    size: float
    color: str = "white"
    background: str | None = None
    font: Path | None = None


def layer(
    text: str, style: Style, picture: tuple[int, int], anchor: tuple[float, float], align: str
) -> TextLayer:
    """Return text as a layer; lines that are wider than 90 % of the picture are wrapped.

    picture: width and height of the frame. anchor: where its middle (align "center") or left edge is, and its
    middle from the top, as shares of the picture; it is moved until it is well within. Too many lines make
    the letters smaller.
    """
    width, height = picture
    size = max(MIN_LETTERS, round(style.size * height / LINE_HEIGHT))
    while True:
        font = FontStack(style.font, size)
        drawn = _drawn(balanced(text, font, WIDEST * width), style, font, size, align)
        if size <= MIN_LETTERS or (drawn.width <= width and drawn.height <= height):
            break
        size = max(MIN_LETTERS, round(size * 0.9))
    drawn = drawn.crop((0, 0, min(drawn.width, width), min(drawn.height, height)))
    left = round(anchor[0] * width - (drawn.width / 2 if align == "center" else 0))
    top = round(anchor[1] * height - drawn.height / 2)
    left, top = (
        _within(at, own, side) for at, own, side in ((left, drawn.width, width), (top, drawn.height, height))
    )
    pixels = np.asarray(drawn, np.float32)
    return TextLayer(left, top, pixels[..., :3], pixels[..., 3:] / np.float32(255))


def _within(at: int, own: int, side: int) -> int:
    """Return where something begins on a side that it shall be well within."""
    margin = min(round(MARGIN * side), (side - own) // 2)
    return min(max(at, margin), side - own - margin)


def _drawn(lines: list[str], style: Style, font: FontStack, size: int, align: str) -> Image.Image:
    """Return lines as RGBA, just large enough."""
    from PIL import Image, ImageDraw

    edge = 0 if style.background else max(1, round(EDGE * size))
    pad = round(BOX_PAD * size) if style.background else edge + 1
    step = round(LINE_HEIGHT * size)
    lengths = [font.getlength(line) for line in lines]
    page = Image.new(
        "RGBA",
        (round(max(lengths)) + 2 * pad, step * len(lines) + 2 * pad),
        _color(style.background) if style.background else (0, 0, 0, 0),
    )
    draw = ImageDraw.Draw(page)
    for number, (line, length) in enumerate(zip(lines, lengths, strict=True)):
        left = pad + (max(lengths) - length) / 2 if align == "center" else pad
        at = (left, pad + step * number + step / 2)
        ink = _color(style.color)
        if edge:
            font.draw(draw, at, line, fill=ink, stroke_width=edge, stroke_fill=(0, 0, 0, 255))
        font.draw(draw, at, line, fill=ink)
    return page


def _color(name: str) -> tuple[int, int, int, int]:
    """Return a colour's red, green, blue and cover. Raises MediaError for a name that is none."""
    from PIL import ImageColor

    try:
        return tuple(ImageColor.getcolor(name, "RGBA"))  # type: ignore[return-value, arg-type]
    except ValueError as error:
        raise MediaError(f"color is '{name}'; give a CSS name such as white, or #rrggbb") from error
