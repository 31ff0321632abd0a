"""Loudness of a sound by EBU R128, measured piece by piece by FFmpeg's ebur128 filter."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from soundstage.media.arrays import Waveform

RANGE_S = 10  # a shorter sound has no range to speak of
GATE_LUFS = -69.9  # the measure states -70 where nothing is louder than its absolute gate


@dataclass(frozen=True)
class Loudness:
    """Integrated loudness in LUFS; None for silence. range_lu: loudness range; None below 10 s too.

    true_peak_dbtp: highest level between the samples, over both channels; None for silence.
    """

    integrated_lufs: float | None
    range_lu: float | None
    true_peak_dbtp: float | None

    @classmethod
    def of(cls, blocks: Iterable[Waveform], sample_rate_hz: int) -> Loudness:
        """Measure a sound, (2, n) blocks in [-1, 1] one after the other."""
        meter = LoudnessMeter(sample_rate_hz)
        for block in blocks:
            meter.add(block)
        return meter.end()


class LoudnessMeter:
    """Measures a sound while it passes by."""

    def __init__(self, sample_rate_hz: int) -> None:
        import av

        self._rate, self._at, self._told = sample_rate_hz, 0, dict[str, str]()
        self._graph = av.filter.Graph()
        self._source = self._graph.add_abuffer(
            format="flt", sample_rate=sample_rate_hz, layout="stereo", time_base=Fraction(1, sample_rate_hz)
        )
        meter = self._graph.add("ebur128", "metadata=1:peak=true:framelog=quiet")
        self._sink = self._graph.add("abuffersink")
        self._source.link_to(meter)
        meter.link_to(self._sink)
        self._graph.configure()

    def add(self, block: Waveform) -> None:
        """Measure the next samples, (2, n)."""
        import av

        if not block.shape[1]:
            return
        interleaved = np.ascontiguousarray(block.T.reshape(1, -1), dtype=np.float32)
        frame = av.AudioFrame.from_ndarray(interleaved, format="flt", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = self._rate, self._at, Fraction(1, self._rate)
        self._at += block.shape[1]
        self._source.push(frame)
        self._pull()

    def end(self) -> Loudness:
        """Return what was measured."""
        if self._at:
            # The measure speaks every 0.1 s: silence to the next time changes neither sum nor peak.
            self._pad()
            self._source.push(None)
            self._pull()
        told = self._told
        integrated = float(told.get("lavfi.r128.I", "nan"))
        peak = float(told.get("lavfi.r128.true_peak", "0"))
        heard = math.isfinite(integrated) and integrated > GATE_LUFS
        return Loudness(
            integrated if heard else None,
            float(told.get("lavfi.r128.LRA", "0")) if heard and self._at >= RANGE_S * self._rate else None,
            20 * math.log10(peak) if peak > 0 else None,
        )

    def _pad(self) -> None:
        step = self._rate // 10
        self.add(np.zeros((2, -self._at % step), np.float32))

    def _pull(self) -> None:
        import av

        while True:
            try:
                frame: Any = self._sink.pull()
            except (av.BlockingIOError, av.EOFError):
                return
            self._told.update(frame.metadata)
