"""Sounds of a film's sources, read in order at the film's rate, to the sample.

A source's sound begins at the sample nearest to the time that is asked for. One of another rate is resampled
by FFmpeg's swresample, with a little sound before the beginning, so that the first sample is whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soundstage.errors import MediaError
from soundstage.media.arrays import Waveform
from soundstage.media.load import load_sound
from soundstage.media.probe import Info, probe

BLOCK_S = 10.0  # decoded at once
WARM_UP_S = 0.05  # before the first sample of a resampled source
LOOP_FADE_S = 0.5  # so long the end of a loop and its beginning cross

GainCurve = NDArray[np.float32]  # (n,)
Envelope = Callable[[int, int], GainCurve]  # (first sample of the film, count) -> gains


class SourceSound:
    """A file's sound from a time on, at a rate, read piece by piece; silence after its end."""

    def __init__(self, path: Path, start_s: float, rate: int) -> None:
        self._pieces = _pieces(path, start_s, rate)
        self._kept: list[Waveform] = []
        self._num_kept = 0

    def read(self, count: int) -> Waveform:
        """Return the next samples, (2, count)."""
        while self._num_kept < count:
            piece = next(self._pieces, None)
            if piece is None:
                piece = np.zeros((2, count - self._num_kept), np.float32)
            self._kept.append(piece)
            self._num_kept += piece.shape[1]
        whole = np.concatenate(self._kept, axis=1)
        self._kept, self._num_kept = [whole[:, count:]], self._num_kept - count
        return whole[:, :count]


class LoopedSound:
    """A stretch of a file's sound, again and again; its end and its beginning cross with equal power."""

    def __init__(self, path: Path, start_s: float, length_s: float, rate: int) -> None:
        self._opened = (path, start_s, rate)
        total = max(2, math.floor(length_s * rate))
        self._fade = min(round(LOOP_FADE_S * rate), total // 4)
        self._turn = total - self._fade  # samples from one beginning to the next
        self._at = 0
        self._now = SourceSound(*self._opened)
        self._before: SourceSound | None = None

    def read(self, count: int) -> Waveform:
        """Return the next samples, (2, count)."""
        made = np.zeros((2, count), np.float32)
        done = 0
        while done < count:
            if self._at == self._turn:
                self._before, self._now, self._at = self._now, SourceSound(*self._opened), 0
            edge = self._fade if self._before is not None and self._at < self._fade else self._turn
            step = min(count - done, edge - self._at)
            piece = self._now.read(step)
            if self._before is not None and self._at < self._fade:
                share = (np.arange(self._at, self._at + step) + 0.5) / self._fade
                piece = piece * rising(share) + self._before.read(step) * rising(1 - share)
                if self._at + step == self._fade:
                    self._before = None
            made[:, done : done + step] = piece
            self._at += step
            done += step
        return made


@dataclass
class SoundPart:
    """Sound of one source in the film, from sample `begin` to before `end`; taken in order.

    envelope: its gains. make: opens the source when the first sample is taken.
    """

    begin: int
    end: int
    make: Callable[[], SourceSound | LoopedSound]
    envelope: Envelope
    _source: SourceSound | LoopedSound | None = None

    def add(self, block: Waveform, first: int) -> tuple[int, GainCurve] | None:
        """Add its samples to a block (2, n) that begins at a sample of the film.

        Returns where in the block they begin, and their gains; None where there are none.
        """
        begin, end = max(self.begin, first), min(self.end, first + block.shape[1])
        if begin >= end:
            if first >= self.end:
                self._source = None
            return None
        if self._source is None:
            self._source = self.make()
        gains = self.envelope(begin, end - begin)
        block[:, begin - first : end - first] += self._source.read(end - begin) * gains
        return begin - first, gains


def source_of(path: Path, field: str) -> Info:
    """Return what a file of sound holds. Raises MediaError, naming the field, for one without sound."""
    try:
        info = probe(str(path))
    except MediaError as error:
        raise MediaError(f"{field}: {error}") from error
    if info.sound_s is None:
        raise MediaError(f"{field} is {path}, which holds no sound; give a file that does")
    return info


def rising(share: NDArray[np.float64]) -> GainCurve:
    """Return gains that rise with equal power where the share goes from 0 to 1."""
    return np.sin(np.clip(share, 0, 1) * (np.pi / 2)).astype(np.float32)


def envelope(rise: tuple[int, int] | None, fall: tuple[int, int] | None, gain_db: float) -> Envelope:
    """Return the gains that come up in samples [begin, end) of `rise` and go in those of `fall`."""
    level = np.float32(10 ** (gain_db / 20))

    def gains(first: int, count: int) -> GainCurve:
        at = np.arange(first, first + count) + 0.5
        found = np.full(count, level, np.float32)
        if rise is not None and rise[1] > rise[0]:
            found *= rising((at - rise[0]) / (rise[1] - rise[0]))
        if fall is not None and fall[1] > fall[0]:
            found *= rising((fall[1] - at) / (fall[1] - fall[0]))
        return found

    return gains


def _pieces(path: Path, start_s: float, rate: int) -> Iterator[Waveform]:
    """Yield a file's sound (2, n) from a time on, at a rate."""
    sound_s = probe(str(path)).sound_s or 0.0
    own = load_sound(str(path), 0.0, 0.01)[1]
    first, end = round(start_s * own), math.floor(sound_s * own + 1e-6)
    if own == rate:
        yield from _blocks(path, first, end, own)
        return
    step = own // math.gcd(own, rate)  # samples of the source that are whole samples of the film
    warm = min(first // step, math.ceil(WARM_UP_S * own / step))
    left = warm * rate // math.gcd(own, rate)  # samples of the film before the first one
    for piece in _resampled(_blocks(path, first - warm * step, end, own), own, rate):
        dropped = min(left, piece.shape[1])
        left -= dropped
        if piece.shape[1] > dropped:
            yield piece[:, dropped:]


def _blocks(path: Path, first: int, end: int, rate: int) -> Iterator[Waveform]:
    size = round(BLOCK_S * rate)
    for at in range(first, end, size):
        yield load_sound(str(path), at / rate, min(size, end - at) / rate)[0]


def _resampled(pieces: Iterator[Waveform], own: int, rate: int) -> Iterator[Waveform]:
    import av
    from av.audio.resampler import AudioResampler

    resampler = AudioResampler(format="fltp", layout="stereo", rate=rate)
    for piece in pieces:
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(piece), format="fltp", layout="stereo")
        frame.sample_rate, frame.pts = own, None
        yield from _arrays(resampler.resample(frame))
    yield from _arrays(resampler.resample(None))


def _arrays(frames: list[Any]) -> Iterator[Waveform]:
    yield from (frame.to_ndarray() for frame in frames)
