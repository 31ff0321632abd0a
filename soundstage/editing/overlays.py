"""Draw over the finished frames of a film: titles that come and go, and burnt-in captions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from soundstage.editing.fonts import FontStack
from soundstage.editing.grid import FilmGrid
from soundstage.editing.lettering import MIN_LETTERS, Style, TextLayer, layer
from soundstage.editing.picture import Overlay
from soundstage.editing.subtitles import Cue, cues
from soundstage.editing.timeline import Title, TitlePlace
from soundstage.errors import MediaError
from soundstage.media.arrays import Pixels

# Where the middle of a title is, or the left edge where it stands at the left: shares of width and height.
PLACES: dict[TitlePlace, tuple[float, float, str]] = {
    "center": (0.5, 0.5, "center"),
    "top": (0.5, 0.15, "center"),
    "bottom": (0.5, 0.85, "center"),
    "lower-third": (0.07, 0.75, "left"),
}
CAPTION_SIZE = 0.065  # height of a line, of the picture's; less where it is upright
CAPTION_BOTTOM = 0.94  # where the last line ends


@dataclass(frozen=True)
class _Drawn:
    """A layer in frames [first, end) of the film. fade: frames that it takes to appear, and to go."""

    layer: TextLayer
    first: int
    end: int
    fade: int

    def share(self, index: int) -> float:
        if not self.fade:
            return 1.0
        return min(1.0, (index - self.first + 1) / (self.fade + 1), (self.end - index) / (self.fade + 1))


def overlay_of(grid: FilmGrid) -> Overlay | None:
    """Return what draws titles and burnt captions; None where there are none.

    Raises MediaError for fonts, colours and times that do not fit.
    """
    drawn = [_title(grid, title, index) for index, title in enumerate(grid.timeline.titles)]
    if grid.timeline.burn_captions:
        drawn += [_caption(grid, cue) for cue in cues(grid.timeline.captions, grid.duration_s)]
    return _over(drawn) if drawn else None


def _over(drawn: Sequence[_Drawn]) -> Overlay:
    def draw(index: int, frame: Pixels) -> Pixels:
        for one in drawn:
            if one.first <= index < one.end:
                frame = one.layer.over(frame, one.share(index))
        return frame

    return draw


def title_checks(grid: FilmGrid) -> list[Callable[[], object]]:
    """Return functions that raise MediaError, each for a title that does not fit."""
    return [partial(_title, grid, title, index) for index, title in enumerate(grid.timeline.titles)]


def letter_notices(grid: FilmGrid) -> list[str]:
    """Return what is told of letters that the fonts of titles and burnt captions lack."""
    line = grid.timeline
    texts = [(f"titles[{i}].text", title.text, title.font) for i, title in enumerate(line.titles)]
    if line.burn_captions:
        texts.append(("the captions", "".join(caption.text for caption in line.captions), None))
    return [
        f"{name}: {lacked.told()}"
        for name, text, font in texts
        for lacked in FontStack(font, MIN_LETTERS).lacked(text)
    ]


def _title(grid: FilmGrid, title: Title, index: int) -> _Drawn:
    if title.start_s >= grid.duration_s:
        raise MediaError(
            f"titles[{index}].start_s is {title.start_s:g}, and the film lasts {grid.duration_s:.4g} s; give "
            "an earlier time"
        )
    x, y, align = PLACES[title.place]
    style = Style(title.size, title.color, title.background, title.font)
    try:
        made = layer(title.text, style, (grid.width, grid.height), (x, y), align)
    except MediaError as error:
        raise MediaError(f"titles[{index}].{error}") from error
    first = grid.frames_in(title.start_s)
    count = max(1, grid.frames_in(title.seconds))
    return _Drawn(made, first, first + count, min(grid.frames_in(title.fade_s), (count - 1) // 2))


def _caption(grid: FilmGrid, cue: Cue) -> _Drawn:
    style = Style(CAPTION_SIZE * min(1.0, 0.75 * grid.width / grid.height))
    middle = CAPTION_BOTTOM - len(cue.lines) * style.size / 2
    made = layer(cue.text, style, (grid.width, grid.height), (0.5, middle), "center")
    first = grid.frames_in(cue.start_s)
    return _Drawn(made, first, max(first + 1, grid.frames_in(cue.end_s)), 0)
