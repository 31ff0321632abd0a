"""Input sound: channels, resampling to 16 kHz, log-mel pictures for the audio VAE.

waveform (B, C, N) in [-1, 1] -> stereo -> 16 kHz -> log-mel (B, 2, M, 64), M = 1 + N // 160, in float32.
Nothing is normalised in loudness. All values are those of the LTX-2.3 audio front end; numbers are held by
tests/parity/test_mel.py.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from soundstage.errors import MediaError
from soundstage.model.channels import stereo_gains
from soundstage.model.precision import with_exact_products
from soundstage.types import MEL_BINS, MEL_HOP, MEL_RATE_HZ

FFT_LENGTH = 1024
MIN_SAMPLES = FFT_LENGTH // 2 + 1  # the reflected margin must be shorter than the sound
LOG_FLOOR = 1e-5

SINC_ZEROS = 6  # zero crossings on each side of the resampling kernel
SINC_ROLLOFF = 0.99  # cutoff as a share of the lower Nyquist frequency


def to_stereo(waveform: Tensor) -> Tensor:
    """Return (B, 2, N) of (B, C, N) by the rule of `model/channels.py`, in which the model was trained."""
    channels = waveform.shape[1]
    if channels == 2:
        return waveform
    return torch.tensor(stereo_gains(channels)).to(waveform) @ waveform


@with_exact_products
def resample(
    waveform: Tensor, from_hz: int, to_hz: int, *, edges: Literal["constant", "replicate"] = "constant"
) -> Tensor:
    """Resample (..., N) to (..., ceil(N * to_hz / from_hz)) by a Hann-windowed sinc.

    edges: the samples beyond both ends, zeros ("constant") or the outermost sample ("replicate").
    Source: docs/model/audio.md, "Resampling".
    """
    if from_hz == to_hz:
        return waveform
    shared = math.gcd(from_hz, to_hz)
    step, phases = from_hz // shared, to_hz // shared
    kernel = _kernel_on(step, phases, waveform.dtype, waveform.device)
    margin = (kernel.shape[-1] - step) // 2
    rows = F.pad(waveform.reshape(-1, 1, waveform.shape[-1]), (margin, margin + step), mode=edges)
    frames = F.conv1d(rows, kernel, stride=step)  # (rows, phases, frames)
    length = -(-phases * waveform.shape[-1] // step)
    return frames.transpose(1, 2).flatten(1)[:, :length].reshape(*waveform.shape[:-1], length)


@lru_cache(maxsize=16)
def _kernel_on(step: int, phases: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return `_sinc_kernel` on a device, copied there once."""
    with torch.inference_mode(False):
        return _sinc_kernel(step, phases).to(device=device, dtype=dtype)


def _sinc_kernel(step: int, phases: int) -> Tensor:
    """Return one filter per output phase, (phases, 1, step + 2 * margin), in float32."""
    cutoff = SINC_ROLLOFF * min(step, phases)
    margin = math.ceil(SINC_ZEROS * step / cutoff)
    taps = torch.arange(-margin, margin + step, dtype=torch.float64) / step
    offsets = torch.arange(phases, dtype=torch.float64)[:, None] / phases
    t = (cutoff * (taps - offsets)).clamp(-SINC_ZEROS, SINC_ZEROS)
    window = torch.cos(math.pi * t / (2 * SINC_ZEROS)).square()
    return (torch.sinc(t) * window * cutoff / step).float().unsqueeze(1)


def mel_filters(num_bins: int, num_freqs: int, nyquist_hz: float) -> Tensor:
    """Return triangular bands on the Slaney mel scale, each of unit area: (num_freqs, num_bins).

    In float32 throughout: the reference's rounding of the band edges is part of what the model has seen.
    """
    freqs = torch.linspace(0, nyquist_hz, num_freqs)
    edges = _mel_to_hz(torch.linspace(0, _hz_to_mel(nyquist_hz), num_bins + 2))
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    rising = (freqs[:, None] - low) / (centre - low)
    falling = (high - freqs[:, None]) / (high - centre)
    return torch.minimum(rising, falling).clamp(min=0) * 2 / (high - low)


# The Slaney scale: linear to 1 kHz at 15 mel, then logarithmic.
_BREAK_HZ = 1000.0
_BREAK_MEL = 15.0
_LOG_STEP = math.log(6.4) / 27


def _hz_to_mel(hz: float) -> float:
    if hz < _BREAK_HZ:
        return hz * _BREAK_MEL / _BREAK_HZ
    return _BREAK_MEL + math.log(hz / _BREAK_HZ) / _LOG_STEP


def _mel_to_hz(mel: Tensor) -> Tensor:
    linear = mel * _BREAK_HZ / _BREAK_MEL
    return torch.where(mel < _BREAK_MEL, linear, _BREAK_HZ * torch.exp(_LOG_STEP * (mel - _BREAK_MEL)))


@with_exact_products
def log_mel(waveform: Tensor) -> Tensor:
    """Return natural-log mel magnitudes (B, 2, 1 + N // 160, 64), float32, of sound (B, 2, N) at 16 kHz.

    The floor is ln(1e-5) = -11.51. Raises MediaError for fewer than 513 samples.
    """
    batch, channels, samples = waveform.shape
    if samples < MIN_SAMPLES:
        raise MediaError(
            f"the sound has {samples} samples at {MEL_RATE_HZ} Hz; the encoder needs at least {MIN_SAMPLES}: "
            "pad it with silence"
        )
    window = torch.hann_window(FFT_LENGTH, device=waveform.device)
    spectrum = torch.stft(
        waveform.float().reshape(batch * channels, samples),
        FFT_LENGTH,
        MEL_HOP,
        window=window,
        center=True,
        pad_mode="reflect",
        return_complex=True,
    )
    bands = mel_filters(MEL_BINS, FFT_LENGTH // 2 + 1, MEL_RATE_HZ / 2).to(spectrum.device)
    mel = spectrum.abs().transpose(1, 2) @ bands
    return mel.clamp(min=LOG_FLOOR).log().view(batch, channels, -1, MEL_BINS)
