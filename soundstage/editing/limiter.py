"""Set the level of a mix: a gain, and a limiter of true peaks that looks ahead.

Levels between the samples are found at eight times the rate. The gain falls straight in dB before a peak and
rises more slowly after it, in steps of a third of a millisecond. What is below the limit is multiplied by the
gain alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from soundstage.media.arrays import Waveform

STEPS = (16, 15, 1)  # samples of a step: the first that a second holds a whole number of
OVERSAMPLING = 8  # a meter looks at 4 points or a few more, not always at the same ones
TAPS = 24  # samples around a point between samples
ATTACK_S, RELEASE_S = 0.005, 0.15  # for 12 dB
PER_DB = 12.0
MARGIN_DB = 0.1  # kept below the limit: gains that change move peaks a little


def limited(blocks: Iterable[Waveform], gain_db: float, peak_dbtp: float, rate: int) -> Iterator[Waveform]:
    """Yield blocks (2, n) of the same lengths with a gain, no true peak of them above a limit.

    Each is held back until the next one is known. The last samples are taken as if silence followed.
    """
    level = np.float32(10 ** (gain_db / 20))
    limiter = _Limiter(peak_dbtp - MARGIN_DB, rate)
    before: Waveform | None = None
    for block in blocks:
        now = block * level
        if before is not None:
            yield limiter.limited(before, now)
        before = now
    if before is not None:
        yield limiter.limited(before, np.zeros((2, 0), np.float32))


class _Limiter:
    def __init__(self, limit_db: float, rate: int) -> None:
        self._limit_db = limit_db
        self._step = step = next(step for step in STEPS if rate % step == 0)
        self._attack = PER_DB / (ATTACK_S * rate / step)  # dB per step
        self._release = PER_DB / (RELEASE_S * rate / step)
        self._ahead = round(2 * ATTACK_S * rate / step) * step  # samples
        self._past = np.zeros((2, TAPS), np.float32)
        self._held = 0.0  # dB at the last point

    def limited(self, block: Waveform, following: Waveform) -> Waveform:
        """Return a block (2, n) with its gain. following: the next one."""
        count = block.shape[1]
        ahead = np.zeros((2, self._ahead + 2 * TAPS), np.float32)
        known = min(ahead.shape[1], following.shape[1])
        ahead[:, :known] = following[:, :known]
        whole = np.concatenate([self._past, block, ahead], axis=1)
        peaks = _true_peaks(whole)[: count + self._ahead]
        self._past = np.concatenate([self._past, block], axis=1)[:, -TAPS:]
        if peaks.max(initial=0) <= 10 ** (self._limit_db / 20) and not self._held:
            return block
        reduction = self._reduction(peaks)
        at = np.arange(count) / self._step
        db = np.interp(at, np.arange(len(reduction)), reduction)
        self._held = float(np.interp(count / self._step, np.arange(len(reduction)), reduction))
        made: Waveform = (block * (10 ** (-db / 20))).astype(np.float32)
        return made

    def _reduction(self, peaks: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the reduction in dB at the edges of steps, from the block's first sample on."""
        filled = np.pad(peaks, (0, -len(peaks) % self._step)).reshape(-1, self._step).max(axis=1)
        over = np.maximum(20 * np.log10(np.maximum(filled, 1e-9)) - self._limit_db, 0)
        needed = np.concatenate([over[:1], np.maximum(over[:-1], over[1:]), over[-1:]])
        steps = np.arange(len(needed))
        fall = self._attack * steps
        down = np.maximum.accumulate((needed - fall)[::-1])[::-1] + fall
        down = np.maximum(down, 0)
        down[0] = max(down[0], self._held)
        rise = self._release * steps
        reduced: NDArray[np.float64] = np.maximum(np.maximum.accumulate(down + rise) - rise, 0)
        return reduced


def _true_peaks(block: Waveform) -> NDArray[np.float32]:
    """Return the highest level at and around each sample of a block (2, n), without TAPS at both ends."""
    inner = block[:, TAPS:-TAPS]
    peaks: NDArray[np.float32] = np.abs(inner).max(axis=0)
    if peaks.max(initial=0) < 0.25:  # what lies between samples is at most 12 dB above them
        return peaks
    for phase in np.arange(1, OVERSAMPLING) / OVERSAMPLING:
        kernel = _kernel(phase)
        for channel in block:
            between = np.abs(np.convolve(channel, kernel, mode="valid"))  # from sample TAPS/2 - 1 on
            first = TAPS - TAPS // 2 + 1
            right = between[first : first + len(peaks)]
            left = between[first - 1 : first - 1 + len(peaks)]
            peaks = np.maximum(peaks, np.maximum(left, right))
    return peaks


def _kernel(phase: float) -> NDArray[np.float32]:
    """Return the taps of a windowed sinc that gives the level `phase` of a sample after the middle one."""
    at = np.arange(TAPS) - (TAPS // 2 - 1) - phase
    window = np.cos(np.pi * at / (TAPS + 2)) ** 2
    taps = np.sinc(at) * window
    return np.asarray((taps / taps.sum())[::-1], np.float32)
