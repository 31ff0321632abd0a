"""Room tone: the quiet sound of a place, looped under the cuts of a film."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from soundstage.editing.grid import FilmGrid, PlacedShot
from soundstage.editing.sound import GainCurve, LoopedSound, SourceSound, source_of
from soundstage.errors import MediaError, num_of
from soundstage.media.arrays import Waveform

STRETCH_S = 1.0  # taken from a shot, or half of its sound if that is shorter
STEP_S = 0.1
SILENCE_DBFS = -90.0  # what is quieter is no room but nothing


@dataclass(frozen=True)
class QuietStretch:
    """SoundPart of a file's sound. level_dbfs: its RMS."""

    path: Path
    start_s: float
    length_s: float
    level_dbfs: float


class RoomToneSource:
    """Room tone, second by second in its order."""

    def __init__(self, grid: FilmGrid) -> None:
        asked = grid.timeline.room_tone
        assert asked is not None
        self.stretch = _stretch(grid)
        self._gain = np.float32(10 ** (asked.gain_db / 20))
        self._fills = asked.under == "cuts"
        self._sound = LoopedSound(self.stretch.path, self.stretch.start_s, self.stretch.length_s, grid.rate)

    def read(self, kept: GainCurve) -> Waveform:
        """Return the next samples. kept: the power that shots have there, from 0 to 1."""
        gains = np.sqrt(1 - kept) if self._fills else np.ones_like(kept)
        tone: Waveform = self._sound.read(len(kept)) * gains * self._gain
        return tone


def _stretch(grid: FilmGrid) -> QuietStretch:
    asked = grid.timeline.room_tone
    assert asked is not None
    placed = room_tone_shots(grid)
    if asked.path is not None:
        info = source_of(asked.path, "room_tone.path")
        return QuietStretch(asked.path, 0.0, info.sound_s or 0.0, 0.0)
    found = [stretch for p in placed for stretch in _quiet(grid, p)]
    if not found:
        raise _silent()
    return min(found, key=lambda stretch: stretch.level_dbfs)


def room_tone_shots(grid: FilmGrid) -> list[PlacedShot]:
    """Return the shots that room tone may be taken from; none where it comes from a file.

    Raises MediaError for a file or cut that is not there or has no sound, without a look at the shots' own.
    """
    asked = grid.timeline.room_tone
    if asked is None:
        return []
    if asked.path is not None:
        source_of(asked.path, "room_tone.path")
        return []
    if asked.cut is not None and asked.cut > len(grid.placed):
        raise MediaError(
            f"room_tone.cut is {asked.cut}, and the film has {num_of(len(grid.placed), 'cut')}; "
            "give one of them"
        )
    placed = [p for p in grid.placed if asked.cut in (None, p.number) and p.sound is not None]
    if not placed:
        raise _silent()
    return placed


def _silent() -> MediaError:
    return MediaError(
        "room_tone is to be taken from the shots, and they hold no sound that is not digital silence; "
        "give room_tone.path"
    )


def _quiet(grid: FilmGrid, placed: PlacedShot) -> Iterator[QuietStretch]:
    """Yield the quietest stretch of a shot's sound that is not silent; nothing if all is."""
    assert placed.info is not None
    cut, rate = placed.cut, grid.rate
    heard_s = min(float(placed.num_frames / grid.fps), (placed.info.sound_s or 0.0) - cut.start_s)
    step = round(STEP_S * rate)
    source = SourceSound(cut.source, cut.start_s, rate)
    count = math.floor(heard_s * rate / step)
    powers = [float(np.square(source.read(step)).mean()) for _ in range(count)]
    steps = min(round(STRETCH_S / STEP_S), count // 2)
    best: QuietStretch | None = None
    for first in range(count - steps + 1 if steps else 0):
        part = powers[first : first + steps]
        if min(part) <= 10 ** (SILENCE_DBFS / 10):
            continue
        level = 10 * math.log10(sum(part) / steps)
        if best is None or level < best.level_dbfs:
            best = QuietStretch(cut.source, cut.start_s + first * STEP_S, steps * STEP_S, level)
    if best is not None:
        yield best
