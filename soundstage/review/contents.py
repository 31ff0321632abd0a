"""Tell speech, music and steady tones in a sound, window after window, and check them against what was asked.

The limits were set on synthesized sound (benchmarks/review_sounds.py); docs/review.md says how often they are
right there, and on what they were not tried.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from soundstage.media.arrays import Waveform
from soundstage.review.hearing import SoundTraits, hear
from soundstage.review.picture import Numbers
from soundstage.review.record import Asked, Fault

WINDOW_S, HOP_S, LEAST_S = 4.0, 2.0, 1.0
SILENT_POWER = 1e-6  # -60 dBFS
THERE = 0.5  # score from which on something is heard
KINDS = ("speech", "music", "tone")
# Limits of the measures of `SoundTraits`. Where all of a row are met, the score is THERE.
SPEECH = {"syllables": 0.39, "depth": 0.5, "voiced": 0.3, "formants": 2.7}
DEEPEST = 2.0  # of speech; single blows go deeper
MUSIC = {"steady": 0.25, "notes": 0.6, "variety": 0.9}
MUSIC_BESIDE_SPEECH = {"sustained": 0.03, "long_notes": 0.55, "long_variety": 1.1}
TONE = {"held": 0.25}


@dataclass
class ContentFacts:
    """windows: (start, end) in seconds, and the score of each kind in it; from THERE on it is heard."""

    windows: list[tuple[float, float, dict[str, float]]] = field(default_factory=list)

    def share(self, kind: str) -> float:
        """Return the share of the windows in which a kind is heard."""
        there = sum(scores[kind] >= THERE for *_, scores in self.windows)
        return there / len(self.windows) if self.windows else 0.0

    def best(self, kind: str) -> float:
        """Return the highest score of a kind."""
        return max((scores[kind] for *_, scores in self.windows), default=0.0)


class Ear:
    """Listens to stereo pieces (2, n) as they are added; at most a window of them is held."""

    def __init__(self, sample_rate_hz: int) -> None:
        self.facts = ContentFacts()
        self._rate = sample_rate_hz
        self._held = np.zeros(0)
        self._start = self._new = 0  # of what is held, and how much of it no window had yet

    def add(self, piece: Waveform) -> None:
        """Listen to the next samples."""
        window, hop = (round(seconds * self._rate) for seconds in (WINDOW_S, HOP_S))
        mono = piece.mean(axis=0, dtype=np.float64)
        self._held, self._new = np.concatenate([self._held, mono]), self._new + len(mono)
        while len(self._held) >= window:
            self._listen(self._held[:window])
            self._held, self._start = self._held[hop:], self._start + hop
            self._new = len(self._held) - (window - hop)

    def result(self) -> ContentFacts:
        """Return what was heard; nothing can be added afterwards."""
        rest = LEAST_S if not self.facts.windows else HOP_S / 2
        if self._new >= rest * self._rate:
            self._listen(self._held)
        return self.facts

    def _listen(self, sound: Numbers) -> None:
        silent = float(np.mean(np.square(sound))) < SILENT_POWER
        scores = dict.fromkeys(KINDS, 0.0) if silent else scored(hear(sound, self._rate))
        start_s = self._start / self._rate
        self.facts.windows.append((start_s, start_s + len(sound) / self._rate, scores))


def scored(heard: SoundTraits) -> dict[str, float]:
    """Return the score of each kind: how far the least of its measures reaches, THERE at its limit."""
    speech = min(_reach(heard, SPEECH), THERE * DEEPEST / max(heard.depth, THERE * DEEPEST))
    alone = _reach(heard, MUSIC) if speech < THERE else 0.0  # voices have short notes too
    return {
        "speech": round(speech, 3),
        "music": round(max(alone, _reach(heard, MUSIC_BESIDE_SPEECH)), 3),
        "tone": round(_reach(heard, TONE), 3),
    }


def _reach(heard: SoundTraits, limits: dict[str, float]) -> float:
    least = min(getattr(heard, name) / limit for name, limit in limits.items())
    return min(1.0, max(0.0, THERE * float(least)))


def content_faults(facts: ContentFacts, asked: Asked) -> Iterator[Fault]:
    """Yield a fault for what is heard against the wish, and for what was asked and is not heard."""
    if not facts.windows:
        return
    end_s = facts.windows[-1][1]
    for kind in KINDS:
        wish: bool | None = getattr(asked, kind)
        share, best = facts.share(kind), facts.best(kind)
        if wish is False and share:
            there = [(a, b) for a, b, scores in facts.windows if scores[kind] >= THERE]
            why = f"{kind} is heard in {share:.0%} of the time, and none was asked"
            yield Fault(kind, round(max(share, 0.05), 3), there[0][0], there[-1][1], best, THERE, why)
        elif wish and not share:
            why = f"{kind} was asked, and none is heard (score {best:.2f} of {THERE:g})"
            yield Fault(f"no-{kind}", round(max(0.05, 1 - best / THERE), 3), 0.0, end_s, best, THERE, why)


def content_measures(facts: ContentFacts) -> dict[str, float]:
    """Return the highest score of each kind, and the share of the time in which it is heard."""
    return {kind: round(facts.best(kind), 2) for kind in KINDS} | {
        f"{kind}_share": round(facts.share(kind), 2) for kind in KINDS
    }
