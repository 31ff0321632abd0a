"""Find the classes of sound in a clip, and the times at which events begin.

The spectrogram is written as a non-negative sum of spectra of the world's own sounds. The share of each
class over time decides what is heard. The times come from rises of the energy, to a millisecond.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from soundstage.nano.evaluation.backdrop import Floats
from soundstage.nano.world.motion import Motion, SoundEvent
from soundstage.nano.world.scene import VOICES, Scene
from soundstage.nano.world.sound import synthesize
from soundstage.types import OUTPUT_RATE_HZ as RATE
from soundstage.types import VideoShape

WINDOW, HOP = 2048, 480  # samples: bins of 23 Hz, columns of 10 ms
TOP_HZ, LINEAR_HZ, UPPER_BANDS = 12_000, 1_400, 28
SPARE = 1e-4  # floor of the magnitudes, about -80 dBFS
ROUNDS = 60  # of the multiplicative update
SUSTAINED = ("rain", "wind", "hum", "rumble", *VOICES)
EVENTS = ("thud", "click", "chime")
WEIGHTS = (0.0, 0.225, 0.45, 0.725, 1.0)  # of the three sizes, and of two that collide

RISE_STEP = 48  # samples, 1 ms
RISE_SPAN = 10  # steps compared before and after
MIN_RISE_DB = 7.0
QUIET_POWER = 2e-4  # steps are compared above this, about -37 dBFS: drops of rain are no events
APART_S = 0.12  # two events of a kind are at least this far apart
SILENT_DBFS = -50.0
# Level in dB of magnitude at which a class is there, see _presence; midway between the quietest and loudest
# clips of the world with and without it.
PRESENT = {"rain": -46, "wind": -46, "hum": -49, "rumble": -42} | dict.fromkeys(VOICES, -36)
MIN_GAIN = {"thud": 0.04, "click": 0.025, "chime": 0.04}  # magnitude by which an event's class must grow


@dataclass(frozen=True)
class Heard:
    """The contents of a sound."""

    classes: frozenset[str]  # of SUSTAINED and EVENTS
    onsets: tuple[tuple[str, float], ...]  # kind and time of each event


def listen(waveform: Floats) -> Heard:
    """Return the contents of a sound (2, samples) at 48 kHz."""
    columns = spectrogram(waveform)
    shares = _explain(columns)
    onsets = tuple(_onsets(waveform, shares))
    held = {name for name in SUSTAINED if _presence(name, shares[name]) > PRESENT[name]}
    return Heard(frozenset(held | {kind for kind, _ in onsets}), onsets)


def rms_dbfs(waveform: Floats, spans: list[tuple[float, float]]) -> float:
    """Return the level of the louder side over spans of seconds; -120 if they are empty or silent."""
    parts = [waveform[:, max(0, round(a * RATE)) : round(b * RATE)] for a, b in spans]
    sound = np.concatenate([waveform[:, :0], *parts], axis=1)
    if not sound.shape[1]:
        return -120.0
    power = float(np.square(sound, dtype=np.float64).mean(axis=1).max())
    return 10 * float(np.log10(max(power, 1e-12)))


def spectrogram(waveform: Floats) -> Floats:
    """Return the magnitudes (bands, columns) of both sides of (2, samples) together."""
    count = 1 + waveform.shape[1] // HOP
    padded = np.pad(waveform, ((0, 0), (WINDOW // 2, WINDOW // 2 + HOP)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW, axis=1)[:, ::HOP][:, :count]
    spectra = np.fft.rfft(frames * np.hanning(WINDOW).astype(np.float32), axis=-1)
    power = np.square(np.abs(spectra)).sum(axis=0) * (4 / WINDOW**2)
    bands = power[:, : _edges()[-1]] @ _bands()
    return np.sqrt(bands.T + SPARE**2).astype(np.float32)  # type: ignore[no-any-return]


@lru_cache(maxsize=1)
def _edges() -> NDArray[np.int64]:
    """Return the bins at which bands begin: single bins at first, then equal ratios."""
    first, last = LINEAR_HZ * WINDOW // RATE, TOP_HZ * WINDOW // RATE
    upper = np.geomspace(first, last, UPPER_BANDS + 1).round().astype(np.int64)
    return np.concatenate([np.arange(1, first), upper])


@lru_cache(maxsize=1)
def _bands() -> Floats:
    edges = _edges()
    matrix = np.zeros((edges[-1], len(edges) - 1), dtype=np.float32)
    for band, (low, high) in enumerate(pairwise(edges)):
        matrix[low:high, band] = 1
    return matrix


def _explain(columns: Floats) -> dict[str, Floats]:
    """Return the magnitude of each class per column: non-negative factors by Kullback-Leibler distance.

    Source: the multiplicative update of Lee and Seung (2001), with the spectra held fixed.
    """
    names, atoms = _atoms()
    use = np.full((atoms.shape[1], columns.shape[1]), columns.mean() / atoms.shape[1], dtype=np.float32)
    total = atoms.sum(axis=0)[:, None]
    for _ in range(ROUNDS):
        use *= (atoms.T @ (columns / (atoms @ use + 1e-9))) / total
    energy = use * np.sqrt(np.square(atoms).sum(axis=0))[:, None]
    kinds = np.array(names)
    return {name: energy[kinds == name].sum(axis=0) for name in (*SUSTAINED, *EVENTS)}


@lru_cache(maxsize=1)
def _atoms() -> tuple[tuple[str, ...], Floats]:
    """Return the class of each spectrum, and the spectra (bands, atoms), each of unit sum."""
    names, spectra = [], []
    for name, columns in _examples():
        names += [name] * columns.shape[1]
        spectra.append(columns)
    matrix = np.concatenate([*spectra, np.ones((spectra[0].shape[0], 1), dtype=np.float32)], axis=1)
    return (*names, "other"), (matrix / matrix.sum(axis=0)).astype(np.float32)


def _examples() -> Iterator[tuple[str, Floats]]:
    """Yield classes with spectra (bands, n) of the world's own sounds."""
    for ambience in ("rain", "wind", "hum"):
        for seed in range(3):
            yield ambience, _means(_sounded(seed=seed, ambience=ambience), 4)
    for voice in VOICES:
        for seed in range(4):
            columns = _sounded(seed=seed, voice=voice)
            loud = columns[:, columns.sum(axis=0) > 0.5 * np.median(columns.sum(axis=0))]
            yield voice, loud[:, ::8]
    for weight in WEIGHTS:
        yield "rumble", _means(_sounded(SoundEvent(0.0, "rumble", 0, 0.0, weight, 2.0)), 3)
        for kind in EVENTS:
            at = round(1.0 * RATE / HOP)
            columns = _sounded(SoundEvent(1.0, kind, 0, 0.0, weight))[:, at : at + 12]
            yield kind, columns[:, (1, 3, 6, 10)] if kind != "click" else columns[:, (0, 2, 3)]


def _sounded(
    *events: SoundEvent, seed: int = 0, ambience: str = "silence", voice: str | None = None
) -> Floats:
    shape = VideoShape(49, 128, 192)
    scene = Scene(seed, shape, "fog", "static", (), ambience=ambience, voice=voice)
    still = np.zeros(shape.num_frames, dtype=np.float32)
    return spectrogram(
        synthesize(scene, Motion(still, [], np.zeros((len(still), 3), np.float32), list(events)))
    )


def _means(columns: Floats, count: int) -> Floats:
    """Return the means of consecutive stretches, without the ends."""
    stretches = np.array_split(columns[:, 8:-8], count, axis=1)
    return np.stack([s.mean(axis=1) for s in stretches], axis=1)


def _presence(name: str, share: Floats) -> float:
    """Return a class's level in dB: of the median column if it is steady, of the upper quartile if not."""
    part = 0.5 if name in ("rain", "wind", "hum") else 0.75
    return 20 * float(np.log10(np.quantile(share, part) + 1e-6))


def _onsets(waveform: Floats, shares: dict[str, Floats]) -> list[tuple[str, float]]:
    """Return the kind and time of each event, in order; of two of a kind too near each other, the sharper."""
    found: list[tuple[str, float]] = []
    for time_s in _rises(waveform):
        kind = _kind_at(time_s, shares)
        if kind and not any(kind == other and abs(time_s - at) < APART_S for other, at in found):
            found.append((kind, time_s))
    return sorted(found, key=lambda event: event[1])


def _rises(waveform: Floats) -> list[float]:
    """Return the times in seconds at which the energy of some band jumps, the sharpest first."""
    power = _fine_power(waveform)
    before = np.stack([power[:, i : i + power.shape[1] - 2 * RISE_SPAN] for i in range(RISE_SPAN)]).mean(
        axis=0
    )
    after = np.stack(
        [power[:, i : i + power.shape[1] - 2 * RISE_SPAN] for i in range(RISE_SPAN, 2 * RISE_SPAN)]
    ).mean(axis=0)
    rise = (10 * np.log10((after + QUIET_POWER) / (before + QUIET_POWER))).max(axis=0)
    rise[..., -2 * RISE_SPAN :] = 0  # the end of the clip
    found: list[int] = []
    order = np.argsort(-rise)
    for at in order[rise[order] > MIN_RISE_DB]:
        if all(abs(at - other) > 40 for other in found):
            found.append(int(at))
    return [at * RISE_STEP / RATE for at in found]


def _fine_power(waveform: Floats) -> Floats:
    """Return the power (3, steps) per millisecond below 500 Hz, to 2 kHz and above.

    RISE_SPAN silent steps are put before and after.
    """
    length = waveform.shape[1]
    spectrum = np.fft.rfft(waveform, axis=1)
    hz = np.fft.rfftfreq(length, 1 / RATE)
    rows = []
    for low, high in ((40, 500), (500, 2000), (2000, 12000)):
        band = np.fft.irfft(spectrum * ((hz >= low) & (hz < high)), length, axis=1)
        steps = band[:, : length // RISE_STEP * RISE_STEP].reshape(2, -1, RISE_STEP)
        rows.append(np.square(steps).mean(axis=-1).sum(axis=0))
    return np.pad(np.stack(rows), ((0, 0), (RISE_SPAN, RISE_SPAN))).astype(np.float32)


def _kind_at(time_s: float, shares: dict[str, Floats]) -> str | None:
    """Return the event whose share grows most at a time, if it grows more than any sustained class."""
    at = round(time_s * RATE / HOP)
    gain = {}
    for name, share in shares.items():
        before = share[max(0, at - 6) : max(0, at - 2)]
        gain[name] = float(share[at : at + 5].mean() - (before.mean() if len(before) else 0.0))
    kind = max(gain, key=lambda name: gain[name])
    return kind if kind in EVENTS and gain[kind] > MIN_GAIN[kind] else None
