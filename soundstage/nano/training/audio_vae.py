"""Train nano's audio VAE: L1 on log-mel of windows of about a second, and a small KL term.

Log-mel lies between -11.5 (silence) and about 1, and silence is most of it. Nothing in the structure
normalises that range, so the biases of the first and last convolutions start with zero mean for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from soundstage.model.audio_vae import AudioVae, ResBlock, patchify_audio
from soundstage.model.config import AudioVaeConfig
from soundstage.model.published import audio_vae_header
from soundstage.nano.training import sounds
from soundstage.nano.training.export import export
from soundstage.nano.training.runs import PartRun, TrainingScale
from soundstage.nano.training.statistics import fit_statistics
from soundstage.training.batches import Batch
from soundstage.training.optimizers import Schedule
from soundstage.training.precision import training_precision

BASE_CHANNELS = 24
KL_WEIGHT = 3e-4
MID_LEVEL = -9.0  # of log-mel over training sounds
LEVEL_SPREAD = 3.0

BATCH: dict[TrainingScale, int] = {"tiny": 1, "cpu": 4, "cuda": 96}
WINDOW_MELS = 101  # 4T - 3, so that the decoder gives back as many frames as went in
NUM_STATISTICS_SOUNDS: dict[TrainingScale, int] = {"tiny": 4, "cpu": 400, "cuda": 64}

SCHEDULE = Schedule(minutes=39, rate=2e-3, warmup=100, average=0.995)


def sections() -> dict[str, Any]:
    """Return the config stored with the weights."""
    return {"audio_vae": audio_vae_header(base_channels=BASE_CHANNELS)}


def build() -> AudioVae:
    """Return a fresh audio VAE: residual branches begin at zero, first and last layer normalise the mel."""
    torch.manual_seed(0)
    vae = AudioVae(AudioVaeConfig.from_header(sections()))
    vae.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a third faster on a CPU
    for module in vae.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    for module in vae.modules():
        if isinstance(module, ResBlock):
            nn.init.zeros_(module.conv2.conv.weight)
    with torch.no_grad():
        first, last = vae.encoder.conv_in.conv, vae.decoder.conv_out.conv
        first.weight /= LEVEL_SPREAD
        first.bias.copy_(-MID_LEVEL * first.weight.sum(dim=(1, 2, 3)))  # type: ignore[union-attr]
        last.bias.fill_(MID_LEVEL)  # type: ignore[union-attr]
    return vae


@dataclass(frozen=True)
class MelMaker:
    """Make the log-mels of a step, as `Make`: (count, 2, WINDOW_MELS, 64)."""

    count: int

    def __call__(self, number: int, progress: float) -> Batch:
        samples = sounds.batch(11, number, self.count, (WINDOW_MELS - 1) * sounds.SAMPLES_PER_MEL)
        return Batch("mels", {"mel": sounds.mel_of(samples)}, self.count)


def batches(run: PartRun) -> Iterator[Batch]:
    """Yield windows of log-mel for every step."""
    return run.batches(MelMaker(BATCH[run.scale]))


class AudioVaeLoss:
    """The loss of a batch, in natural-log units of amplitude."""

    def __init__(self, vae: AudioVae, device: torch.device) -> None:
        self.vae, self.device = vae, device

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        mel = batch["mel"]
        with training_precision(self.device):
            mean, log_var = _posterior(self.vae, mel)
            decoded = self.vae.decoder(mean + torch.randn_like(mean) * torch.exp(0.5 * log_var))
        error = (decoded.float() - mel).abs().mean()
        kl = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).mean()
        return {
            "loss": error + KL_WEIGHT * kl,
            "error_db": error.detach() * sounds.NEPER_DB,
            "kl": kl.detach(),
            "log_var": -log_var.detach().mean(),
        }


def _posterior(vae: AudioVae, mel: Tensor) -> tuple[Tensor, Tensor]:
    """Return means and log-variances, (B, 8, T, 16) each, float32."""
    mean, log_var = vae.encoder.posterior(mel).float().chunk(2, dim=1)
    return mean, log_var.clamp(-8, 1)


def finish(vae: AudioVae, folder: Path, scale: TrainingScale) -> None:
    """Fit the statistics of the latents, and store the VAE in `folder`."""
    vae.to(torch.bfloat16).float()  # measure what will be read back
    fit_statistics(vae.per_channel_statistics, _means(vae, NUM_STATISTICS_SOUNDS[scale]))
    export(vae, "audio-vae", sections(), folder)


@torch.no_grad()
def _means(vae: AudioVae, count: int) -> Iterator[Tensor]:
    """Yield encoder means of whole training sounds, (1, 128, T) each."""
    for seed in range(count):
        samples = sounds.draw_sound(seed).samples[None]
        yield patchify_audio(vae.encoder(sounds.mel_of(samples))).transpose(1, 2)
