"""Audio latents to sound, stretch by stretch: the same numbers as at once, in memory that does not grow.

The audio decoder and the vocoder consist of convolutions, so a sample depends on at most a second or two of
its surroundings. Each stretch is made with its surroundings, which are then cut off.

Beyond the first and last mel frame the vocoder's convolutions read zeros. A log-mel of zero is loud, so a
silent clip would begin and end with a click. The first and last mel frame are therefore repeated EDGE_MELS
times on either side, and the sound of these is cut off: see docs/decoding.md.
Source of the reaches: docs/model/audio.md, "Reaches". Held by tests/unit/test_long_sound.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from soundstage.model.audio_vae import AudioVae
from soundstage.model.config import AudioVaeConfig, GeneratorConfig, VocoderConfig
from soundstage.model.vocoder import FILTER_TAPS, Vocoder
from soundstage.types import AUDIO_LATENTS_PER_S, MEL_HOP, MEL_RATE_HZ

# Sound up to this long is made at once, as one call of the modules would.
STRETCH_LATENTS = 20 * AUDIO_LATENTS_PER_S
MELS_PER_LATENT = MEL_RATE_HZ // MEL_HOP // AUDIO_LATENTS_PER_S
EDGE_MELS = 16  # 160 ms; more changes the edge by less than 1/1000 in nano
# 80 ms. T latents make 4T - 3 mel frames, up to 50 ms less than the film they are for.
MAX_HELD_MELS = 8


@torch.no_grad()
def decode_sound(
    audio_vae: AudioVae,
    vocoder: Vocoder,
    latents: Tensor,
    *,
    num_mels: int | None = None,
    stretch: int = STRETCH_LATENTS,
) -> Iterator[Tensor]:
    """Decode normalised latents (B, 8, T, 16) to pieces of sound (B, 2, n) at 48 kHz in [-1, 1], in order.

    num_mels: mel frames to make into sound, each 10 ms; None is the 4T - 3 that the latents give. The last
    one is held for at most 80 ms where more are asked for. stretch: latents made at a time. The pieces join
    to `vocoder(held_edges(audio_vae.decode(latents), num_mels))`, less the edges, to rounding.
    """
    mel = torch.cat(list(_mels(audio_vae, latents, stretch)), dim=2)
    num_mels = min(num_mels or mel.shape[2], mel.shape[2] + MAX_HELD_MELS)
    mel = held_edges(mel, num_mels)
    reach = vocoder_reach(vocoder.config)
    samples = vocoder.config.base.hop * vocoder.config.rate_ratio
    for part in _stretches(num_mels, stretch * MELS_PER_LATENT, reach, reach, margin=EDGE_MELS):
        sound = vocoder(mel[:, :, part.read])
        yield sound[:, :, samples * part.crop.start : samples * part.crop.stop]


def held_edges(mel: Tensor, num_mels: int) -> Tensor:
    """Return log-mel (B, 2, n, 64) cut or held at its end to num_mels, with EDGE_MELS more at either end."""
    mel = mel[:, :, :num_mels]
    after = EDGE_MELS + num_mels - mel.shape[2]
    first, last = mel[:, :, :1], mel[:, :, -1:]
    return torch.cat([first.expand(-1, -1, EDGE_MELS, -1), mel, last.expand(-1, -1, after, -1)], dim=2)


def _mels(audio_vae: AudioVae, latents: Tensor, stretch: int) -> Iterator[Tensor]:
    """Yield log-mel (B, 2, n, 64) of each stretch.

    Latent i > 0 makes mel frames 4i - 3 to 4i, latent 0 makes frame 0."""
    for part in _stretches(latents.shape[2], stretch, audio_decoder_reach(audio_vae.config), 0):
        mel = audio_vae.decode(latents[:, :, part.read])
        first = 0 if part.crop.start == 0 else MELS_PER_LATENT * part.crop.start - MELS_PER_LATENT + 1
        yield mel[:, :, first : MELS_PER_LATENT * (part.crop.stop - 1) + 1]


@dataclass(frozen=True)
class Stretch:
    """Hold which part of the whole is read, and which part of the result is kept (crop)."""

    read: slice
    crop: slice


def _stretches(length: int, size: int, before: int, after: int, margin: int = 0) -> Iterator[Stretch]:
    """Return the stretches of a whole. margin: how much each reads before and behind what it keeps."""
    for start in range(0, length, size):
        stop = min(start + size, length)
        first, last = max(-margin, start - before), min(length + margin, stop + after)
        yield Stretch(slice(margin + first, margin + last), slice(start - first, stop - first))


def audio_decoder_reach(config: AudioVaeConfig) -> int:
    """Return how many latents before its own a mel frame depends on.

    Every convolution reads two frames back."""
    convs_per_level = 2 * (config.num_res_blocks + 1)
    frames = 2.0 * (1 + 4)  # the first convolution and the two blocks of the middle
    for level in range(len(config.channel_multipliers)):
        rate = 2**level
        frames += 2 * convs_per_level / rate
        frames += 2 / (2 * rate)  # the convolution after doubling; at the end, the last one
    return math.ceil(frames) + 1


def vocoder_reach(config: VocoderConfig) -> int:
    """Return how many mel frames on each side of its own a sample depends on, in the whole vocoder."""
    inner = config.base.hop // config.bwe_hop  # frames of the mel between per frame of the first
    between = config.bwe_window / config.base.hop
    return math.ceil(_generator_reach(config.base) + between + _generator_reach(config.bwe) / inner) + 1


def _generator_reach(config: GeneratorConfig) -> float:
    """Return a generator's reach in mel frames: for each stage that of its widest block, at its rate."""
    frames, rate = 3.0, 1
    for upsample, kernel in zip(config.upsample_rates, config.upsample_kernels, strict=True):
        rate *= upsample
        blocks = [
            sum((size - 1) // 2 * (dilation + 1) + 2 * FILTER_TAPS // 2 for dilation in dilations)
            for size, dilations in zip(config.block_kernels, config.block_dilations, strict=True)
        ]
        frames += (kernel + max(blocks)) / rate
    return frames + (FILTER_TAPS // 2 + 3) / rate  # the last activation and convolution
