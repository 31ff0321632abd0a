"""Train nano's vocoder on spectra of several resolutions, at 16 kHz and at 48 kHz.

Silence is silent by construction. The mel of digital silence is its floor in every band. The generators are
trained on the height above the floor and without biases, so zeros give exactly zeros. All taps of the first
convolution but the middle one sum to zero over the bands, so that the zeros beyond the ends of a clip act as
a floor would. `fold` then turns the shift into the first bias: the result is an ordinary vocoder that takes
log-mel.

Both generators are trained at once but apart: the base one on the 16 kHz sound, bandwidth extension on the
difference between the base one's output and the 48 kHz sound. No gradient passes between them, which saves a
third of a step and keeps out the magnitude of a silent frame, whose slope is infinite.

The loss is on magnitudes only; phases are free. Most cells of most windows are nearly silent, so each cell
counts by its loudness, and a window's error also as a share of its magnitude; otherwise events come out 20 dB
too quiet. Where phases are uncertain, a distance of magnitudes prefers too little power, so the power in a
few wide bands counts as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from soundstage.model.audio_vae import AudioVae
from soundstage.model.config import VocoderConfig
from soundstage.model.mel import LOG_FLOOR, log_mel, mel_filters, resample
from soundstage.model.published import vocoder_header
from soundstage.model.vocoder import AmpBlock, Vocoder
from soundstage.nano.training import sounds
from soundstage.nano.training.export import export, load_audio_vae
from soundstage.nano.training.runs import PartRun, TrainingScale
from soundstage.training.batches import Batch
from soundstage.training.optimizers import Schedule
from soundstage.types import MEL_RATE_HZ, OUTPUT_RATE_HZ

BASE_CHANNELS = 128  # the least that can be halved six times
BWE_CHANNELS = 32

BATCH: dict[TrainingScale, int] = {"tiny": 1, "cpu": 2, "cuda": 96}
WINDOW_MELS = 32

# (FFT length, hop, mel bands) of each resolution
BASE_SPECTRA = ((1024, 160, 64), (512, 128, 64), (128, 32, 24))
FULL_SPECTRA = ((2048, 480, 96), (512, 128, 64))
MAGNITUDE_WEIGHT = 0.3
LEVEL_BANDS = 8
# The weight of a cell is the root of its magnitude, 1 at LOUD_LOG, between these bounds.
LOUD_LOG, LEAST_WEIGHT, MOST_WEIGHT = math.log(1e-1), 0.05, 4.0
SILENT_WINDOW = 0.1  # mean magnitude below which the share of a window's error is damped

FLOOR = math.log(LOG_FLOOR)

SCHEDULE = Schedule(minutes=220, rate=2e-3, muon=3e-3, warmup=60, weight_decay=0.0, average=0.99)


def sections() -> dict[str, Any]:
    """Return the config stored with the weights."""
    return {"vocoder": vocoder_header(base_channels=BASE_CHANNELS, bwe_channels=BWE_CHANNELS)}


def build() -> Vocoder:
    """Return a fresh vocoder, not folded: residual branches begin small, the output near silence."""
    torch.manual_seed(0)
    vocoder = Vocoder(VocoderConfig.from_header(sections()))
    for block in vocoder.modules():
        if isinstance(block, AmpBlock):
            for conv in block.convs2:
                nn.init.normal_(conv.weight, std=0.01)  # type: ignore[arg-type]
    for name, param in vocoder.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(param).requires_grad_(False)
    for generator in (vocoder.vocoder, vocoder.bwe_generator):
        nn.init.normal_(generator.conv_post.weight, std=1e-2)
        parametrize.register_parametrization(generator.conv_pre, "weight", Balanced())
    return vocoder


class Balanced(nn.Module):
    """Weights (out, in, taps) without their mean over input channels, for every tap but the middle one."""

    def forward(self, weight: Tensor) -> Tensor:
        mean = weight.mean(dim=1, keepdim=True)
        middle = weight.shape[2] // 2
        others = torch.arange(weight.shape[2], device=weight.device) != middle
        return weight - mean * others


@dataclass(frozen=True)
class WindowMaker:
    """Make windows of sound for a step, as `Make`: (count, 2, samples) at 48 kHz."""

    count: int
    mels: int

    def __call__(self, number: int, progress: float) -> Batch:
        wide = sounds.batch(12, number, self.count, self.mels * sounds.SAMPLES_PER_MEL)
        return Batch("windows", {"wide": wide}, self.count)


def batches(run: PartRun) -> Iterator[Batch]:
    """Yield windows for every step, with their mels; half of these are coded first, as a model's sound is."""
    vae = load_audio_vae(run.weights).to(run.device)
    for windows in run.batches(WindowMaker(BATCH[run.scale], WINDOW_MELS)):
        yield with_mels(windows, vae)


@torch.no_grad()
def with_mels(windows: Batch, vae: AudioVae) -> Batch:
    """Return windows with their sound at 16 kHz and its log-mel."""
    wide = windows["wide"]
    narrow = resample(wide, OUTPUT_RATE_HZ, MEL_RATE_HZ)
    mel = log_mel(narrow)
    half = len(mel) // 2
    mel[half:] = vae.decode(vae.encode(mel[half:]))[:, :, : mel.shape[2]]
    return Batch(windows.kind, {"wide": wide, "narrow": narrow, "mel": mel[:, :, :-1]}, windows.samples)


class VocoderLoss:
    """The loss of a batch: distances of log-mels, magnitudes and levels over resolutions."""

    def __init__(self, vocoder: Vocoder) -> None:
        self.vocoder = vocoder

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        base = self.vocoder.vocoder(batch["mel"] - FLOOR)
        heard = base.detach()
        residual = self.vocoder.bwe_generator(self.vocoder.mel_stft(heard) - FLOOR)
        full = residual + resample(heard, MEL_RATE_HZ, OUTPUT_RATE_HZ, edges="replicate")
        base_loss, base_error = _distance(base, batch["narrow"], MEL_RATE_HZ, BASE_SPECTRA)
        full_loss, full_error = _distance(full, batch["wide"], OUTPUT_RATE_HZ, FULL_SPECTRA)
        return {
            "loss": base_loss + full_loss,
            "base_db": base_error.detach() * sounds.NEPER_DB,
            "full_db": full_error.detach() * sounds.NEPER_DB,
        }


def _distance(
    made: Tensor, true: Tensor, rate_hz: int, spectra: tuple[tuple[int, int, int], ...]
) -> tuple[Tensor, Tensor]:
    """Return the mean distance of (B, 2, N) sounds, and the plain log-mel L1 of the first resolution.

    The distance is of log-mel, magnitude and level.
    """
    total = made.new_zeros(())
    errors = []
    for length, hop, bands in spectra:
        pair = _magnitudes(torch.cat([made, true]).flatten(0, 1), length, hop)
        mel = pair @ _filters(bands, length, rate_hz, made.device)
        error, weights = _loudness_weighted(mel.clamp(min=LOG_FLOOR).log())
        errors.append(error.mean())
        weighted = (error * weights).sum() / weights.sum()
        total = total + weighted + MAGNITUDE_WEIGHT * _relative(pair) + _levels(mel)
    return total / len(spectra), errors[0]


def _loudness_weighted(mel: Tensor) -> tuple[Tensor, Tensor]:
    """Return |made - true| of a pair of log-mels, and the weights of its cells."""
    made, true = mel.chunk(2)
    weights = (0.5 * (true - LOUD_LOG)).exp().clamp(LEAST_WEIGHT, MOST_WEIGHT)
    return (made - true).abs(), weights


def _relative(pair: Tensor) -> Tensor:
    """Return spectral convergence: the error's norm as a share of the true magnitudes' norm, per window."""
    made, true = (x.flatten(1) for x in pair.chunk(2))
    room = SILENT_WINDOW * true.shape[1] ** 0.5
    share: Tensor = (made - true).norm(dim=1) / (true.norm(dim=1) + room)
    return share.mean()


def _levels(mel: Tensor) -> Tensor:
    """Return the distance of log powers in LEVEL_BANDS bands of a pair of mels, weighted by magnitude."""
    power = torch.unflatten(mel.square(), 2, (LEVEL_BANDS, -1)).mean(dim=3)
    made, true = (0.5 * (power + LOG_FLOOR**2).log()).chunk(2)
    weights = (true - LOUD_LOG).exp().clamp(LEAST_WEIGHT, MOST_WEIGHT)
    distance: Tensor = ((made - true).abs() * weights).sum() / weights.sum()
    return distance


def _magnitudes(sound: Tensor, length: int, hop: int) -> Tensor:
    """Return the magnitudes (rows, frames, length / 2 + 1) of sounds (rows, N)."""
    window = torch.hann_window(length, device=sound.device)
    spectrum = torch.stft(sound, length, hop, window=window, center=False, return_complex=True)
    power = torch.view_as_real(spectrum).square().sum(dim=-1)
    return (power + 1e-14).sqrt().transpose(1, 2)  # the slope of a root is infinite at zero


@lru_cache(maxsize=16)
def _filters(bands: int, length: int, rate_hz: int, device: torch.device) -> Tensor:
    """Return mel bands whose response to a sound does not depend on the length of the window.

    They are made once for a device: a recorded step copies nothing from the host.
    """
    scale = (1024 / length) ** 0.5
    filters: Tensor = mel_filters(bands, length // 2 + 1, rate_hz / 2).float().to(device) * scale
    return filters


@torch.no_grad()
def fold(vocoder: Vocoder) -> None:
    """Turn a trained vocoder into an ordinary one: bfloat16 values, biases, log-mel itself as input.

    Rounding to bfloat16 would leave a residue in silence, 50 dB below speech. A few weights of each sum are
    moved to cancel it.
    """
    for generator in (vocoder.vocoder, vocoder.bwe_generator):
        conv = generator.conv_pre
        parametrize.remove_parametrizations(conv, "weight")
        weight = conv.weight.to(torch.bfloat16).double()
        middle = weight.shape[2] // 2
        bias = (-FLOOR * weight[:, :, middle].sum(dim=1)).to(torch.bfloat16).double()
        for tap in range(weight.shape[2]):
            wanted = bias / -FLOOR if tap == middle else torch.zeros_like(bias)
            weight[:, :, tap] = _with_sum(weight[:, :, tap], wanted)
        conv.weight.copy_(weight)
        conv.bias.copy_(bias)  # type: ignore[union-attr]
    vocoder.to(torch.bfloat16).float()


def _with_sum(rows: Tensor, wanted: Tensor) -> Tensor:
    """Return rows (R, n) changed little so that they sum to `wanted` (R,); values stay those of bfloat16."""
    rows = rows.clone()
    index = torch.arange(len(rows))
    for _ in range(8):
        lacking = (wanted - rows.sum(dim=1))[:, None]
        moved = (rows + lacking).to(torch.bfloat16).double()  # every value as if it alone were moved
        best = (lacking - (moved - rows)).abs().argmin(dim=1)
        rows[index, best] = moved[index, best]
    return rows


def finish(vocoder: Vocoder, folder: Path) -> None:
    """Fold and store the vocoder in `folder`."""
    fold(vocoder)
    export(vocoder, "vocoder", sections(), folder)


def stored_name(name: str) -> str:
    """Return the name in a folded vocoder of a weight called `name` in training."""
    return name.replace(".parametrizations.weight.original", ".weight")
