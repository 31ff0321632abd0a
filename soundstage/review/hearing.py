"""Measure what tells speech, music and steady tones from noise, in a few seconds of sound, without a model.

Speech: syllables (the energy of the middle bands swells three to seven times a second), voiced by a throat
(one pulse rate with many harmonics) through a mouth that changes (formants move). Music: partials that hold
their pitch, and pitches that change by notes. A tone: partials that hold throughout.

Sources of the measures: modulation energy at 4 Hz (Scheirer and Slaney, 1997), harmonicity by
autocorrelation (Boersma, 1993), tracks of spectral peaks (McAulay and Quatieri, 1986).
"""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from soundstage.review.picture import Numbers

HOP_S, WINDOW_S = 0.01, 0.064  # of the spectra
TOP_HZ = 5000.0
PEAK_DB = 8.0  # above the median around
AROUND_HZ = 140.0  # to each side of a peak
QUIET_DB = -45.0  # below the loudest peak
FAINT_DB = -25.0  # below the loudest peak: no note begins there
LEAST_HZ = 60.0
STEADY_S, SUSTAINED_S = 0.11, 0.3  # for which a partial holds its pitch
NOTE_S = 0.06  # within which partials begin together
HELD, HELD_DB = 0.75, 3.0  # share of the time in which a tone's partial is there; deviation of its level
SPEECH_HZ = (300.0, 3400.0)
NUM_BANDS = 18
SYLLABLES_HZ, ENVELOPE_HZ = (2.5, 7.5), (0.6, 20.0)
PITCH_HZ = (75.0, 400.0)
VOICED = 0.5  # of the highest possible autocorrelation
PITCH_RATE_HZ = 12_000  # of the samples in which a pitch is looked for


@dataclass(frozen=True)
class SoundTraits:
    """All from 0 to 1 unless said.

    syllables: share of the modulation of the middle bands that is as fast as syllables. depth: how deep it
    is, as the deviation over the mean. voiced: share of the loud time in which there is a pitch. formants:
    change of the spectrum's form while voiced, in dB. steady: share of the energy in partials that hold their
    pitch for STEADY_S. notes: how many begin a second. variety: entropy of their pitches, in bits. sustained,
    long_notes, long_variety: the same for partials that hold it for SUSTAINED_S. held: share in partials that
    hold pitch and level throughout.
    """

    syllables: float
    depth: float
    voiced: float
    formants: float
    steady: float
    notes: float
    variety: float
    sustained: float
    long_notes: float
    long_variety: float
    held: float


@dataclass(frozen=True)
class _Partials:
    steady: float
    notes: float
    variety: float
    sustained: float
    long_notes: float
    long_variety: float
    held: float


def hear(sound: Numbers, rate_hz: int) -> SoundTraits:
    """Return the measures of a mono sound (n,) of one second or more."""
    power, hz = spectra(sound, rate_hz)
    voiced, formants = _voice(sound, rate_hz, power, hz)
    syllables, depth = _modulation(power, hz)
    return SoundTraits(syllables, depth, voiced, formants, **asdict(_partials(power, hz)))


def spectra(sound: Numbers, rate_hz: int) -> tuple[Numbers, Numbers]:
    """Return the power (T, F) of short stretches, up to TOP_HZ, and the frequencies (F,)."""
    window, hop = round(WINDOW_S * rate_hz), max(1, round(HOP_S * rate_hz))
    padded = np.pad(sound, (0, max(0, window - len(sound))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]
    hz = np.fft.rfftfreq(window, 1 / rate_hz)
    kept = hz <= TOP_HZ
    spectrum = np.fft.rfft(frames * np.hanning(window), axis=1)[:, kept]
    power: Numbers = np.square(np.abs(spectrum)) / window**2 + 1e-12
    return power, np.asarray(hz[kept], np.float64)


def _modulation(power: Numbers, hz: Numbers) -> tuple[float, float]:
    """Return the share of the modulation of speech's bands that is as fast as syllables, and its depth."""
    edges = np.geomspace(*SPEECH_HZ, NUM_BANDS + 1)
    firsts = np.searchsorted(hz, edges)
    bands = np.stack([power[:, a : max(b, a + 1)].sum(axis=1) for a, b in itertools.pairwise(firsts)])
    loud = np.sqrt(bands)  # amplitude
    mean = loud.mean(axis=1, keepdims=True)
    weights = mean[:, 0] ** 2 / np.sum(mean**2)
    envelope = loud / (mean + 1e-9) - 1
    spectrum = np.square(np.abs(np.fft.rfft(envelope * np.hanning(envelope.shape[1]), axis=1)))
    rates = np.fft.rfftfreq(envelope.shape[1], HOP_S)
    within = (rates >= SYLLABLES_HZ[0]) & (rates <= SYLLABLES_HZ[1])
    whole = (rates >= ENVELOPE_HZ[0]) & (rates <= ENVELOPE_HZ[1])
    share = spectrum[:, within].sum(axis=1) / (spectrum[:, whole].sum(axis=1) + 1e-12)
    return float(weights @ share), float(weights @ envelope.std(axis=1))


def _voice(sound: Numbers, rate_hz: int, power: Numbers, hz: Numbers) -> tuple[float, float]:
    """Return the share of the loud time that has a pitch, and how much the spectrum's form changes then."""
    loud = power.sum(axis=1)
    heard = loud > 0.03 * np.quantile(loud, 0.95)
    strength = _harmonicity(sound, rate_hz, len(power))
    voiced = heard & (strength > VOICED)
    share = float(voiced.sum() / max(1, heard.sum()))
    if voiced.sum() < 8:
        return share, 0.0
    edges = np.searchsorted(hz, np.geomspace(250, 4000, 13))
    forms = np.stack([power[voiced, a : max(b, a + 1)].mean(axis=1) for a, b in itertools.pairwise(edges)])
    levels = 10 * np.log10(forms + 1e-4 * forms.max(axis=0))
    levels -= levels.mean(axis=0)
    return share, float(levels.std(axis=1).mean())


def _harmonicity(sound: Numbers, rate_hz: int, count: int) -> Numbers:
    """Return for each stretch the highest autocorrelation at a pitch of a voice, from 0 to 1."""
    step = max(1, rate_hz // PITCH_RATE_HZ)
    length = len(sound) // step * step
    slow = sound[:length].reshape(-1, step).mean(axis=1)
    rate = rate_hz / step
    window, hop = round(0.04 * rate), HOP_S * rate
    starts = np.minimum((np.arange(count) * hop).astype(int), max(0, len(slow) - window))
    if len(slow) < window:
        return np.zeros(count)
    shape = np.hanning(window)
    frames = np.lib.stride_tricks.sliding_window_view(slow, window)[starts] * shape
    size = 2 * window
    own = np.fft.irfft(np.square(np.abs(np.fft.rfft(frames, size, axis=1))), size, axis=1)
    of_window = np.fft.irfft(np.square(np.abs(np.fft.rfft(shape, size))), size)
    low, high = int(rate / PITCH_HZ[1]), min(window - 1, int(rate / PITCH_HZ[0]))
    ratio = own[:, low:high] / (own[:, :1] + 1e-12) / (of_window[low:high] / of_window[0])
    best: Numbers = np.clip(ratio.max(axis=1), 0, 1)
    return best


def _partials(power: Numbers, hz: Numbers) -> _Partials:
    """Return what the peaks of the spectra tell that last."""
    levels = 10 * np.log10(power)
    near, peaks = _peaks(levels, hz)
    runs = _run_lengths(near)
    inner = np.pad(levels, ((0, 0), (1, 1)), mode="edge")
    around = np.maximum(np.maximum(inner[:, :-2], inner[:, 2:]), levels)
    held = near & (near.mean(axis=0) > HELD) & (around.std(axis=0) < HELD_DB)
    energy = power.sum() + 1e-12
    found: list[float] = []
    for least_s in (STEADY_S, SUSTAINED_S):
        steady = near & (runs >= least_s / HOP_S) & ~held
        begins = steady & peaks & ~np.pad(steady, ((1, 0), (0, 0)))[:-1]
        begins[0] = False  # these may have begun long before
        found += [float(power[steady].sum() / energy), *_notes(begins, levels, hz)]
    steady_share, notes, variety, sustained, long_notes, long_variety = found
    throughout = float(power[held].sum() / energy)
    return _Partials(steady_share, notes, variety, sustained, long_notes, long_variety, throughout)


def _peaks(levels: Numbers, hz: Numbers) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return where a peak or a neighbour of one is, and the peaks alone."""
    reach = max(2, round(AROUND_HZ / (hz[1] - hz[0])))
    padded = np.pad(levels, ((0, 0), (reach, reach)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1, axis=1)[:, :, ::3]
    inner = np.pad(levels, ((0, 0), (1, 1)), constant_values=-np.inf)
    top = (levels >= inner[:, :-2]) & (levels >= inner[:, 2:])
    peaks = top & (levels - np.median(windows, axis=2) > PEAK_DB) & (levels > levels.max() + QUIET_DB)
    peaks &= hz > LEAST_HZ
    near = peaks.copy()
    near[:, 1:] |= peaks[:, :-1]
    near[:, :-1] |= peaks[:, 1:]
    return near, peaks


def _notes(begins: NDArray[np.bool_], levels: Numbers, hz: Numbers) -> tuple[float, float]:
    """Return how many notes begin a second, and the variety of their pitches in bits.

    What begins within NOTE_S is one note, whose pitch is that of the strongest partial.
    """
    times, bins = np.nonzero(begins & (levels > levels.max() + FAINT_DB))
    block = round(NOTE_S / HOP_S)
    pitches, last = [], -block
    for start in np.unique(times):
        if start - last < block:
            continue
        within = (times >= start) & (times < start + block)
        strongest = bins[within][np.argmax(levels[times[within], bins[within]])]
        pitches.append(round(12 * np.log2(hz[strongest] / LEAST_HZ)))
        last = start
    _, counts = np.unique(pitches, return_counts=True)
    shares = counts / max(1, len(pitches))
    return len(pitches) / (len(levels) * HOP_S), float(-(shares * np.log2(shares)).sum())


def _run_lengths(flags: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return for each true value how many follow each other in its column (axis 0) there."""
    count = np.zeros(flags.shape, np.int64)
    for forward in (True, False):
        run = np.zeros(flags.shape[1], np.int64)
        for row in range(len(flags)) if forward else range(len(flags) - 1, -1, -1):
            run = (run + 1) * flags[row]
            count[row] += run
    return np.maximum(0, count - 1)
