"""Tell by which of the world's voices a sound is spoken, and when its syllables begin.

A voice is known by the levels of the multiples of 100 Hz, which all pitches of the world are. They are
compared with those of each voice: as the world makes it, or, where there is sound between them too, as it is
after nano's audio VAE and vocoder (CODED), which add some of the multiples that a pitch does not have.

    python -m soundstage.nano.evaluation.voices     # prints CODED for the installed weights
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from soundstage.nano.evaluation.backdrop import Floats
from soundstage.nano.world.sound import SYLLABLE_S, TONE_STEP_HZ, VOWELS, Voice, speech
from soundstage.nano.world.speakers import VOICES
from soundstage.types import OUTPUT_RATE_HZ as RATE

MULTIPLES = 10  # of TONE_STEP_HZ that are compared
WINDOW = 9600  # samples: bins of 5 Hz
FLOOR_DB = -30.0  # under the strongest multiple, for less
CLEAN_DB = -33.0
SILENT_RMS = 0.004  # of a window; those that are quieter say nothing of a voice
# Levels in dB of the multiples of 100 Hz of VOICES after nano's codecs, under the strongest.
CODED = (
    (-4, -3, -2, 0, -7, -2, -7, -9, -12, -16),
    (-6, 0, -6, 0, -9, -3, -6, -5, -8, -14),
    (-3, 0, -1, -1, -8, -2, -8, -6, -3, -17),
    (-10, -2, -7, 0, -5, -2, -8, -5, -11, -13),
    (-15, 0, -8, -1, -9, -3, -12, -2, -7, -13),
    (-8, 0, -6, -1, -6, -1, -10, -3, -6, -15),
    (-22, -16, -2, -18, -22, 0, -24, -26, -6, -28),
    (-22, -16, -2, -19, -21, 0, -30, -27, -5, -28),
    (-23, -27, -1, -26, -28, 0, -26, -28, -2, -30),
)


@dataclass(frozen=True)
class Profile:
    """Levels that tell one voice from another.

    levels: (MULTIPLES,) in dB under the strongest multiple. clean: there is next to nothing between the
    multiples, as in the world's own sounds.
    """

    levels: Floats
    clean: bool


def voice_heard(waveform: Floats) -> Voice | None:
    """Return the voice of VOICES that a sound (2, n) at 48 kHz is most like; None where it is silent."""
    own = profile(waveform)
    if own is None:
        return None
    known = world_levels() if own.clean else np.array(CODED, dtype=np.float32)
    return VOICES[int(np.argmin(np.square(known - own.levels).mean(axis=1)))]


def profile(waveform: Floats) -> Profile | None:
    """Return the profile of a sound (2, n) at 48 kHz; None where it is silent."""
    power = _power(waveform)
    if power is None:
        return None
    lines, between = _lines(power), _lines(power, 0.5)
    levels = np.maximum(_db(lines / lines.max()), FLOOR_DB)
    return Profile(levels, bool(_db(between.max() / lines.max()) < CLEAN_DB))


def _power(waveform: Floats) -> Floats | None:
    """Return the power in bins of 5 Hz of a sound's loud windows together; None where it is silent."""
    mono = waveform.mean(axis=0)
    starts = range(0, max(1, len(mono) - WINDOW + 1), WINDOW // 4)
    windows = [mono[start : start + WINDOW] for start in starts]
    loud = [w for w in windows if len(w) == WINDOW and float(np.sqrt(np.mean(w**2))) > SILENT_RMS]
    if not loud:
        return None
    power: Floats = np.square(np.abs(np.fft.rfft(np.stack(loud) * np.hanning(WINDOW), axis=1))).sum(axis=0)
    return power


def _lines(power: Floats, offset: float = 0.0) -> Floats:
    """Return the power around the first MULTIPLES multiples of 100 Hz, all moved by a share of 100 Hz."""
    step = round(TONE_STEP_HZ * WINDOW / RATE)
    at = [round((k + offset) * step) for k in range(1, MULTIPLES + 1)]
    return np.array([power[a - 1 : a + 2].max() for a in at], dtype=np.float32)


def _db(share: Floats) -> Floats:
    levels: Floats = (10 * np.log10(share + 1e-9)).astype(np.float32)
    return levels


@lru_cache(maxsize=1)
def world_levels() -> Floats:
    """Return the levels (voices, MULTIPLES) of VOICES as the world makes them."""
    found = [profile(every_vowel(voice)) for voice in VOICES]
    return np.stack([one.levels for one in found if one is not None])


def every_vowel(voice: Voice) -> Floats:
    """Return a voice that says all vowels, (2, n)."""
    syllables = [(0.1 + 0.25 * number, vowel) for number, vowel in enumerate(VOWELS)]
    return np.asarray(speech(voice, syllables, round(1.5 * RATE)), dtype=np.float32)


def syllable_starts(waveform: Floats) -> list[float]:
    """Return the times in seconds at which syllables begin in a sound of speech alone, (2, n) at 48 kHz.

    They are where the loudness rises past half of what is usual in the loud parts of the sound.
    """
    step = RATE // 100
    mono = np.square(waveform.mean(axis=0, dtype=np.float64))
    loud = np.sqrt(mono[: len(mono) // step * step].reshape(-1, step).mean(axis=1))
    smooth = np.convolve(np.pad(loud, 1, mode="edge"), np.ones(3) / 3, mode="valid")
    limit = 0.5 * float(np.quantile(smooth, 0.9))
    if limit < SILENT_RMS:
        return []
    above = smooth > limit
    rises = np.flatnonzero(above & ~np.concatenate([[False], above[:-1]]))
    starts: list[float] = []
    for at in rises:
        if not starts or at / 100 - starts[-1] > SYLLABLE_S / 2:
            starts.append(float(at / 100))
    return starts


def _coded_profiles() -> list[list[int]]:
    """Return CODED for the installed weights."""
    import torch

    from soundstage.dataset.encoding import encoder_parts
    from soundstage.engine import load

    parts = encoder_parts(load("nano"))
    rows = []
    for voice in VOICES:
        with torch.no_grad():
            latents = parts.encode_audio(torch.from_numpy(every_vowel(voice))[None], RATE)
            coded = profile(parts.decode_audio(latents)[0].float().numpy())
        assert coded is not None
        rows.append([round(float(level)) for level in coded.levels])
    return rows


if __name__ == "__main__":
    for row in _coded_profiles():
        print(f"    {tuple(row)},")
