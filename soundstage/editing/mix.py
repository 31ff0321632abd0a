"""The sound of a film in stems, one second after the other: shots, voice-over, music and room tone.

Their sum is the mix before its loudness is set. Music is ducked one second late, when it is known what is
said next, so that it is down before the first word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from soundstage.editing.ducking import Ducking, activity, captioned
from soundstage.editing.grid import CUT_FADE_S, FilmGrid, PlacedShot
from soundstage.editing.room_tone import RoomToneSource
from soundstage.editing.sound import (
    GainCurve,
    LoopedSound,
    SoundPart,
    SourceSound,
    envelope,
    rising,
    source_of,
)
from soundstage.editing.timeline import Music, VoiceOver
from soundstage.errors import MediaError
from soundstage.media.arrays import Waveform

STEMS = ("shots", "voice-over", "music", "room-tone")
Stems = dict[str, Waveform]


@dataclass
class _Second:
    """One second of the film: what does not wait for the next one. kept: share of shots' full sound."""

    first: int
    shots: Waveform
    voice: Waveform
    kept: GainCurve = field(default_factory=lambda: np.zeros(0, np.float32))


class Mixer:
    """Mixes the sound of a film. Raises MediaError for sounds that are missing or begin after the film."""

    def __init__(self, grid: FilmGrid, tone: RoomToneSource | None) -> None:
        self._grid, self._tone = grid, tone
        line = grid.timeline
        self._shots = [_shot(grid, placed) for placed in grid.placed if placed.sound is not None]
        self._voices = [_voice(grid, voice, i) for i, voice in enumerate(line.voice_over)]
        self._music = [_music(grid, piece, i) for i, piece in enumerate(line.music)]
        self._ducking = [Ducking(piece, grid.rate) for piece in line.music]
        self._fade = round(line.fade_out_s * grid.rate)

    def stems(self) -> Iterator[Stems]:
        """Yield the stems by name, (2, n) each, a second at a time. They can be taken once."""
        before = None
        for first in range(0, self._grid.num_samples, self._grid.rate):
            now = self._second(first)
            if before is not None:
                yield self._finished(before, now)
            before = now
        if before is not None:
            yield self._finished(before, None)

    def mixed(self) -> Iterator[Waveform]:
        """Yield the sum of the stems."""
        for stems in self.stems():
            yield sum_of(stems)

    def _second(self, first: int) -> _Second:
        count = min(self._grid.rate, self._grid.num_samples - first)
        made = _Second(first, np.zeros((2, count), np.float32), np.zeros((2, count), np.float32))
        power = np.zeros(count, np.float32)
        for part, level in self._shots:
            taken = part.add(made.shots, first)
            if taken is not None:
                at, gains = taken
                power[at : at + len(gains)] += (gains / np.float32(level)) ** 2
        made.kept = np.minimum(power, 1)
        for voice in self._voices:
            voice.add(made.voice, first)
        return made

    def _finished(self, now: _Second, following: _Second | None) -> Stems:
        shape = now.shots.shape
        music = np.zeros(shape, np.float32)
        for part, ducking in zip(self._music, self._ducking, strict=True):
            own = np.zeros(shape, np.float32)
            part.add(own, now.first)
            music += own * ducking.gains(self._loud(now, ducking), self._ahead(following, ducking), shape[1])
        tone = np.zeros(shape, np.float32)
        if self._tone is not None:
            tone += self._tone.read(now.kept)
        made = {"shots": now.shots, "voice-over": now.voice, "music": music, "room-tone": tone}
        left = self._grid.num_samples - now.first
        if self._fade and left - shape[1] < self._fade:
            share = (left - np.arange(shape[1]) - 0.5) / self._fade
            made = {name: stem * rising(share) for name, stem in made.items()}
        return made

    def _ahead(self, second: _Second | None, ducking: Ducking) -> GainCurve:
        return np.zeros(0, np.float32) if second is None else self._loud(second, ducking)

    def _loud(self, second: _Second, ducking: Ducking) -> GainCurve:
        """Return 1 for each hundredth of a second in which music is lowered."""
        rate = self._grid.rate
        found = activity(second.voice, rate, -50.0)
        found |= captioned(self._grid.timeline.captions, second.first / rate, len(found))
        if ducking.under_sound:
            found |= activity(second.shots, rate, -35.0)
        return found.astype(np.float32)


def sound_checks(grid: FilmGrid) -> list[Callable[[], object]]:
    """Return functions that raise MediaError, each for a voice or a piece of music that does not fit."""
    line = grid.timeline
    voices = [partial(_voice, grid, voice, i) for i, voice in enumerate(line.voice_over)]
    return [*voices, *(partial(_music, grid, piece, i) for i, piece in enumerate(line.music))]


def sum_of(stems: Stems) -> Waveform:
    """Return the mix of stems."""
    mixed: Waveform = np.sum([stems[name] for name in STEMS], axis=0, dtype=np.float32)
    return mixed


def _shot(grid: FilmGrid, placed: PlacedShot) -> tuple[SoundPart, float]:
    """Return a shot's sound, and its gain where it is not faded."""
    assert placed.sound is not None
    begin, end = placed.sound
    cut, rate = placed.cut, grid.rate
    start_s = cut.start_s + (begin - grid.sample_of(placed.first)) / rate
    part = SoundPart(
        begin,
        end,
        lambda: SourceSound(cut.source, max(0.0, start_s), rate),
        envelope(placed.fades.rise, placed.fades.fall, cut.gain_db),
    )
    return part, 10 ** (cut.gain_db / 20)


def _voice(grid: FilmGrid, voice: VoiceOver, index: int) -> SoundPart:
    field_name, rate = f"voice_over[{index}]", grid.rate
    left_s = _left_s(
        source_of(voice.path, f"{field_name}.path").sound_s, voice.from_s, voice.path, field_name
    )
    length_s = left_s if voice.seconds is None else min(left_s, voice.seconds)
    begin = _begin(grid, voice.start_s, field_name)
    end = min(begin + round(length_s * rate), grid.num_samples)
    fade = round(voice.fade_s * rate)
    return SoundPart(
        begin,
        end,
        lambda: SourceSound(voice.path, voice.from_s, rate),
        envelope((begin, begin + fade), (end - fade, end), voice.gain_db),
    )


def _music(grid: FilmGrid, music: Music, index: int) -> SoundPart:
    field_name, rate = f"music[{index}]", grid.rate
    left_s = _left_s(
        source_of(music.path, f"{field_name}.path").sound_s, music.from_s, music.path, field_name
    )
    begin = _begin(grid, music.start_s, field_name)
    end = grid.num_samples if music.end_s is None else min(round(music.end_s * rate), grid.num_samples)
    if music.end_s is not None and music.end_s <= music.start_s:
        raise MediaError(
            f"{field_name}.end_s is {music.end_s:g}, and start_s is {music.start_s:g}; give a later end_s"
        )
    if not music.loop:
        end = min(end, begin + round(left_s * rate))
    short = round(CUT_FADE_S / 2 * rate)  # so that it does not click
    rise, fall = max(short, round(music.fade_in_s * rate)), max(short, round(music.fade_out_s * rate))
    return SoundPart(
        begin,
        end,
        lambda: (
            LoopedSound(music.path, music.from_s, left_s, rate)
            if music.loop
            else SourceSound(music.path, music.from_s, rate)
        ),
        envelope((begin, begin + rise), (end - fall, end), music.gain_db),
    )


def _left_s(sound_s: float | None, from_s: float, path: object, field_name: str) -> float:
    assert sound_s is not None
    if from_s >= sound_s:
        raise MediaError(
            f"{field_name}.from_s is {from_s:g}, and {path} lasts {sound_s:.4g} s; give an earlier time"
        )
    return sound_s - from_s


def _begin(grid: FilmGrid, start_s: float, field_name: str) -> int:
    if start_s >= grid.duration_s:
        raise MediaError(
            f"{field_name}.start_s is {start_s:g}, and the film lasts {grid.duration_s:.4g} s; give an "
            "earlier time"
        )
    return round(start_s * grid.rate)
