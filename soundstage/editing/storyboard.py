"""One picture per shot: a storyboard as PNG, and the thumbnails of the contact page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from soundstage.editing.fonts import FontStack
from soundstage.editing.grid import FilmGrid, PlacedShot
from soundstage.editing.lettering import wrapped
from soundstage.editing.picture import Change, fitted, shot_times_s
from soundstage.media.arrays import Pixels
from soundstage.media.image import BACKGROUND, INK
from soundstage.media.load import frames_shown

if TYPE_CHECKING:
    from PIL import Image

COLUMNS = 4
CELL_WIDTH = 360
GAP = 12
LETTERS = 15  # pixels of a label
LINE = 20
MAX_LINES = 4  # of a caption
FAINT = (161, 161, 170)


def shot_picture(grid: FilmGrid, placed: PlacedShot, change: Change | None) -> Pixels:
    """Return the middle frame of a shot, in the film's size."""
    size = (grid.width, grid.height)
    if placed.info is None or not placed.info.num_frames:
        return np.zeros((grid.height, grid.width, 3), np.uint8)
    time_s = shot_times_s(grid, placed)[placed.num_frames // 2]
    (frame,) = frames_shown(str(placed.cut.source), [time_s])
    return fitted(frame, size, grid.timeline.fit, change)


def caption_of(grid: FilmGrid, placed: PlacedShot) -> str:
    """Return what is said of a shot: its caption, else the lines spoken in it, else its source's name."""
    if placed.cut.caption:
        return placed.cut.caption
    begin, end = (float(frame / grid.fps) for frame in (placed.first, placed.end))
    spoken = [
        f"{line.speaker}: {line.text}" if line.speaker else line.text
        for line in grid.timeline.captions
        if begin <= line.start_s < end
    ]
    return " ".join(spoken) or placed.cut.source.stem


def label_of(grid: FilmGrid, placed: PlacedShot) -> str:
    """Return the number of a shot, when it begins and how long it is."""
    begin_s, length_s = float(placed.first / grid.fps), float(placed.num_frames / grid.fps)
    kind = placed.cut.transition.kind
    how = f", {kind}" if kind != "cut" else ""
    return f"{placed.number}   {int(begin_s // 60)}:{begin_s % 60:05.2f}   {length_s:.2f} s{how}"


def storyboard(grid: FilmGrid, changes: Mapping[int, Change]) -> Image.Image:
    """Return the storyboard of a film."""
    from PIL import Image

    columns = min(COLUMNS, len(grid.placed))
    cell_height = max(1, round(CELL_WIDTH * grid.height / grid.width))
    font = FontStack(None, LETTERS)
    captions = [_caption_lines(caption_of(grid, placed), font) for placed in grid.placed]
    rows = [captions[i : i + columns] for i in range(0, len(captions), columns)]
    heights = [LINE + cell_height + LINE * max(map(len, row)) + GAP for row in rows]
    page = Image.new("RGB", (columns * (CELL_WIDTH + GAP) + GAP, sum(heights) + GAP), BACKGROUND)
    for index, placed in enumerate(grid.placed):
        row, column = divmod(index, columns)
        at = (GAP + column * (CELL_WIDTH + GAP), GAP + sum(heights[:row]))
        picture = Image.fromarray(
            np.ascontiguousarray(shot_picture(grid, placed, changes.get(placed.number)))
        )
        picture = picture.resize((CELL_WIDTH, cell_height), Image.Resampling.LANCZOS)
        _cell(page, at, picture, label_of(grid, placed), captions[index], font)
    return page


def _caption_lines(text: str, font: FontStack) -> list[str]:
    lines = wrapped(" ".join(text.split()), font, CELL_WIDTH)
    if len(lines) > MAX_LINES:
        last = lines[MAX_LINES - 1]
        while font.getlength(f"{last} ...") > CELL_WIDTH:
            last = last.rpartition(" ")[0]
        lines = [*lines[: MAX_LINES - 1], f"{last} ..."]
    return lines


def _cell(
    page: Image.Image,
    at: tuple[int, int],
    picture: Image.Image,
    label: str,
    lines: list[str],
    font: FontStack,
) -> None:
    from PIL import ImageDraw

    draw = ImageDraw.Draw(page)
    left, top = at
    font.draw(draw, (left, top + LINE / 2), label, fill=FAINT)
    page.paste(picture, (left, top + LINE))
    for number, line in enumerate(lines):
        middle = top + LINE + picture.height + LINE * number + LINE / 2 + 2
        font.draw(draw, (left, middle), line, fill=INK)
