"""Make labelled sounds for the detectors of a review: speech-like syllables, music, tones, noises, mixtures.

All is synthesized from a seed, as (n,) float64 at 48 kHz. Voices are pulses through moving formants with
consonants of noise and pauses; music is notes in a scale, chords, arpeggios, bass and drums; the rest are
noises of weather, engines, steps and blows. nano's own sounds come from its world.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from soundstage.nano.world.motion import Motion, SoundEvent
from soundstage.nano.world.scene import VOICES, Scene
from soundstage.nano.world.sound import synthesize
from soundstage.types import OUTPUT_RATE_HZ as RATE
from soundstage.types import VideoShape

Sound = NDArray[np.float64]
Random = np.random.Generator

# F1, F2, F3 of vowels in Hz (averages of adult voices).
VOWELS = ((730, 1090, 2440), (530, 1840, 2480), (270, 2290, 3010), (570, 840, 2410), (300, 870, 2240))
BANDWIDTHS = (80, 100, 140)
SCALE = (0, 2, 4, 5, 7, 9, 11)  # semitones of a major scale


@dataclass(frozen=True)
class Labelled:
    """A sound and what it holds: speech, music, tone, or nothing of these. name: its kind."""

    name: str
    sound: Sound
    holds: frozenset[str]


def _band(rng: Random, length: int, low_hz: float, high_hz: float, slope: float = 0.0) -> Sound:
    """Return noise between two frequencies with a slope of power in dB an octave, of unit RMS."""
    spectrum = np.fft.rfft(rng.standard_normal(length))
    hz = np.maximum(np.fft.rfftfreq(length, 1 / RATE), 1.0)
    spectrum *= ((hz >= low_hz) & (hz <= high_hz)) * (hz / 1000) ** (slope / 6.02)
    sound = np.fft.irfft(spectrum, length)
    return sound / np.sqrt(np.mean(sound**2))  # type: ignore[no-any-return]


def _resonated(source: Sound, formants: Sound) -> Sound:
    """Return a source through formants (n, 3) in Hz that move: by blocks of 10 ms, added with overlap."""
    block = RATE // 100
    window = np.hanning(2 * block)
    out = np.zeros(len(source) + 2 * block)
    hz = np.fft.rfftfreq(4 * block, 1 / RATE)
    for start in range(0, len(source) - 2 * block, block):
        part = np.fft.rfft(source[start : start + 2 * block] * window, 4 * block)
        mouth = np.zeros(len(hz), complex)
        for centre, width, gain in zip(formants[start], BANDWIDTHS, (1.0, 0.6, 0.3), strict=True):
            mouth += gain * width * centre / (centre**2 - hz**2 + 1j * width * hz)
        shaped = np.fft.irfft(part * mouth)
        end = min(start + 4 * block, len(out))
        out[start:end] += shaped[: end - start]
    return out[: len(source)]


def speech(rng: Random, seconds: float) -> Sound:
    """Return a voice that speaks without words: three to six syllables a second, in phrases."""
    length = round(seconds * RATE)
    base = rng.uniform(85, 250)
    shift = 0.9 + 0.25 * (base > 160)
    rate = rng.uniform(3.2, 5.5)
    gates, pitch = np.zeros(length), np.full(length, base)
    formants, hiss = np.zeros((length, 3)), np.zeros(length)
    formants[:] = 500, 1500, 2500
    at, phrase_end = rng.uniform(0, 0.3), rng.uniform(0.9, 2.0)
    while at < seconds:
        lasts = rng.uniform(0.6, 1.1) / rate
        a, b = round(at * RATE), min(length, round((at + lasts) * RATE))
        if b - a < RATE // 25:
            break
        n, consonant = b - a, round(rng.uniform(0.02, 0.09) * RATE)
        ramp = np.linspace(0, 1, n)
        glide = base * 2 ** (rng.normal(0, 2.5) / 12 + rng.normal(0, 2) / 12 * ramp)
        pitch[a:b] = glide
        first, last = (np.array(VOWELS[rng.integers(5)]) * shift for _ in range(2))
        formants[a:b] = first + (last - first) * ramp[:, None]
        gates[a + consonant : b] = np.sin(np.pi * np.linspace(0, 1, max(0, b - a - consonant))) ** 0.5
        if rng.random() < 0.6:
            c = min(consonant, n)
            hiss[a : a + c] = _band(rng, c, rng.uniform(1500, 4000), 9000)[:c] * np.hanning(c) * 0.25
        at += lasts + rng.uniform(0.0, 0.05)
        if at > phrase_end:
            at += rng.uniform(0.15, 0.5)
            phrase_end = at + rng.uniform(0.9, 2.0)
    jitter = np.repeat(rng.normal(0, 0.006, length // 400 + 1), 400)[:length]
    phase = np.cumsum(pitch * (1 + jitter)) / RATE
    pulses = np.diff(np.floor(phase), prepend=0.0) + 0.002 * rng.standard_normal(length)
    voiced = _resonated(pulses * gates, formants)
    return _levelled(voiced / (np.abs(voiced).max() + 1e-9) + hiss)


def _note(rng: Random, semitones: float, seconds: float, timbre: int, decays: bool) -> Sound:
    t = np.arange(round(seconds * RATE)) / RATE
    hz = 220.0 * 2 ** (semitones / 12)
    gains = [1 / k ** (1.0 + 0.4 * timbre) * (1 if timbre != 2 or k % 2 else 0.1) for k in range(1, 9)]
    sound = sum(
        g
        * np.sin(2 * np.pi * hz * k * t + rng.uniform(0, 6))
        * (np.exp(-t * (1.5 + 0.7 * k)) if decays else 1)
        for k, g in enumerate(gains, 1)
        if hz * k < 12_000
    )
    edge = np.minimum(1, np.minimum(t / 0.008, (seconds - t) / 0.03).clip(0))
    note: Sound = np.asarray(sound) * edge
    return note


def _placed(length: int, notes: list[tuple[float, Sound]]) -> Sound:
    out = np.zeros(length)
    for at_s, sound in notes:
        a = round(at_s * RATE)
        part = sound[: max(0, length - a)]
        out[a : a + len(part)] += part
    return out


def _in_scale(degree: int) -> int:
    return 12 * (degree // 7) + SCALE[degree % 7]


def melody(rng: Random, seconds: float) -> Sound:
    """Return single notes of a scale, two to six a second."""
    beat, timbre, key = 1 / rng.uniform(2, 6), int(rng.integers(3)), int(rng.integers(-5, 12))
    decays, notes, at, degree = rng.random() < 0.6, [], 0.0, int(rng.integers(0, 8))
    while at < seconds:
        lasts = beat * rng.choice([1, 1, 2])
        degree = int(np.clip(degree + rng.integers(-3, 4), -4, 12))
        sounding = lasts * 0.95 if not decays else lasts + 0.3
        notes.append((at, _note(rng, key + _in_scale(degree), sounding, timbre, decays)))
        at += lasts
    return _levelled(_placed(round(seconds * RATE), notes))


def chords(rng: Random, seconds: float) -> Sound:
    """Return chords of three or four notes that change after half a second to two."""
    lasts, timbre, key = rng.uniform(0.5, 2.0), int(rng.integers(3)), int(rng.integers(-9, 6))
    decays = rng.random() < 0.4
    notes, at = [], 0.0
    while at < seconds:
        root = int(rng.choice([0, 3, 4, 5, 1]))
        for third in range(int(rng.integers(3, 5))):
            tone = key + _in_scale(root + 2 * third)
            notes.append((at, _note(rng, tone, lasts + 0.05, timbre, decays)))
        at += lasts
    return _levelled(_placed(round(seconds * RATE), notes))


def band(rng: Random, seconds: float) -> Sound:
    """Return drums, a bass and a melody or chords."""
    beat = 60 / rng.uniform(85, 140)
    kick_t = np.arange(RATE // 5) / RATE
    kick = np.sin(2 * np.pi * (50 * kick_t + 4 * (1 - np.exp(-kick_t * 30)))) * np.exp(-kick_t * 18)
    hat = _band(rng, RATE // 20, 6000, 12_000) * np.exp(-np.arange(RATE // 20) / RATE * 80) * 0.25
    snare = _band(rng, RATE // 6, 200, 6000) * np.exp(-np.arange(RATE // 6) / RATE * 25) * 0.4
    hits: list[tuple[float, Sound]] = []
    for i in range(int(seconds / beat) + 1):
        hits += [(i * beat, kick if i % 2 == 0 else snare), (i * beat, hat), ((i + 0.5) * beat, hat)]
        hits.append((i * beat, _note(rng, -24 + _in_scale(int(rng.choice([0, 3, 4]))), beat * 0.9, 1, True)))
    drums = _placed(round(seconds * RATE), hits)
    lead = (melody if rng.random() < 0.5 else chords)(rng, seconds)
    return _levelled(0.5 * _levelled(drums) + lead)


def steady_tone(rng: Random, seconds: float) -> Sound:
    """Return a beep that lasts, a mains hum, or two tones of a telephone."""
    t = np.arange(round(seconds * RATE)) / RATE
    kind = rng.integers(3)
    if kind == 0:
        return _levelled(np.sin(2 * np.pi * rng.uniform(250, 3000) * t))
    if kind == 1:
        base = rng.choice([50, 60]) * 2
        return _levelled(np.asarray(sum(np.sin(2 * np.pi * base * k * t + k) / k for k in range(1, 7))))
    return _levelled(np.sin(2 * np.pi * 350 * t) + np.sin(2 * np.pi * 440 * t))


# --- noises -------------------------------------------------------------------------------------------


def coloured_noise(rng: Random, seconds: float) -> Sound:
    return _levelled(_band(rng, round(seconds * RATE), 30, 16_000, rng.choice([0, -3, -6])))


def rain(rng: Random, seconds: float) -> Sound:
    length = round(seconds * RATE)
    t = np.arange(RATE // 30) / RATE
    drops = [
        (at, rng.uniform(0.3, 2) * np.sin(2 * np.pi * rng.uniform(1500, 5000) * t) * np.exp(-t * 180))
        for at in rng.uniform(0, seconds, round(seconds * rng.uniform(8, 30)))
    ]
    return _levelled(_band(rng, length, 1500, 9000) + _placed(length, drops))


def wind(rng: Random, seconds: float) -> Sound:
    length = round(seconds * RATE)
    t = np.arange(length) / RATE
    swell = 1 + 0.6 * np.sin(2 * np.pi * rng.uniform(0.2, 0.8) * t) + 0.3 * np.sin(2 * np.pi * 1.3 * t + 1)
    return _levelled(_band(rng, length, 80, rng.uniform(500, 1200), -3) * np.maximum(swell, 0.1))


def engine(rng: Random, seconds: float) -> Sound:
    """Return a motor: firing pulses whose rate wavers, through a body, and noise."""
    length = round(seconds * RATE)
    t = np.arange(length) / RATE
    rate = rng.uniform(22, 60) * (1 + 0.03 * np.sin(2 * np.pi * rng.uniform(0.2, 1.5) * t))
    phase = np.cumsum(rate * (1 + np.repeat(rng.normal(0, 0.03, length // 1200 + 1), 1200)[:length])) / RATE
    pulses = np.diff(np.floor(phase), prepend=0.0)
    body = np.fft.irfft(np.fft.rfft(pulses) / (1 + (np.fft.rfftfreq(length, 1 / RATE) / 180) ** 2), length)
    return _levelled(_levelled(body) + 0.5 * _levelled(_band(rng, length, 60, 2500, -4)))


def steps(rng: Random, seconds: float) -> Sound:
    """Return footsteps or blows, one to three a second, over faint noise."""
    length, every = round(seconds * RATE), 1 / rng.uniform(1.0, 3.0)
    n = RATE // 6
    blows = []
    for i in range(int(seconds / every) + 1):
        low = _band(rng, n, 50, 400) + 0.4 * _band(rng, n, 400, 4000)
        blows.append((i * every + abs(rng.normal(0, 0.02)), low * np.exp(-np.arange(n) / RATE * 40)))
    return _levelled(_placed(length, blows) + 0.02 * _band(rng, length, 100, 5000))


def _of_world(rng: Random, seconds: float, ambience: str, voice: str | None, events: str | None) -> Sound:
    shape = VideoShape(max(9, int(seconds * 3) * 8 + 1), 128, 192)
    scene = Scene(int(rng.integers(1 << 30)), shape, "fog", "static", (), ambience=ambience, voice=voice)
    times = np.arange(0.3, scene.duration_s - 0.2, rng.uniform(0.4, 1.0)) if events else ()
    weight = float(rng.uniform(0, 1))
    happen = [SoundEvent(float(at), events or "", 0, 0.0, weight) for at in times]
    still = np.zeros(shape.num_frames, np.float32)
    sound = synthesize(scene, Motion(still, [], np.zeros((len(still), 3), np.float32), happen))
    return _levelled(sound.mean(axis=0).astype(np.float64)[: round(seconds * RATE)])


def _levelled(sound: Sound, rms: float = 0.1) -> Sound:
    return sound * (rms / (np.sqrt(np.mean(sound**2)) + 1e-12))  # type: ignore[no-any-return]


Maker = Callable[[Random, float], Sound]


def _world(ambience: str, voice: str | None = None, events: str | None = None) -> Maker:
    return partial(_of_world, ambience=ambience, voice=voice, events=events)


SPEECH: dict[str, Maker] = {
    "speech": speech,
    **{f"nano voice, {v}": _world("silence", v) for v in VOICES},
}
MUSIC: dict[str, Maker] = {"melody": melody, "chords": chords, "band": band}
TONE: dict[str, Maker] = {
    "steady tone": steady_tone,
    "nano hum": _world("hum"),
}
NOISE: dict[str, Maker] = {
    "noise": coloured_noise,
    "rain": rain,
    "wind": wind,
    "engine": engine,
    "steps": steps,
    "nano rain": _world("rain"),
    "nano wind": _world("wind"),
    **{f"nano {e}s": _world("silence", None, e) for e in ("thud", "click", "chime")},
}
ALONE = (("speech", SPEECH), ("music", MUSIC), ("tone", TONE), ("", NOISE))
SNR_DB = (20, 10, 5)


def labelled_sounds(count: int, seed: int, seconds: float = 4.0) -> list[Labelled]:
    """Return `count` sounds of each kind, alone and mixed: with noise, and speech with music."""
    made = []
    for number in range(count):
        for label, makers in ALONE:
            for name, maker in makers.items():
                rng = np.random.default_rng([seed, number, *name.encode()])
                sound = maker(rng, seconds)
                made.append(Labelled(name, sound, frozenset({label} - {""})))
                if label in ("speech", "music"):
                    snr = SNR_DB[number % len(SNR_DB)]
                    noise = list(NOISE.values())[int(rng.integers(5))](rng, seconds)
                    mixed = sound + _levelled(noise, 0.1 * 10 ** (-snr / 20))[: len(sound)]
                    made.append(Labelled(f"{name} + noise {snr} dB", mixed, frozenset({label})))
        rng = np.random.default_rng([seed, number, 77])
        both = speech(rng, seconds) + 0.4 * list(MUSIC.values())[number % 3](rng, seconds)
        made.append(Labelled("speech + music -8 dB", _levelled(both), frozenset({"speech", "music"})))
    return made
