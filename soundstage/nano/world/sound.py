"""Synthesize the sound of a scene: events when they are seen, over an ambience and perhaps a voice.

Every source is computed once per size and kept, so that a clip costs little more than sums of arrays. Sizes
set pitch (large is low), places set pan. Noise comes from one fixed table: two rains differ in their drops,
not in every sample, which a codec with few weights can learn.

The sound is made for a vocoder that reads 100 frames a second. Tones are multiples of 100 Hz: a frame has no
phase, and a tone is steady only if every frame begins at the same one. Sounds begin with a frame, at most
5 ms from the picture's event, so that a thud has the same frames every time.

Levels: an event peaks between -9 and -6 dBFS, ambience is about -34 dBFS RMS, the sum stays below PEAK.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from soundstage.nano.world.motion import Array, Motion, SoundEvent
from soundstage.nano.world.scene import Scene
from soundstage.types import MEL_HOP, MEL_RATE_HZ
from soundstage.types import OUTPUT_RATE_HZ as RATE

PEAK = 0.9
EVENT_PEAK = 0.5  # of the mono source: -9 dBFS on each side from the centre, -6 from one side alone
AMBIENCE_RMS = 0.02  # -34 dBFS
VOICE_PEAK = 0.28
RUMBLE_RMS = 0.05

TONE_STEP_HZ = float(MEL_RATE_HZ / MEL_HOP)
FRAME = MEL_HOP * RATE // MEL_RATE_HZ  # samples of a frame of the vocoder

RISE_S = 0.001  # of every event: shorter clicks in the loudspeaker, longer blurs the onset
FALL_S = 0.02  # at the end of every sound, down to digital zero

DROPS_PER_S = 14.0
HOWL_HZ = (600.0, 700.0, 800.0)
FIRST_SYLLABLE_S = 0.2
SYLLABLE_S = 0.19
SYLLABLE_GAP_S = 0.06


@dataclass(frozen=True)
class Voice:
    """A speaker: the throat's pitch in Hz, and a factor on the formants of VOWELS, small in a large mouth."""

    pitch_hz: float
    mouth: float


VOICE_SOUNDS = {"deep": Voice(100.0, 0.85), "warm": Voice(200.0, 1.0), "bright": Voice(300.0, 1.2)}
# vowel -> formants as (Hz, bandwidth in Hz, gain)
VOWELS = {
    "a": ((750.0, 90.0, 1.0), (1200.0, 110.0, 0.6), (2600.0, 160.0, 0.25)),
    "e": ((500.0, 80.0, 1.0), (1850.0, 120.0, 0.5), (2550.0, 160.0, 0.25)),
    "i": ((290.0, 60.0, 1.0), (2250.0, 130.0, 0.5), (3000.0, 180.0, 0.3)),
    "o": ((480.0, 80.0, 1.0), (850.0, 90.0, 0.7), (2500.0, 160.0, 0.12)),
    "u": ((320.0, 60.0, 1.0), (700.0, 90.0, 0.5), (2300.0, 160.0, 0.08)),
}


def num_samples(scene: Scene) -> int:
    """Return the number of samples of a scene's sound at 48 kHz."""
    return round(scene.duration_s * RATE)


def synthesize(scene: Scene, motion: Motion) -> Array:
    """Return stereo sound (2, samples) at 48 kHz in [-0.9, 0.9], float32; the same on every call.

    Silent samples are zero.
    """
    length = num_samples(scene)
    out = np.zeros((2, length), dtype=np.float32)
    if scene.ambience != "silence":
        out += _ambience(scene.ambience, scene.seed, length)
    if scene.voice is not None:
        _add_voice(out, scene.voice, scene.seed)
    for event in motion.events:
        _add(out, _event_sound(event), event.time_s, event.x)
    result: Array = np.clip(out, -PEAK, PEAK)
    return result


def _add(out: Array, sound: Array, time_s: float, x: float) -> None:
    """Mix mono `sound` in from the frame nearest to time_s, at x from -1 (left) to 1 (right).

    The power is the same at every x.
    """
    start = round(time_s * RATE / FRAME) * FRAME
    sound = sound[: max(0, out.shape[1] - start)]
    angle = (x + 1) * np.pi / 4
    end = start + len(sound)
    out[0, start:end] += np.float32(np.cos(angle)) * sound
    out[1, start:end] += np.float32(np.sin(angle)) * sound


def _event_sound(event: SoundEvent) -> Array:
    if event.kind == "rumble":
        return _rumble(event.weight, event.length_s)
    return {"thud": _thud, "click": _click, "chime": _chime}[event.kind](event.weight)


def _between(small: float, large: float, weight: float) -> float:
    """Return a value from `small` at weight 0 to `large` at weight 1, in equal ratios, as pitch is heard."""
    return float(small * (large / small) ** weight)


def _tone(hz: float) -> float:
    """Return the nearest pitch that repeats with the vocoder's frames."""
    return TONE_STEP_HZ * max(1, round(hz / TONE_STEP_HZ))


def _seconds(duration_s: float) -> NDArray[np.float64]:
    return np.arange(round(duration_s * RATE)) / RATE


def _finish(sound: NDArray[np.float64], peak: float) -> Array:
    """Round off both ends and scale to a peak."""
    rise, fall = round(RISE_S * RATE), round(FALL_S * RATE)
    sound = sound.copy()
    sound[:rise] *= np.arange(1, rise + 1) / rise
    sound[-fall:] *= np.arange(fall, 0, -1) / fall - 1 / fall
    result: Array = (sound * (peak / np.abs(sound).max())).astype(np.float32)
    return result


@lru_cache(maxsize=1)
def _noise() -> NDArray[np.float64]:
    """Return one second of white noise that loops, of unit variance."""
    return np.random.default_rng(1).standard_normal(RATE)


@lru_cache(maxsize=64)
def _band(low_hz: float, high_hz: float) -> NDArray[np.float64]:
    """Return one second of looping noise between two frequencies: skirts of 36 dB an octave, unit RMS."""
    spectrum = np.fft.rfft(_noise())
    hz = np.maximum(np.fft.rfftfreq(RATE, 1 / RATE), 1e-3)
    skirts = 1 / np.sqrt((1 + (low_hz / hz) ** 12) * (1 + (hz / high_hz) ** 12))
    band = np.fft.irfft(spectrum * skirts)
    return band / np.sqrt(np.mean(band**2))  # type: ignore[no-any-return]


@lru_cache(maxsize=64)
def _thud(weight: float) -> Array:
    """Return a thud: a body, an octave above it that dies sooner, and the slap of contact."""
    t = _seconds(0.5)
    hz = _tone(_between(300.0, 90.0, weight))
    dying = np.exp(-t / _between(0.05, 0.085, weight))
    body = np.sin(2 * np.pi * hz * t + 0.5) * dying + 0.3 * np.sin(4 * np.pi * hz * t) * dying**2
    slap = _band(300.0, _between(5000.0, 2500.0, weight))[: len(t)] * np.exp(-t / 0.006)
    return _finish(body + 0.25 * slap, EVENT_PEAK)


@lru_cache(maxsize=64)
def _click(weight: float) -> Array:
    """Return a click of two hard things: high partials of a few hundredths of a second."""
    t = _seconds(0.15)
    hz = _between(3200.0, 1500.0, weight)
    ring = sum(
        gain * np.sin(2 * np.pi * _tone(hz * ratio) * t + ratio) * np.exp(-t * ratio / 0.018)
        for ratio, gain in ((1.0, 1.0), (1.47, 0.6), (2.09, 0.4))
    )
    snap = _band(2000.0, 9000.0)[: len(t)] * np.exp(-t / 0.003)
    return _finish(ring + 0.3 * snap, EVENT_PEAK)


@lru_cache(maxsize=64)
def _chime(weight: float) -> Array:
    """Return a small bell: inharmonic partials, of which the high ones die first."""
    t = _seconds(0.9)
    hz = _between(1300.0, 620.0, weight)
    bell = sum(
        gain * np.sin(2 * np.pi * _tone(hz * ratio) * t + ratio) * np.exp(-t * ratio**0.7 / 0.22)
        for ratio, gain in ((1.0, 1.0), (2.76, 0.55), (5.4, 0.3))
    )
    return _finish(np.asarray(bell), EVENT_PEAK)


@lru_cache(maxsize=64)
def _rumble(weight: float, length_s: float) -> Array:
    """Return the sound of rolling: low noise that swells a few times a second."""
    t = _seconds(max(length_s, 2 * FALL_S))
    centre = _between(260.0, 110.0, weight)
    swell = 1 + 0.25 * np.sin(2 * np.pi * _between(7.0, 4.0, weight) * t)
    sound = np.resize(_band(0.6 * centre, 1.6 * centre), len(t)) * swell * RUMBLE_RMS
    return _finish(sound, float(np.abs(sound).max()))


def _ambience(kind: str, seed: int, length: int) -> Array:
    """Return an ambience (samples,) in mono, through the whole clip."""
    if kind == "rain":
        return _rain(seed, length)
    bed = np.resize(_bed(kind), length)
    return bed.astype(np.float32)


@lru_cache(maxsize=3)
def _bed(kind: str) -> Array:
    """Return a few looping seconds of a steady ambience."""
    t = _seconds(4.0)
    if kind == "hum":
        partials = ((100.0, 1.0), (200.0, 0.7), (300.0, 0.45))
        sound = np.asarray(sum(gain * np.sin(2 * np.pi * hz * t) for hz, gain in partials))
    elif kind == "wind":
        sound = _howl(t)
    else:
        sound = np.resize(_band(2500.0, 7000.0), len(t))
    bed: Array = (sound * (AMBIENCE_RMS / np.sqrt(np.mean(sound**2)))).astype(np.float32)
    return bed


def _howl(t: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return wind in a gap: a tone that glides up and down as it swells, and a little noise."""
    swell = 1 + 0.5 * np.sin(2 * np.pi * 0.5 * t) + 0.2 * np.sin(2 * np.pi * 1.25 * t)
    height = 1 + np.sin(2 * np.pi * 0.25 * t)  # of the tone among those of HOWL_HZ
    tones = sum(
        np.clip(1 - np.abs(height - i), 0, 1) * np.sin(2 * np.pi * hz * t) for i, hz in enumerate(HOWL_HZ)
    )
    result: NDArray[np.float64] = swell * (np.asarray(tones) + 0.2 * np.resize(_band(150.0, 700.0), len(t)))
    return result


def _rain(seed: int, length: int) -> Array:
    """Return rain: an even hiss and single drops, whose times and pitches the seed draws."""
    rng = np.random.default_rng([seed, 3])
    out = 0.8 * np.resize(_bed("rain"), length)
    count = int(rng.poisson(DROPS_PER_S * length / RATE))
    starts = rng.integers(0, length, count) // FRAME * FRAME
    for start, which in zip(starts, rng.integers(0, 4, count), strict=True):
        drop = _drop(int(which))[: length - start]
        out[start : start + len(drop)] += drop
    return out.astype(np.float32)


@lru_cache(maxsize=4)
def _drop(which: int) -> Array:
    t = _seconds(0.03)
    return _finish(np.sin(2 * np.pi * _tone(1800.0 + 700.0 * which) * t) * np.exp(-t / 0.006), 0.06)


def _add_voice(out: Array, voice: str, seed: int) -> None:
    """Add four syllables a second from FIRST_SYLLABLE_S to the end, with vowels drawn by the seed."""
    rng = np.random.default_rng([seed, 4])
    vowels = list(VOWELS)
    start = FIRST_SYLLABLE_S
    while start < out.shape[1] / RATE:
        _add(out, _syllable(VOICE_SOUNDS[voice], vowels[int(rng.integers(len(vowels)))]), start, 0.0)
        start += SYLLABLE_S + SYLLABLE_GAP_S


def speech(voice: Voice, syllables: Sequence[tuple[float, str]], length: int) -> Array:
    """Return stereo sound (2, length) at 48 kHz of a voice that says syllables.

    syllables: the time in seconds and the vowel, a key of VOWELS, of each; each lasts SYLLABLE_S.
    """
    out = np.zeros((2, length), dtype=np.float32)
    for time_s, vowel in syllables:
        _add(out, _syllable(voice, vowel), time_s, 0.0)
    return out


@lru_cache(maxsize=64)
def _syllable(voice: Voice, vowel: str) -> Array:
    """Return a syllable: pulses of a throat through the resonances of a mouth."""
    t = _seconds(SYLLABLE_S)
    pulses = np.diff(np.floor(voice.pitch_hz * t + 1e-9), prepend=-1.0)
    spectrum = np.fft.rfft(pulses, 2 * len(t))
    at = np.fft.rfftfreq(2 * len(t), 1 / RATE)
    mouth = np.zeros_like(spectrum)
    for centre, width, gain in VOWELS[vowel]:
        peak = centre * voice.mouth
        mouth += gain * width * peak / (peak**2 - at**2 + 1j * width * at)
    sound = np.fft.irfft(spectrum * mouth)[: len(t)]
    envelope = np.minimum(1, t / 0.02) * np.minimum(1, (SYLLABLE_S - t) / 0.05)
    return _finish(sound * envelope, VOICE_PEAK)
