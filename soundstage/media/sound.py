"""Samples of a sound file by their times, as stereo.

Channels are brought to two by the model's own rule, see `model/channels.py`; rates that change within a
track become the first one; gaps in its times are silence, as before a sound that begins late.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from soundstage.errors import MediaError
from soundstage.media.arrays import Waveform
from soundstage.media.container import NEAR_START_S, Decoder, TimedFrames, media_errors
from soundstage.media.tracks import tracks
from soundstage.model.channels import stereo_gains

WARM_UP_S = 0.3  # decoded before the first sample that is wanted: codecs carry over from packet to packet
JITTER_S = 0.03  # time stamps of some containers are off by so much
FULL_SCALE = {"uint8": 2**7, "int16": 2**15, "int32": 2**31, "int64": 2**63}


def sound_samples(path: Path, start_s: float, length_s: float | None) -> tuple[Waveform, int]:
    """Return (2, n) samples from start_s on, at most length_s of them, and their rate in Hz.

    Raises MediaError for a file without sound, for one that ends before start_s, and for a stretch of which
    less than half can be decoded.
    """
    samples, rate, _ = _stretch(path, start_s, length_s)
    return samples, rate


def missing_sound_s(path: Path, start_s: float, length_s: float) -> float:
    """Return how many seconds of a stretch cannot be decoded; they are silent. Raises as `sound_samples`."""
    return _stretch(path, start_s, length_s)[2]


def _stretch(path: Path, start_s: float, length_s: float | None) -> tuple[Waveform, int, float]:
    """Return samples, rate, and how many seconds are missing because of damage."""
    found = tracks(path)
    if found.sound is None:
        none = f"{path} holds no sound; give a file that does"
        raise MediaError(found.unread[0] if found.unread else none)
    rate = found.sound.rate_hz
    first, end = round(start_s * rate), round(found.sound_s * rate)
    if length_s is not None:
        end = min(end, first + round(length_s * rate))
    if end <= first:
        raise MediaError(f"{path} lasts {found.sound_s:.4g} s, so nothing is left from {start_s:g} s on")
    decoder = Decoder(path, "audio", joined=found.sound.joined)
    from_s = None if start_s < NEAR_START_S else found.zero_s + start_s - WARM_UP_S
    filled = 0
    with media_errors(path), closing(decoder.frames(from_s)) as frames:
        samples = np.zeros((2, end - first), np.float32)
        for at, piece in _placed(_at_rate(frames, rate), found.zero_s, rate):
            if at >= end:
                break
            left, right = max(at, first), min(at + piece.shape[1], end)
            if left < right:
                samples[:, left - first : right - first] = piece[:, left - at : right - at]
                filled += right - left
    _check_finite(path, samples, start_s, rate)
    begins = max(first, round((found.sound.start_s - found.zero_s) * rate))
    missing = max(0, end - begins - filled) if decoder.num_damaged else 0
    if missing > (end - first) / 2:
        raise MediaError(
            f"{path} is damaged from {start_s:.4g} s on: of {(end - first) / rate:.4g} s only "
            f"{filled / rate:.4g} s can be decoded; give another stretch, or repair the file"
        )
    return samples, rate, missing / rate


def _check_finite(path: Path, samples: Waveform, start_s: float, rate: int) -> None:
    """Raise MediaError for samples that are not numbers, as files of floats may hold."""
    wrong = np.flatnonzero(~np.isfinite(samples).all(axis=0))
    if len(wrong):
        raise MediaError(
            f"{path} holds {len(wrong)} samples that are not numbers (NaN or infinity), the first at "
            f"{start_s + wrong[0] / rate:.4g} s; save the sound again without them"
        )


def _placed(
    pieces: Iterator[tuple[float, Waveform]], zero_s: float, rate: int
) -> Iterator[tuple[int, Waveform]]:
    """Yield pieces (2, n) and where each begins, in samples from time 0."""
    at: int | None = None
    for time_s, piece in pieces:
        stated = round((time_s - zero_s) * rate)
        if at is None or abs(stated - at) > JITTER_S * rate:
            at = stated
        yield at, piece
        at += piece.shape[1]


def _at_rate(frames: TimedFrames, rate: int) -> Iterator[tuple[float, Waveform]]:
    """Yield (seconds, (2, n)) at one rate."""
    resampler: Any = None
    source: tuple[int, str] | None = None
    next_s = 0.0
    for time_s, frame in frames:
        own = (frame.sample_rate, frame.layout.name)
        if resampler is not None and own != source:
            for piece in resampler.resample(None):
                yield next_s, stereo(piece)
            resampler = None
        if frame.sample_rate == rate and not _is_too_wide(frame):
            yield time_s, stereo(frame)
            continue
        if resampler is None:
            resampler, source, next_s = _resampler(frame, rate), own, time_s
        next_s = time_s if frame.sample_rate == rate else next_s
        frame.pts = None
        for piece in resampler.resample(frame):
            yield next_s, stereo(piece)
            next_s += piece.samples / rate
    if resampler is not None:
        for piece in resampler.resample(None):
            yield next_s, stereo(piece)


def _resampler(frame: Any, rate: int) -> Any:
    from av.audio.resampler import AudioResampler

    return AudioResampler(format="flt", layout=frame.layout.name, rate=rate)


def _is_too_wide(frame: Any) -> bool:
    """Return whether PyAV would look for planes beyond the last one: from 8 channels on it crashes there."""
    return bool(frame.format.is_planar and frame.layout.nb_channels >= 8)


def stereo(frame: Any) -> Waveform:
    """Return a decoded frame as (2, n) in [-1, 1]."""
    array = frame.to_ndarray()
    if not frame.format.is_planar:
        array = array.reshape(-1, frame.layout.nb_channels).T
    floats = array.astype(np.float32)
    if array.dtype.kind in "iu":
        middle = 128 if array.dtype.kind == "u" else 0
        floats = (floats - middle) / np.float32(FULL_SCALE[array.dtype.name])
    if len(floats) == 2:
        return np.ascontiguousarray(floats)
    folded: Waveform = np.array(stereo_gains(len(floats)), np.float32) @ floats
    return folded
