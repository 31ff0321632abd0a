"""Bring the mix of a film to a loudness: measured, gained, limited, and measured again."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

import numpy as np

from soundstage.editing.limiter import limited
from soundstage.errors import MediaError
from soundstage.media.arrays import Waveform
from soundstage.media.loudness import Loudness, LoudnessMeter

NEAR_LU = 0.1  # of the target that need not be bettered
PASSES = 4  # in which a gain is found where the limiter takes loudness away
MAX_GAIN_DB = 30.0  # what is quieter is noise


@dataclass(frozen=True)
class MixLevel:
    """The loudness of a mix. gain_db: before the limiter. before, after: measured, without coding."""

    gain_db: float
    before: Loudness
    after: Loudness


class StoredMix:
    """The mix of a film in a temporary file, so that it can be read again; memory holds a second of it."""

    def __init__(self, rate: int) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile(prefix="soundstage-mix-")  # noqa: SIM115
        self._rate = rate
        self.gain_db, self.peak_dbtp = 0.0, 0.0

    def close(self) -> None:
        self._file.close()

    def store(self, blocks: Iterable[Waveform]) -> Loudness:
        """Keep blocks (2, n), and return how loud they are together."""
        meter = LoudnessMeter(self._rate)
        try:
            for block in blocks:
                meter.add(block)
                self._file.write(np.ascontiguousarray(block.T, np.float32).tobytes())
            self._file.flush()
        except OSError as error:
            raise MediaError(
                f"the mix cannot be kept in {tempfile.gettempdir()} ({error.strerror or error}); make room "
                "there, or set TMPDIR"
            ) from error
        return meter.end()

    def blocks(self) -> Iterator[Waveform]:
        """Yield what was stored, a second at a time."""
        self._file.seek(0)
        while data := self._file.read(self._rate * 8):
            yield np.ascontiguousarray(np.frombuffer(data, np.float32).reshape(-1, 2).T)

    def levelled(self) -> Iterator[Waveform]:
        """Yield it with its gain, and limited."""
        return limited(self.blocks(), self.gain_db, self.peak_dbtp, self._rate)

    def level(self, before: Loudness, target_lufs: float | None, peak_dbtp: float) -> MixLevel:
        """Find the gain that brings the limited mix to a loudness. target_lufs: None leaves it as it is."""
        self.peak_dbtp = peak_dbtp
        if target_lufs is None or before.integrated_lufs is None:
            return MixLevel(0.0, before, Loudness.of(self.levelled(), self._rate))
        self.gain_db = min(target_lufs - before.integrated_lufs, MAX_GAIN_DB)
        for _ in range(PASSES):
            after = Loudness.of(self.levelled(), self._rate)
            missing = target_lufs - (after.integrated_lufs or target_lufs)
            if abs(missing) <= NEAR_LU or self.gain_db + missing > MAX_GAIN_DB:
                break
            self.gain_db += missing
        else:
            after = Loudness.of(self.levelled(), self._rate)
        return MixLevel(self.gain_db, before, after)


@contextmanager
def stored_mix(rate: int) -> Iterator[StoredMix]:
    """Yield a place for a mix, which is removed after the block."""
    kept = StoredMix(rate)
    try:
        yield kept
    finally:
        kept.close()
