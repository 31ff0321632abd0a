"""Lower music while somebody speaks: known times and measured levels, and a gain that is down in time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from soundstage.editing.sound import GainCurve
from soundstage.editing.timeline import Caption, Music
from soundstage.media.arrays import Waveform

HOPS_PER_S = 100
ATTACK = 25  # hops before the first word in which music goes down
HOLD = 30  # hops after a word in which it stays down, so that it does not pump between words
RELEASE = 60  # hops in which it comes up again, straight in dB

Active = NDArray[np.bool_]  # (hops,)


def activity(block: Waveform, rate: int, threshold_dbfs: float) -> Active:
    """Return whether each hundredth of a second of a block (2, n) is louder than a level (RMS)."""
    hop = rate // HOPS_PER_S
    filled = np.pad(block, ((0, 0), (0, -block.shape[1] % hop)))
    power = np.square(filled).mean(axis=0).reshape(-1, hop).mean(axis=1)
    loud: Active = power > 10 ** (threshold_dbfs / 10)
    return loud


def captioned(captions: Sequence[Caption], start_s: float, count: int) -> Active:
    """Return whether a line is spoken in each of `count` hundredths of a second from a time on."""
    found = np.zeros(count, bool)
    for caption in captions:
        first = round((caption.start_s - start_s) * HOPS_PER_S)
        end = round((caption.end_s - start_s) * HOPS_PER_S)
        found[max(0, first) : max(0, end)] = True
    return found


class Ducking:
    """The gains of a piece of music, second by second in their order."""

    def __init__(self, music: Music, rate: int) -> None:
        self._duck_db, self._rate = music.duck_db, rate
        self.under_sound = music.duck_under == "sound"
        self._past = np.zeros(HOLD + RELEASE, np.float32)

    def gains(self, now: GainCurve, following: GainCurve, count: int) -> GainCurve:
        """Return `count` gains. now, following: 1 in the hops of this and the next second that lower it."""
        if not self._duck_db:
            return np.ones(count, np.float32)
        ahead = np.zeros(ATTACK, np.float32)
        known = min(ATTACK, len(following))
        ahead[:known] = following[:known]
        hops = np.concatenate([self._past, now, ahead])
        down = np.zeros(len(now) + 1, np.float32)  # at the edges of hops
        first = len(self._past)  # index of the hop after the first edge
        edges = np.arange(len(down))
        for lag in range(HOLD + RELEASE):  # since it was loud
            share = 1 - max(0, lag - HOLD) / RELEASE
            down = np.maximum(down, hops[first + edges - 1 - lag] * share)
        for lead in range(ATTACK):  # until it is loud
            down = np.maximum(
                down, hops[np.minimum(first + edges + lead, len(hops) - 1)] * (1 - lead / ATTACK)
            )
        self._past = np.concatenate([self._past, now])[-len(self._past) :]
        at = np.arange(count) * HOPS_PER_S / self._rate
        lowered = np.interp(at, edges, down) * self._duck_db
        return np.asarray(10 ** (-lowered / 20), np.float32)
