"""The picture's edits of a film as a CMX 3600 EDL: cuts, dissolves, black, and fades to and from it.

001  S001     V     C        00:00:00:06 00:00:01:12 00:00:00:00 00:00:01:06
* FROM CLIP NAME:  ball

A dissolve is an event of two lines, which begins where it is seen first. Timecode is non-drop, at the
whole number of frames in a second that is nearest to the rate.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from soundstage.editing.grid import FilmGrid, PlacedShot
from soundstage.errors import MediaError

RATES = (23.976, 24, 25, 29.97, 30, 47.952, 48, 50, 59.94, 60)
REEL = "S{:03}"  # name of a source; the file's own name stands in a comment
BLACK = "BL"
HEAD = "TITLE: {}\nFCM: NON-DROP FRAME\n"


@dataclass(frozen=True)
class _Side:
    """A source, or black. first: the frame of the source that an event begins with."""

    reel: str
    first: int
    name: str = ""
    url: str = ""


@dataclass(frozen=True)
class _Event:
    """Frames [first, end) of the film that show one side. dissolve: those in which it replaces the other."""

    side: _Side
    first: int
    end: int
    dissolve: int = 0


def edl_text(grid: FilmGrid, name: str) -> str:
    """Return the EDL. Raises MediaError for a frame rate that has no timecode."""
    fps = float(grid.fps)
    if not any(abs(fps - rate) < 0.002 for rate in RATES):
        raise MediaError(
            f"fps is {fps:g}, and an EDL counts in timecode of {', '.join(f'{r:g}' for r in RATES)}; "
            "export .otio or .fcpxml"
        )
    before = _Event(_Side(BLACK, 0), 0, 0)
    lines = [HEAD.format(name)]
    for number, event in enumerate(_events(grid), 1):
        lines += _lines(number, before, event, round(fps))
        before = event
    return "\n".join(lines) + "\n"


def _events(grid: FilmGrid) -> Iterator[_Event]:
    """Yield what is seen, one after the other."""
    reels: dict[str, str] = {}
    for placed, following in zip(grid.placed, [*grid.placed[1:], None], strict=True):
        side = _side(grid, placed, reels)
        end = placed.end if following is None else following.first
        fall = 0 if side.reel == BLACK else placed.fall
        if side.reel != BLACK and placed.rise and not placed.overlap:
            yield _Event(side, placed.first, end - fall, placed.rise)
        else:
            yield _Event(side, placed.first, end - fall, placed.overlap)
        if fall:
            yield _Event(_Side(BLACK, 0), end - fall, end, fall)


def _side(grid: FilmGrid, placed: PlacedShot, reels: dict[str, str]) -> _Side:
    if placed.info is None:
        return _Side(BLACK, 0)
    source = placed.cut.source
    url = source.absolute().as_uri()
    reel = reels.setdefault(url, REEL.format(len(reels) + 1))
    return _Side(reel, grid.frames_in(placed.cut.start_s), source.stem, url)


def _lines(number: int, before: _Event, event: _Event, fps: int) -> Iterator[str]:
    if event.dissolve:
        black = before.side.reel == BLACK
        reached = 0 if black else before.side.first + before.end - before.first
        yield _line(number, before.side.reel, "C", (reached, reached, event.first, event.first), fps)
        yield from _event(number, event, f"D {event.dissolve:03}", fps)
        yield from _comments(before.side, "FROM")
        yield from _comments(event.side, "TO")
    else:
        yield from _event(number, event, "C", fps)
        yield from _comments(event.side, "FROM")


def _event(number: int, event: _Event, how: str, fps: int) -> Iterator[str]:
    first, count = event.side.first, event.end - event.first
    yield _line(number, event.side.reel, how, (first, first + count, event.first, event.end), fps)


def _line(number: int, reel: str, how: str, frames: tuple[int, int, int, int], fps: int) -> str:
    times = " ".join(_timecode(frame, fps) for frame in frames)
    return f"{number:03}  {reel:<8} V     {how:<8} {times}"


def _comments(side: _Side, which: str) -> Iterator[str]:
    if side.reel != BLACK:
        yield f"* {which} CLIP NAME:  {side.name}"
        yield f"* {which} CLIP: {side.url}"


def _timecode(frame: int, fps: int) -> str:
    seconds, frames = divmod(frame, fps)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}:{frames:02}"
