"""Measure the loss of the video VAE and of the audio path (audio VAE, then vocoder) on held-out clips."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from soundstage.model.audio_vae import AudioVae
from soundstage.model.mel import log_mel, resample
from soundstage.model.video_vae import VideoVae
from soundstage.model.vocoder import Vocoder
from soundstage.nano.evaluation.report import ground_truth, held_out_scenes
from soundstage.types import MEL_RATE_HZ, OUTPUT_RATE_HZ

DB_PER_NEPER = 8.685890  # 20 / ln 10
AUDIBLE_DB = -70.0  # of a mel magnitude; cells that are silent before and after are not counted


@dataclass(frozen=True)
class CodecLoss:
    """Means over clips; None for a part that was not given."""

    num_clips: int
    video_psnr_db: float | None  # of 8-bit frames
    vae_mel_error_db: float | None  # absolute, of mel magnitudes where either sound is audible
    mel_error_db: float | None  # the same after the vocoder


def evaluate_codecs(
    video_vae: VideoVae | None = None,
    audio_vae: AudioVae | None = None,
    vocoder: Vocoder | None = None,
    *,
    num_clips: int = 24,
    seed: int = 0,
) -> CodecLoss:
    """Return what held-out clips of the world lose when they are encoded and decoded.

    The modules are used as they are, on their own device; put them in eval mode. The vocoder is measured on
    what the audio VAE decodes, or on true mels where no audio VAE is given.
    """
    psnr, vae_error, error = [], [], []
    for frames, waveform in ground_truth(held_out_scenes(num_clips, seed)):
        if video_vae is not None:
            psnr.append(video_psnr(video_vae, torch.from_numpy(frames)))
        if waveform is not None and (audio_vae is not None or vocoder is not None):
            before, after = audio_errors(torch.from_numpy(waveform), audio_vae, vocoder)
            vae_error += [] if before is None else [before]
            error += [] if after is None else [after]
    return CodecLoss(num_clips, _mean(psnr), _mean(vae_error), _mean(error))


@torch.no_grad()
def video_psnr(video_vae: VideoVae, frames: Tensor) -> float:
    """Return the PSNR in dB between (F, H, W, 3) uint8 frames and their reconstruction in 8 bits."""
    weight = next(video_vae.parameters())
    pixels = frames.permute(3, 0, 1, 2)[None].to(weight) / 127.5 - 1
    decoded = video_vae.decode(video_vae.encode(pixels))[0].float().cpu()
    levels = ((decoded + 1) * 127.5).round().clamp(0, 255).permute(1, 2, 3, 0)
    error = (levels - frames.float()).square().mean().clamp(min=1e-3)
    return float(10 * torch.log10(255**2 / error))


@torch.no_grad()
def audio_errors(
    waveform: Tensor, audio_vae: AudioVae | None, vocoder: Vocoder | None
) -> tuple[float | None, float | None]:
    """Return the errors in dB after the audio VAE and after the vocoder; None for a part not given.

    waveform: (2, samples) at 48 kHz.
    """
    true = log_mel(resample(waveform[None], OUTPUT_RATE_HZ, MEL_RATE_HZ))
    coded = true
    before = None
    if audio_vae is not None:
        weight = next(audio_vae.parameters())
        coded = audio_vae.decode(audio_vae.encode(true.to(weight))).float().cpu()
        before = mel_error_db(true, coded)
    if vocoder is None:
        return before, None
    weight = next(vocoder.parameters())
    sound = vocoder(coded.to(weight)).float().cpu()
    return before, mel_error_db(true, log_mel(resample(sound, OUTPUT_RATE_HZ, MEL_RATE_HZ)))


def mel_error_db(true: Tensor, other: Tensor) -> float:
    """Return the mean absolute difference of log-mels (1, 2, M, 64) in dB, where either is audible.

    The longer one is cut to the length of the other.
    """
    length = min(true.shape[2], other.shape[2])
    floor = AUDIBLE_DB / DB_PER_NEPER
    a, b = (mel[:, :, :length].clamp(min=floor) for mel in (true, other))
    audible = (a > floor) | (b > floor)
    return float((a - b).abs()[audible].mean() * DB_PER_NEPER) if audible.any() else 0.0


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
