"""Measure the offset between what is seen and what is heard: changes of motion against onsets of sound.

Both become trains of events; the offset is the lag at which most of them meet. It is told only where several
meet, and where they do not meet as well without a lag.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from soundstage.media.arrays import Waveform
from soundstage.review.picture import Numbers
from soundstage.review.record import Asked, Fault, severity_above

STEP_S = 0.01
BANDS_HZ = (0.0, 500.0, 2000.0, 8000.0)
RISE_DB = 9.0  # of a band within 30 ms, that is an onset
QUIET_DB = -45.0  # below the loudest step of a band, where rises do not count
APART_S = 0.15
MEET_S = 0.05  # events nearer than this meet
MAX_LAG_S = 0.6
LEAST_MEETINGS, LEAST_SHARE = 2, 0.6  # of the onsets
LIMIT_S, WORST_S = 0.12, 0.4  # sound late or early
PUSH_TIMES, LEAST_PUSH = 4.0, 0.05  # times the median of the changes of motion, and at least


@dataclass(frozen=True)
class Sync:
    """offset_s: how much later the sound is than the picture; None where it cannot be told."""

    offset_s: float | None
    num_seen: int
    num_heard: int


class OnsetMeter:
    """Notes the power of three bands each STEP_S of stereo pieces (2, n) as they are added."""

    def __init__(self, sample_rate_hz: int) -> None:
        self._rate, self._step = sample_rate_hz, round(STEP_S * sample_rate_hz)
        self._left = np.zeros(0, np.float32)
        self._powers: list[Numbers] = []
        hz = np.fft.rfftfreq(self._step * 2, 1 / sample_rate_hz)
        self._edges = np.searchsorted(hz, BANDS_HZ)
        self._window = np.hanning(self._step * 2)

    def add(self, piece: Waveform) -> None:
        """Note the next samples."""
        samples = np.concatenate([self._left, piece.mean(axis=0)])
        count = len(samples) // self._step - 1
        if count > 0:
            frames = np.lib.stride_tricks.sliding_window_view(samples, 2 * self._step)[:: self._step][:count]
            power = np.square(np.abs(np.fft.rfft(frames * self._window, axis=1)))
            self._powers += list(np.add.reduceat(power, self._edges[:-1], axis=1))
            samples = samples[count * self._step :]
        self._left = samples

    def onsets(self) -> list[float]:
        """Return the times in seconds at which a band becomes louder at once."""
        if len(self._powers) < 8:
            return []
        power = np.stack(self._powers)
        levels = 10 * np.log10(power + power.max(axis=0) * 10 ** (QUIET_DB / 10) + 1e-9)
        before = np.stack([np.roll(levels, shift, axis=0) for shift in (2, 3, 4)]).mean(axis=0)
        rise = (levels - before).max(axis=1)
        rise[:5] = 0
        return _peaks(rise, RISE_DB, APART_S / STEP_S, STEP_S)


def seen_events(pushes: list[float], fps: float) -> list[float]:
    """Return the times in seconds at which things change their motion or brightness at once."""
    values = np.array(pushes)
    if len(values) < 8:
        return []
    return _peaks(values, max(PUSH_TIMES * float(np.median(values)), LEAST_PUSH), APART_S * fps, 1 / fps)


def synced(seen: list[float], heard: list[float]) -> Sync:
    """Return the offset at which events seen and heard meet."""
    if len(seen) < LEAST_MEETINGS or len(heard) < LEAST_MEETINGS:
        return Sync(None, len(seen), len(heard))
    lags = np.arange(-MAX_LAG_S, MAX_LAG_S + STEP_S / 2, STEP_S)
    met = np.array([_meetings(seen, heard, lag) for lag in lags])
    best = met.max()
    together = lags[met > best - 1e-9]
    offset = float(together[np.argmin(np.abs(together - np.median(together)))])
    at_once = met[np.abs(lags) <= LIMIT_S].max()
    whole = int(sum(min(abs(s + offset - h) for s in seen) <= 2 * MEET_S for h in heard))
    if whole < LEAST_MEETINGS or whole < LEAST_SHARE * len(heard):
        return Sync(None, len(seen), len(heard))
    return Sync(0.0 if at_once >= 0.75 * best and abs(offset) > LIMIT_S else offset, len(seen), len(heard))


def sync_faults(found: Sync, duration_s: float, asked: Asked) -> Iterator[Fault]:
    """Yield a fault where sounds come earlier or later than what is seen."""
    if asked.sync and found.offset_s is not None and abs(found.offset_s) > LIMIT_S:
        side = "after" if found.offset_s > 0 else "before"
        off = abs(found.offset_s)
        why = f"sounds come {off:.2f} s {side} what is seen"
        severity = severity_above(off, LIMIT_S, WORST_S)
        yield Fault("av-offset", severity, 0.0, duration_s, round(found.offset_s, 2), LIMIT_S, why)


def _meetings(seen: list[float], heard: list[float], lag_s: float) -> float:
    """Return how many of the heard events meet a seen one that is moved by the lag; nearer counts more."""
    moved = np.array(seen)[:, None] + lag_s - np.array(heard)[None]
    return float(np.exp(-0.5 * (np.abs(moved).min(axis=0) / MEET_S) ** 2).sum())


def _peaks(values: Numbers, least: float, apart: float, step_s: float) -> list[float]:
    """Return the times of the highest values, the highest first chosen, none near another."""
    found: list[int] = []
    for index in np.argsort(-values):
        if values[index] < least:
            break
        if all(abs(index - other) >= apart for other in found):
            found.append(int(index))
    return sorted((index + 0.5) * step_s for index in found)
