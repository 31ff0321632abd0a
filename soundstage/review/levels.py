"""Measure the levels of a sound piece after piece: silence, clipping, loudness; and check them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from soundstage.media.arrays import Waveform
from soundstage.media.loudness import Loudness, LoudnessMeter
from soundstage.review.checks_picture import runs
from soundstage.review.record import Asked, Fault, severity_above

BLOCK_S = 0.05
SILENT_DBFS = -60.0  # of a block's power, of the louder channel
GAP_S = 2.0  # of silence within a sound that is not to be silent
FULL = 0.99  # from which on a sample may be clipped
FLAT = 2e-5  # samples of a flat top differ by less, in lossless sound
TOP = 0.25  # below which a flat top is none
RUN = 3  # samples of a clipped top
SHORTEST_S = 0.2  # of a sound that is judged
CLIPS_PER_S, WORST_CLIPS_PER_S = 1.0, 100.0
WORST_LU = 12.0


@dataclass
class LevelFacts:
    """powers: mean square of each block of BLOCK_S, of the louder channel. clips: clipped tops in each."""

    sample_rate_hz: int
    powers: list[float] = field(default_factory=list)
    clips: list[int] = field(default_factory=list)
    loudness: Loudness | None = None

    @property
    def silent(self) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Return which blocks are silent."""
        return np.array(self.powers) < 10 ** (SILENT_DBFS / 10)

    @property
    def duration_s(self) -> float:
        return len(self.powers) * BLOCK_S


class LevelMeter:
    """Measures stereo pieces (2, n) as they are added."""

    def __init__(self, sample_rate_hz: int) -> None:
        self.facts = LevelFacts(sample_rate_hz)
        self._meter = LoudnessMeter(sample_rate_hz)
        self._block = round(BLOCK_S * sample_rate_hz)
        self._left = np.zeros((2, 0), np.float32)

    def add(self, piece: Waveform) -> None:
        """Measure the next samples."""
        self._meter.add(piece)
        samples = np.concatenate([self._left, piece], axis=1)
        whole = samples.shape[1] // self._block
        for index in range(whole):
            self._measure(samples[:, index * self._block : (index + 1) * self._block])
        self._left = samples[:, whole * self._block :]

    def result(self) -> LevelFacts:
        """Return what was measured; nothing can be added afterwards."""
        if self._left.shape[1] > self._block // 4:
            self._measure(self._left)
        self.facts.loudness = self._meter.end()
        return self.facts

    def _measure(self, block: Waveform) -> None:
        self.facts.powers.append(float(np.square(block, dtype=np.float64).mean(axis=1).max()))
        self.facts.clips.append(sum(_clipped_tops(channel) for channel in block))


def _clipped_tops(channel: np.ndarray[tuple[int], np.dtype[np.float32]]) -> int:
    """Return the tops that are cut off: RUN samples at full scale, or flat ones below it."""
    size = np.abs(channel)
    if size.max(initial=0) < TOP:
        return 0
    count = sum(last - first >= RUN for first, last in runs(size >= FULL))
    flat = np.concatenate([[False], (np.abs(np.diff(channel)) < FLAT) & (size[1:] >= TOP)])
    within = [(a, b) for a, b in runs(flat & (size < FULL)) if b - a >= RUN]
    return int(count + sum(size[a:b].max() >= 0.98 * size.max() for a, b in within))


def level_faults(facts: LevelFacts, asked: Asked) -> Iterator[Fault]:
    """Yield the faults of a sound's levels."""
    yield from _silence(facts, asked)
    yield from _clipping(facts)
    yield from _loudness(facts, asked)


def level_measures(facts: LevelFacts) -> dict[str, float | None]:
    """Return what was measured, JSON-ready."""
    found = facts.loudness
    assert found is not None
    return {
        "silent_share": round(float(facts.silent.mean()), 3) if facts.powers else 1.0,
        "clips_per_s": round(_clips_per_s(facts), 2),
        "loudness_lufs": None if found.integrated_lufs is None else round(found.integrated_lufs, 1),
        "loudness_range_lu": None if found.range_lu is None else round(found.range_lu, 1),
        "true_peak_dbtp": None if found.true_peak_dbtp is None else round(found.true_peak_dbtp, 1),
    }


def _silence(facts: LevelFacts, asked: Asked) -> Iterator[Fault]:
    end_s = facts.duration_s
    share = float(facts.silent.mean()) if facts.powers else 1.0
    if asked.silence:
        if share < 1:
            heard = int(np.argmin(facts.silent))
            why = f"sound is heard in {1 - share:.0%} of the time, and silence was asked"
            yield Fault(
                "sound",
                severity_above(1 - share, 0, 1),
                heard * BLOCK_S,
                end_s,
                round(1 - share, 3),
                0.0,
                why,
            )
        return
    if share == 1 and end_s >= SHORTEST_S:
        why = f"the sound is silent: all of it below {SILENT_DBFS:g} dBFS"
        yield Fault("silence", 1.0, 0.0, end_s, 1.0, 1.0, why)
    elif asked.silence is False:
        for first, last in runs(facts.silent):
            gap_s = (last - first) * BLOCK_S
            if gap_s > GAP_S:
                why = f"{gap_s:.1f} s are silent, and sound was asked throughout"
                worst = max(end_s, GAP_S + 1)
                severity = severity_above(gap_s, GAP_S, worst)
                yield Fault("silence", severity, first * BLOCK_S, last * BLOCK_S, round(gap_s, 2), GAP_S, why)


def _clipping(facts: LevelFacts) -> Iterator[Fault]:
    rate = _clips_per_s(facts)
    if rate > CLIPS_PER_S:
        where = np.flatnonzero(facts.clips)
        yield Fault(
            "clipping",
            severity_above(np.log10(rate), np.log10(CLIPS_PER_S), np.log10(WORST_CLIPS_PER_S)),
            float(where[0]) * BLOCK_S,
            float(where[-1] + 1) * BLOCK_S,
            round(rate, 2),
            CLIPS_PER_S,
            f"{sum(facts.clips)} tops of the wave are cut off",
        )


def _clips_per_s(facts: LevelFacts) -> float:
    return sum(facts.clips) / facts.duration_s if facts.powers else 0.0


def _loudness(facts: LevelFacts, asked: Asked) -> Iterator[Fault]:
    found = None if facts.loudness is None else facts.loudness.integrated_lufs
    if asked.loudness_lufs is None or found is None:
        return
    low, high = asked.loudness_lufs
    off = max(low - found, found - high)
    if off > 0:
        gain = (low + high) / 2 - found
        yield Fault(
            "loudness",
            severity_above(off, 0.0, WORST_LU),
            0.0,
            facts.duration_s,
            round(found, 1),
            low if found < low else high,
            f"{found:.1f} LUFS is outside of {low:g} to {high:g}; a gain of {gain:+.1f} dB brings it there",
        )
