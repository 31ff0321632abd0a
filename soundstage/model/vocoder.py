"""Vocoder: stereo log-mel (B, 2, M, 64) -> sound (B, 2, 480 M) at 48 kHz in [-1, 1].

A base generator makes 16 kHz sound. Bandwidth extension makes the higher frequencies with a second generator,
from the log-mel of that sound, and adds them to it at 48 kHz. Checkpoint names are the attribute
names (`vocoder.resblocks.0.acts1.0.upsample.filter`, `mel_stft.mel_basis`, ...).

The vocoder runs in float32, whatever its weights were stored in: over a hundred convolutions in series lose
40 to 90 % on spectral measures in bfloat16.

Source: docs/model/audio.md, "Vocoder"; numbers held by tests/parity/test_vocoder.py.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soundstage.errors import WeightsError
from soundstage.model.config import GeneratorConfig, VocoderConfig
from soundstage.model.mel import LOG_FLOOR, mel_filters, resample
from soundstage.model.precision import with_exact_products
from soundstage.types import MEL_BINS

# Computed where the numbers are, even in a module built on the meta device: there they would be placeholders,
# and torch would import its compiler to make them, 0.8 s of every start.
ON_CPU = torch.device("cpu")

FILTER_TAPS = 12
SNAKE_EPS = 1e-9
# Samples filtered by one row of a matrix product; measured on one CPU core, 16 beats 32 and 64.
FILTER_BLOCK = 16


def kaiser_sinc_filter() -> Tensor:
    """Return the low-pass of an activation at twice the rate, (1, 1, 12).

    12 taps, cutoff 1/4, transition 0.3, sum 1."""
    half_width = 0.3
    attenuation = 2.285 * (FILTER_TAPS // 2 - 1) * math.pi * 4 * half_width + 7.95
    beta = 0.1102 * (attenuation - 8.7)
    window = torch.kaiser_window(FILTER_TAPS, periodic=False, beta=beta, dtype=torch.float64)
    taps = window * torch.sinc(0.5 * (torch.arange(FILTER_TAPS, dtype=torch.float64) - 5.5))
    return (taps / taps.sum()).float().view(1, 1, -1)


class Filter(nn.Module):
    """Hold the filter that the checkpoint stores with every activation, always the same."""

    filter: Tensor

    def __init__(self) -> None:
        super().__init__()
        with ON_CPU:
            self.register_buffer("filter", kaiser_sinc_filter())


class SnakeBeta(nn.Module):
    """Apply x + sin^2(a x) / b per channel; the logarithms of a and b are stored."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        frequency = self.alpha.exp()[:, None]
        root_gain = (self.beta.exp() + SNAKE_EPS).rsqrt()[:, None]
        wave = (x * frequency).sin_().mul_(root_gain)
        return torch.addcmul(x, wave, wave)


class Activation(nn.Module):
    """Apply SnakeBeta at twice the sampling rate, so that its harmonics do not fold back; (B, C, L) stays.

    Both resamplings share one 12-tap filter across channels. A depthwise convolution does one multiply-add
    per load; a product with a banded matrix over blocks of samples does more arithmetic and is 2 to 3 times
    faster on a CPU when channels are few. The numbers are the same.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.act = SnakeBeta(channels)
        self.upsample = Filter()
        self.downsample = nn.ModuleDict({"lowpass": Filter()})

    def forward(self, x: Tensor) -> Tensor:
        low_pass = self.downsample.get_buffer("lowpass.filter")
        return _halve_rate(self.act(_double_rate(x, self.upsample.filter)), low_pass)


def _double_rate(x: Tensor, taps: Tensor) -> Tensor:
    """Double the rate: (..., L) -> (..., 2L).

    Even outputs read x[i-3 .. i+2] with the odd taps, odd ones x[i-2 .. i+3]."""
    taps = 2 * taps.flatten().flip(0)
    rows = FILTER_BLOCK + 6
    bands = torch.stack([_banded(taps[0::2], rows, 1), _banded(taps[1::2], rows, 1, offset=1)], dim=-1)
    length = x.shape[-1]
    x = _repeat_edges(x, 3, 3 + -length % FILTER_BLOCK)
    frames = x.unfold(-1, rows, FILTER_BLOCK).flatten(0, -2)
    return (frames @ bands.flatten(1)).view(*x.shape[:-1], -1)[..., : 2 * length]


def _halve_rate(x: Tensor, taps: Tensor) -> Tensor:
    """Halve the rate: (..., 2L) -> (..., L), every second sample of x filtered, from x[2i-5 .. 2i+6]."""
    rows = 2 * FILTER_BLOCK + 10
    length = x.shape[-1] // 2
    x = _repeat_edges(x, 5, 5 + 2 * (-length % FILTER_BLOCK))
    frames = x.unfold(-1, rows, 2 * FILTER_BLOCK).flatten(0, -2)
    return (frames @ _banded(taps.flatten(), rows, 2)).view(*x.shape[:-1], -1)[..., :length]


def _repeat_edges(x: Tensor, left: int, right: int) -> Tensor:
    """Repeat the edges of the last axis; several times faster than F.pad on a CPU."""
    edges = x.shape[:-1]
    return torch.cat([x[..., :1].expand(*edges, left), x, x[..., -1:].expand(*edges, right)], dim=-1)


def _banded(taps: Tensor, rows: int, stride: int, offset: int = 0) -> Tensor:
    """Return (rows, FILTER_BLOCK) with the taps down each column, from row `offset + column * stride`."""
    matrix = taps.new_zeros(rows, FILTER_BLOCK)
    diagonal = (stride * FILTER_BLOCK + 1, FILTER_BLOCK)
    matrix.as_strided((FILTER_BLOCK, len(taps)), diagonal, offset * FILTER_BLOCK).copy_(taps)
    return matrix


class AmpBlock(nn.Module):
    """Apply residual pairs of convolutions, the first of each pair dilated; (B, C, L) stays. Not causal."""

    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(
            nn.Conv1d(channels, channels, kernel, dilation=d, padding=d * (kernel - 1) // 2)
            for d in dilations
        )
        self.convs2 = nn.ModuleList(
            nn.Conv1d(channels, channels, kernel, padding=(kernel - 1) // 2) for _ in dilations
        )
        self.acts1 = nn.ModuleList(Activation(channels) for _ in dilations)
        self.acts2 = nn.ModuleList(Activation(channels) for _ in dilations)

    def forward(self, x: Tensor) -> Tensor:
        for act1, conv1, act2, conv2 in zip(self.acts1, self.convs1, self.acts2, self.convs2, strict=True):
            x = x + conv2(act2(conv1(act1(x))))
        return x


class Generator(nn.Module):
    """Make sound (B, 2, hop * M) from log-mel (B, 2, M, bins)."""

    def __init__(self, config: GeneratorConfig, mel_bins: int) -> None:
        super().__init__()
        self.clamp_output = config.clamp_output
        self.blocks_per_stage = len(config.block_kernels)
        width = config.initial_channels
        self.conv_pre = nn.Conv1d(2 * mel_bins, width, 7, padding=3)
        self.ups = nn.ModuleList()
        self.resblocks = nn.ModuleList()
        for rate, kernel in zip(config.upsample_rates, config.upsample_kernels, strict=True):
            up = nn.ConvTranspose1d(width, width // 2, kernel, stride=rate, padding=(kernel - rate) // 2)
            self.ups.append(up)
            width //= 2
            for block_kernel, dilations in zip(config.block_kernels, config.block_dilations, strict=True):
                self.resblocks.append(AmpBlock(width, block_kernel, dilations))
        self.act_post = Activation(width)
        self.conv_post = nn.Conv1d(width, 2, 7, padding=3, bias=False)

    def forward(self, mel: Tensor) -> Tensor:
        x = self.conv_pre(mel.transpose(2, 3).flatten(1, 2))  # left channel's bins first
        for stage, up in enumerate(self.ups):
            x = up(x)
            first = stage * self.blocks_per_stage
            blocks = self.resblocks[first : first + self.blocks_per_stage]
            x = sum(block(x) for block in blocks) / self.blocks_per_stage
        sound: Tensor = self.conv_post(self.act_post(x))
        return sound.clamp(-1, 1) if self.clamp_output else sound


class CausalStft(nn.Module):
    """Return magnitudes (rows, 257, N / hop) of sound (rows, N), each frame ending with its own samples.

    The windowed Fourier basis is stored with the weights, cosines first; its inverse too, unused.
    """

    forward_basis: Tensor
    inverse_basis: Tensor

    def __init__(self, window: int, hop: int) -> None:
        super().__init__()
        self.hop = hop
        with ON_CPU:
            basis = _fourier_basis(window)
        self.register_buffer("forward_basis", basis)
        self.register_buffer("inverse_basis", torch.zeros_like(basis))

    def forward(self, sound: Tensor) -> Tensor:
        margin = self.forward_basis.shape[-1] - self.hop
        frames = F.conv1d(F.pad(sound, (margin, 0)).unsqueeze(1), self.forward_basis, stride=self.hop)
        real, imaginary = frames.chunk(2, dim=1)
        return (real.square() + imaginary.square()).sqrt()


def _fourier_basis(window: int) -> Tensor:
    """Return rows of cos and then -sin under a periodic Hann window, (window + 2, 1, window)."""
    time = torch.arange(window, dtype=torch.float64)
    angles = 2 * math.pi / window * torch.outer(torch.arange(window // 2 + 1, dtype=torch.float64), time)
    basis = torch.cat([angles.cos(), -angles.sin()]) * torch.hann_window(window, dtype=torch.float64)
    return basis.float().unsqueeze(1)


class MelStft(nn.Module):
    """Return log-mel (B, 2, N / hop, bins) of sound (B, 2, N), causal, for bandwidth extension."""

    mel_basis: Tensor

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        num_freqs = config.bwe_window // 2 + 1
        with ON_CPU:
            bands = mel_filters(config.bwe_bins, num_freqs, config.input_rate_hz / 2)
        self.register_buffer("mel_basis", bands.T.contiguous())
        self.stft_fn = CausalStft(config.bwe_window, config.bwe_hop)

    def forward(self, sound: Tensor) -> Tensor:
        magnitude = self.stft_fn(sound.flatten(0, 1))
        mel = (self.mel_basis @ magnitude).clamp(min=LOG_FLOOR).log()
        return torch.unflatten(mel, 0, sound.shape[:2]).transpose(2, 3)


class Vocoder(nn.Module):
    """Make sound by a base generator and bandwidth extension, with a fixed mel between them."""

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        self.config = config
        self.vocoder = Generator(config.base, MEL_BINS)
        self.bwe_generator = Generator(config.bwe, config.bwe_bins)
        self.mel_stft = MelStft(config)

    @with_exact_products
    def forward(self, mel: Tensor) -> Tensor:
        """Return sound (B, 2, 480 M) at 48 kHz in [-1, 1] from log-mel (B, 2, M, 64), in the weights' dtype.

        Raises WeightsError when the weights are of a half-width type; load them into float32.
        """
        dtype = self.mel_stft.mel_basis.dtype
        if dtype not in (torch.float32, torch.float64):
            raise WeightsError(f"the vocoder's weights are {dtype}; it runs in float32: call .float() on it")
        sound = self.vocoder(mel.to(dtype))
        residual = self.bwe_generator(self.mel_stft(sound))
        rates = self.config.input_rate_hz, self.config.output_rate_hz
        return (residual + resample(sound, *rates, edges="replicate")).clamp(-1, 1)  # type: ignore[no-any-return]
