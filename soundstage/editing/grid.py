"""A timeline on the grid of frames and samples: checked against its sources, before any work.

A shot has round(length x fps) frames, and begins where the one before it ends, or so many frames earlier as
they share in a dissolve. Frame number f of the film is heard from sample round(f x rate / fps) on. Frame i of
a shot is what its source shows at start_s + i / fps: the nearest, of two equally near the first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from soundstage.editing.by_line import faults
from soundstage.editing.timeline import BLACK, MAX_SIDE, Cut, Timeline
from soundstage.errors import MediaError, num_of
from soundstage.media.clip_pieces import frame_rate
from soundstage.media.probe import Info, probe

PLAIN_SIZE, PLAIN_FPS = (1280, 720), 24.0  # of a film whose sources have none
CUT_FADE_S = 0.02  # so long the sounds of two shots cross at a cut
NEARLY_S = 1e-6
NO_FRAME_S = 0.5  # shares of a frame by which an end may lie beyond the source's


@dataclass(frozen=True)
class Fades:
    """The samples of the film, [begin, end), in which a shot's sound comes up and goes; None for at once."""

    rise: tuple[int, int] | None
    fall: tuple[int, int] | None


@dataclass(frozen=True)
class PlacedShot:
    """A cut on the grid. number: counted from 1. info: what its source is, None for black.

    first: frame of the film that shows its first one. overlap: frames shared with the shot before.
    rise, fall: frames in which it comes up from black and goes to it. sound: [begin, end) in samples of the
    film of what is heard of it, None for silence. fades: how that begins and ends.
    """

    cut: Cut
    number: int
    info: Info | None
    first: int
    num_frames: int
    overlap: int = 0
    rise: int = 0
    fall: int = 0
    sound: tuple[int, int] | None = None
    fades: Fades = Fades(None, None)

    @property
    def end(self) -> int:
        """Return the frame of the film after its last one."""
        return self.first + self.num_frames


@dataclass(frozen=True)
class FilmGrid:
    """A film on its grid. fps: exact. notices: what is changed when its sources are read."""

    timeline: Timeline
    width: int
    height: int
    fps: Fraction
    rate: int
    placed: tuple[PlacedShot, ...]
    notices: tuple[str, ...]

    @property
    def num_frames(self) -> int:
        return self.placed[-1].end

    @property
    def num_samples(self) -> int:
        return self.sample_of(self.num_frames)

    @property
    def duration_s(self) -> float:
        return float(self.num_frames / self.fps)

    @property
    def has_sound(self) -> bool:
        """Return whether anything is heard."""
        line = self.timeline
        return bool(line.music or line.voice_over) or any(p.sound is not None for p in self.placed)

    def sample_of(self, frame: int) -> int:
        """Return the sample at which a frame begins."""
        return round(frame * self.rate / self.fps)

    def frames_in(self, seconds: float) -> int:
        """Return the nearest number of frames."""
        return round(seconds * float(self.fps))


def grid_of(timeline: Timeline, infos: Sequence[Info | None] | None = None) -> FilmGrid:
    """Return the film on its grid. Raises MediaError for sources and times that do not fit.

    infos: what the sources of the cuts are, where they are not made yet; None looks at them.
    """
    if infos is None:
        infos = infos_of(timeline)
    width, height = _size(timeline, infos)
    fps = frame_rate(timeline.fps or next((i.fps for i in infos if i is not None and i.fps), PLAIN_FPS))
    grid = FilmGrid(timeline, width, height, fps, timeline.sample_rate_hz, (), _notices(timeline, infos))
    grid = dataclasses.replace(grid, placed=tuple(_in_picture(grid, infos)))
    sounded = [_with_sound(grid, index) for index in range(len(grid.placed))]
    return dataclasses.replace(grid, placed=tuple(sounded))


def infos_of(timeline: Timeline) -> list[Info | None]:
    """Return what the sources of the cuts are. Raises MediaError with a sentence for each that is none."""
    found: list[Info | None] = []
    refused = []
    for index, cut in enumerate(timeline.cuts):
        try:
            found.append(None if cut.source == BLACK else probe(str(cut.source)))
        except MediaError as error:
            refused.append(f"cuts[{index}].source: {error}")
    if refused:
        raise faults(refused)
    return found


def _notices(timeline: Timeline, infos: Sequence[Info | None]) -> tuple[str, ...]:
    told = [
        f"{cut.source}: {notice}"
        for cut, info in zip(timeline.cuts, infos, strict=True)
        for notice in (() if info is None else info.notices)
    ]
    return tuple(dict.fromkeys(told))


def _size(timeline: Timeline, infos: Sequence[Info | None]) -> tuple[int, int]:
    own = next(((i.width, i.height) for i in infos if i is not None and i.num_frames), PLAIN_SIZE)
    width, height = timeline.width, timeline.height
    if width is None and height is None:
        width, height = own
    elif width is None or height is None:  # the other side by the first source's shape
        share = (width / own[0]) if width is not None else (height or 0) / own[1]
        width, height = (max(2, round(side * share / 2) * 2) for side in own)
    if max(width, height) > MAX_SIDE:
        raise MediaError(f"the film would be {width}x{height}; give a width and height up to {MAX_SIDE}")
    return width, height


# --- Picture ----------------------------------------------------------------------------------------


def _in_picture(grid: FilmGrid, infos: Sequence[Info | None]) -> Iterator[PlacedShot]:
    """Yield the cuts with their frames, one after the other."""
    end = 0
    for index, (cut, info) in enumerate(zip(grid.timeline.cuts, infos, strict=True)):
        count = grid.frames_in(_length_s(cut, info, index))
        if count < 1:
            raise MediaError(
                f"cuts[{index}] is shorter than a frame of 1/{float(grid.fps):g} s; give a longer part"
            )
        overlap, rise = _transition(grid, cut, index)
        following = grid.timeline.cuts[index + 1 : index + 2]
        leaves, fall = _transition(grid, following[0], index + 1) if following else (0, 0)
        fall = fall // 2 if following else grid.frames_in(grid.timeline.fade_out_s)
        rise = rise - rise // 2 if index else rise
        if not following:
            _check_fade_out(grid, index, count - overlap - rise, fall)
        _check_transitions(cut, index, count, (overlap + rise, leaves + fall))
        yield PlacedShot(cut, index + 1, info, end - overlap, count, overlap, rise, fall)
        end += count - overlap


def _length_s(cut: Cut, info: Info | None, index: int) -> float:
    """Return how long a cut is. Raises MediaError for a part that is not within the source."""
    name = f"cuts[{index}]"
    whole_s = None if info is None or info.num_frames == 1 else _whole_s(info)
    if cut.end_s is None and whole_s is None:
        raise MediaError(f"{name}.end_s is missing, and {cut.source} has no length; give one")
    frame_s = NO_FRAME_S / info.fps if info is not None and info.fps else NEARLY_S
    if whole_s is not None and cut.end_s is not None and cut.end_s > whole_s + frame_s:
        raise MediaError(
            f"{name}.end_s is {cut.end_s:g}, and {cut.source} lasts {whole_s:.4g} s; give an end within it"
        )
    end_s = whole_s if cut.end_s is None else cut.end_s
    assert end_s is not None
    if cut.start_s >= end_s:
        raise MediaError(
            f"{name}.start_s is {cut.start_s:g}, and the part ends at {end_s:.4g} s; give an earlier one"
        )
    return end_s - cut.start_s


def _whole_s(info: Info) -> float:
    return info.num_frames / info.fps if info.num_frames and info.fps else info.sound_s or 0.0


def _transition(grid: FilmGrid, cut: Cut, index: int) -> tuple[int, int]:
    """Return the frames of a dissolve into a cut, and those of a fade through black."""
    kind, count = cut.transition.kind, grid.frames_in(cut.transition.seconds)
    if kind == "dissolve" and index == 0:
        raise MediaError("cuts[0].transition is a dissolve, and no shot is before it; give a fade or a cut")
    return (count, 0) if kind == "dissolve" else (0, count)


def _check_transitions(cut: Cut, index: int, count: int, needed: tuple[int, int]) -> None:
    if sum(needed) <= count:
        return
    raise MediaError(
        f"cuts[{index}] ({cut.source}) has {num_of(count, 'frame')}, and the transitions at its beginning "
        f"and end need {needed[0]} and {needed[1]} of them; make them shorter, or the shot longer"
    )


def _check_fade_out(grid: FilmGrid, index: int, left: int, fall: int) -> None:
    """Raise MediaError for a fade at the end that begins before the last shot is fully seen."""
    if fall > left >= 0:
        raise MediaError(
            f"fade_out_s is {grid.timeline.fade_out_s:g}, and the last shot, cuts[{index}], is seen for "
            f"{float(left / grid.fps):.4g} s without its transition; give a time up to that, or make the "
            "shot longer"
        )


# --- Sound ------------------------------------------------------------------------------------------


def _with_sound(grid: FilmGrid, index: int) -> PlacedShot:
    """Return a cut with what is heard of it. Raises MediaError for a J or L cut without sound to take."""
    one = grid.placed[index]
    if one.info is None or one.info.sound_s is None:
        _check_unused(one, index)
        return one
    cut, rate, sound_s = one.cut, grid.rate, one.info.sound_s
    begin = grid.sample_of(one.first)
    earliest = begin - round(cut.start_s * rate)  # where the source's sound begins
    latest = min(begin + round((sound_s - cut.start_s) * rate), grid.num_samples)  # and ends
    _check_reach(grid, one, index, sound_s)
    rise = _boundary(grid, index).rise
    fall = _boundary(grid, index + 1).fall
    first = max(earliest, 0, begin if rise is None else rise[0])
    end = min(latest, grid.sample_of(one.end) if fall is None else fall[1])
    if end <= first:
        return one
    short = round(CUT_FADE_S / 2 * rate)
    if rise is not None:
        rise = (first, max(rise[1], first + min(short, rise[1] - rise[0])))
    if fall is not None:
        fall = (min(fall[0], end - min(short, fall[1] - fall[0])), end)
    return dataclasses.replace(one, sound=(first, end), fades=Fades(rise, fall))


def _boundary(grid: FilmGrid, index: int) -> Fades:
    """Return where the sound of cut `index` comes up, and where that of the one before it goes.

    None where one goes on in the other.
    """
    placed, short = grid.placed, round(CUT_FADE_S / 2 * grid.rate)
    if index == 0:
        return Fades((0, max(short, grid.sample_of(placed[0].rise))), None)
    if index == len(placed):
        return Fades(None, (grid.num_samples - short, grid.num_samples))
    before, after = placed[index - 1], placed[index]
    if _goes_on(before, after):
        return Fades(None, None)
    moved = round((before.cut.sound_lag_s - after.cut.sound_lead_s) * grid.rate)
    first = grid.sample_of(after.first) + moved
    if after.rise or before.fall:  # through black: each has its own time
        up = max(short, grid.sample_of(after.rise))
        return Fades((first, first + up), (first - max(short, grid.sample_of(before.fall)), first))
    around = 0 if after.overlap else short
    both = first - around, first + around + grid.sample_of(after.overlap)
    return Fades(both, both)


def _goes_on(before: PlacedShot, after: PlacedShot) -> bool:
    """Return whether a shot is the next part of the same source, so that its sound needs no crossfade."""
    one, other = before.cut, after.cut
    return (
        one.source == other.source
        and one.end_s is not None
        and abs(one.end_s - other.start_s) < NEARLY_S
        and one.gain_db == other.gain_db
        and other.transition.kind == "cut"
        and not (one.sound_lag_s or other.sound_lead_s)
    )


def _check_unused(one: PlacedShot, index: int) -> None:
    for name in ("sound_lead_s", "sound_lag_s"):
        value = getattr(one.cut, name)
        if value:
            raise MediaError(
                f"cuts[{index}].{name} is {value:g}, and {one.cut.source} has no sound; leave it out"
            )


def _check_reach(grid: FilmGrid, one: PlacedShot, index: int, sound_s: float) -> None:
    cut, name = one.cut, f"cuts[{index}]"
    if cut.sound_lead_s > cut.start_s + NEARLY_S:
        raise MediaError(
            f"{name}.sound_lead_s is {cut.sound_lead_s:g}, and {cut.source} has {cut.start_s:g} s of sound "
            "before start_s; give a shorter one, or a later start_s"
        )
    end_s = cut.start_s + float(one.num_frames / grid.fps)
    left_s = max(0.0, sound_s - end_s)
    if cut.sound_lag_s > left_s + 0.5 / float(grid.fps):
        raise MediaError(
            f"{name}.sound_lag_s is {cut.sound_lag_s:g}, and {cut.source} has {left_s:.3g} s of sound after "
            "the part; give a shorter one, or an earlier end_s"
        )
    following = grid.timeline.cuts[index + 1 : index + 2]
    if cut.sound_lag_s and following and following[0].sound_lead_s:
        raise MediaError(
            f"{name}.sound_lag_s and cuts[{index + 1}].sound_lead_s are both given for one cut; keep one"
        )
    if (index == 0 and cut.sound_lead_s) or (not following and cut.sound_lag_s):
        field = "sound_lead_s" if index == 0 and cut.sound_lead_s else "sound_lag_s"
        raise MediaError(f"{name}.{field} is given, and there is no shot to be heard over; leave it out")
