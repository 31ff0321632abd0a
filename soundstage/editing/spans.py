"""The film as editing programs have it: each shot from one cut to the next, transitions over the cuts.

A dissolve lies half before and half after its cut; both shots have the frames beyond the cut that it needs.
All numbers are frames at the film's rate, also for sources with another.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from soundstage.editing.grid import FilmGrid, PlacedShot
from soundstage.editing.sound import LOOP_FADE_S
from soundstage.editing.timeline import Music, VoiceOver
from soundstage.media.probe import Info, probe


@dataclass(frozen=True)
class ShotSpan:
    """A shot from cut to cut.

    first, end: frames of the film. source_first: frame of the source that is shown at `first`. length: frames
    of the source, 0 where it has none of its own. before, after: frames of the transition at `first` that lie
    before and after it; through_black: it is a fade. sound_first, sound_end: as first and end, None for
    silence.
    """

    placed: PlacedShot
    first: int
    end: int
    source_first: int
    length: int
    before: int
    after: int
    through_black: bool
    sound_first: int | None
    sound_end: int | None

    @property
    def count(self) -> int:
        return self.end - self.first

    @property
    def name(self) -> str:
        return self.placed.cut.source.stem


@dataclass(frozen=True)
class SoundSpan:
    """A file's sound under the film. first, count, source_first, length: frames, as in ShotSpan."""

    piece: Music | VoiceOver
    track: str
    first: int
    count: int
    source_first: int
    length: int


def shot_spans(grid: FilmGrid) -> list[ShotSpan]:
    """Return the shots in their order."""
    cuts = [placed.first + placed.overlap // 2 for placed in grid.placed] + [grid.num_frames]
    return [_span(grid, index, cuts) for index in range(len(grid.placed))]


def _span(grid: FilmGrid, index: int, cuts: list[int]) -> ShotSpan:
    placed = grid.placed[index]
    first, end = cuts[index], cuts[index + 1]
    own = grid.frames_in(placed.cut.start_s) - placed.first
    previous = grid.placed[index - 1] if index else None
    faded = placed.overlap == 0 and index > 0 and placed.rise > 0
    before, after = placed.overlap // 2, placed.overlap - placed.overlap // 2
    if faded and previous is not None:
        before, after = previous.fall, placed.rise
    sound_first = sound_end = None
    if placed.sound is not None:
        sound_first = max(0, first + _moved(grid, index))
        sound_end = min(end + _moved(grid, index + 1), round(placed.sound[1] * grid.fps / grid.rate))
    return ShotSpan(
        placed,
        first,
        end,
        first + own,
        _frames_of(grid, placed.info),
        before,
        after,
        faded,
        sound_first,
        sound_end,
    )


def _moved(grid: FilmGrid, index: int) -> int:
    """Return by how many frames sound changes later than the picture at the cut before a shot."""
    if not 0 < index < len(grid.placed):
        return 0
    before, after = grid.placed[index - 1].cut, grid.placed[index].cut
    return grid.frames_in(before.sound_lag_s - after.sound_lead_s)


def _frames_of(grid: FilmGrid, info: Info | None) -> int:
    if info is None or info.num_frames == 1:
        return 0
    length_s = info.num_frames / info.fps if info.num_frames and info.fps else info.sound_s or 0.0
    return math.floor(length_s * float(grid.fps) + 1e-6)


def sound_spans(grid: FilmGrid) -> Iterator[SoundSpan]:
    """Yield voices and music, looped music again and again; each piece has a track of its own."""
    line = grid.timeline
    for number, voice in enumerate(line.voice_over, 1):
        length = _sound_frames(grid, voice)
        left = length - grid.frames_in(voice.from_s)
        count = left if voice.seconds is None else min(left, grid.frames_in(voice.seconds))
        yield from _laid(grid, voice, f"Voice-over {number}", count, left, length)
    for number, music in enumerate(line.music, 1):
        length = _sound_frames(grid, music)
        left = length - grid.frames_in(music.from_s)
        end = grid.num_frames if music.end_s is None else grid.frames_in(music.end_s)
        count = end - grid.frames_in(music.start_s)
        turn = left - grid.frames_in(LOOP_FADE_S) if music.loop else left
        yield from _laid(
            grid, music, f"Music {number}", count if music.loop else min(count, left), turn, length
        )


def _laid(
    grid: FilmGrid, piece: Music | VoiceOver, track: str, count: int, turn: int, length: int
) -> Iterator[SoundSpan]:
    """Yield a piece of so many frames, in turns of at most `turn`."""
    first = grid.frames_in(piece.start_s)
    count = min(count, grid.num_frames - first)
    for at in range(0, count, max(1, turn)):
        own = min(max(1, turn), count - at)
        yield SoundSpan(piece, track, first + at, own, grid.frames_in(piece.from_s), length)


def _sound_frames(grid: FilmGrid, piece: Music | VoiceOver) -> int:
    return math.floor((probe(str(piece.path)).sound_s or 0.0) * float(grid.fps) + 1e-6)
