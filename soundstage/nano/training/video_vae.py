"""Recipe of nano's video VAE: stills first, then short crops of clips, then whole frames.

Beginning with stills lets the spatial part form at a third of the cost (one frame needs only 2-D
convolutions); beginning with clips stalls. The loss is L1 plus squared error, with a small KL term so
that latents stay near unit variance and smooth, which is what the transformer has to model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from soundstage.model.config import VideoVaeConfig, video_vae_header
from soundstage.model.video_vae import Conv3d, Downsample, ResBlock, Upsample, VideoVae
from soundstage.nano.training.export import export
from soundstage.nano.training.loop import Schedule
from soundstage.nano.training.statistics import fit_statistics
from soundstage.nano.world.motion import simulate
from soundstage.nano.world.render import render
from soundstage.nano.world.scene import BUCKETS, draw_scene
from soundstage.types import VideoShape

ENCODER_WIDTH = 16
DECODER_WIDTH = 24
KL_WEIGHT = 1e-4
NUM_STATISTICS_CLIPS = 200


@dataclass(frozen=True)
class Stage:
    """Batches of `batch` clips of `frames` frames, cut to `crop` pixels a side (0: whole frames)."""

    until: int
    frames: int
    crop: int
    batch: int


STAGES = (
    Stage(until=2000, frames=1, crop=128, batch=16),
    Stage(until=3600, frames=9, crop=64, batch=12),
    Stage(until=7000, frames=17, crop=96, batch=4),
    Stage(until=8000, frames=17, crop=0, batch=2),
)
SCHEDULE = Schedule(steps=STAGES[-1].until, rate=1e-3, muon=1.5e-3, warmup=100)


def sections() -> dict[str, Any]:
    """The config stored with the weights."""
    header = video_vae_header(encoder_base_channels=ENCODER_WIDTH, decoder_base_channels=DECODER_WIDTH)
    return {"vae": header}


def build() -> VideoVae:
    """Nano's video VAE with residual branches that begin at zero, so that it starts as a linear code."""
    torch.manual_seed(0)
    vae = VideoVae(VideoVaeConfig.from_header(sections()))
    for module in vae.modules():
        if isinstance(module, Conv3d):
            fan_in = module.conv.weight[0].numel()
            nn.init.normal_(module.conv.weight, std=fan_in**-0.5)
            nn.init.zeros_(module.conv.bias)  # type: ignore[arg-type]
    for module in vae.modules():
        if isinstance(module, ResBlock):
            nn.init.zeros_(module.conv2.conv.weight)
        elif isinstance(module, (Downsample, Upsample)):
            _centre(module.conv)
    return vae


def _centre(conv: Conv3d) -> None:
    """Give the middle of the kernel (the present frame) most of the weight."""
    weight = conv.conv.weight
    present = 2 if conv.causal else 1
    middle = torch.randn(weight.shape[:2]) * weight.shape[1] ** -0.5
    with torch.no_grad():
        weight.mul_(0.3)
        weight[:, :, present, 1, 1] += middle


def batch(step: int, stage: Stage) -> Tensor:
    """(B, 3, F, H, W) pixels in [-1, 1] of a step; a function of its number alone."""
    rng = np.random.default_rng([7, step])
    width, height = BUCKETS[list(BUCKETS)[int(rng.integers(len(BUCKETS)))]]
    clips = []
    for _ in range(stage.batch):
        scene = draw_scene(int(rng.integers(2**31)), VideoShape(49, height, width))
        start = int(rng.integers(49 - stage.frames + 1))
        clip = render(scene, simulate(scene), range(start, start + stage.frames))
        if stage.crop:
            top = int(rng.integers((height - stage.crop) // 2 + 1)) * 2
            left = int(rng.integers((width - stage.crop) // 2 + 1)) * 2
            clip = clip[:, top : top + stage.crop, left : left + stage.crop]
        clips.append(clip)
    pixels = torch.from_numpy(np.stack(clips)).permute(0, 4, 1, 2, 3)
    return pixels.float() / 127.5 - 1


class VideoVaeLoss:
    """loss_fn of the training loop."""

    def __init__(self, vae: VideoVae, stages: tuple[Stage, ...] = STAGES) -> None:
        self.vae, self.stages = vae, stages

    def __call__(self, step: int) -> dict[str, Tensor]:
        stage = next((s for s in self.stages if step < s.until), self.stages[-1])
        pixels = batch(step, stage)
        with torch.autocast("cpu", torch.bfloat16):
            mean, log_var = self._posterior(pixels)
            generator = torch.Generator().manual_seed(step)
            noise = torch.randn(mean.shape, generator=generator)
            decoded = self.vae.decoder(mean + noise * torch.exp(0.5 * log_var))
        error = decoded.float() - pixels
        square = error.square().mean()
        kl = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).mean()
        return {
            "loss": error.abs().mean() + 2 * square + KL_WEIGHT * kl,
            "mse": square.detach(),
            "kl": kl.detach(),
            "log_var": -log_var.detach().mean(),
        }

    def _posterior(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Means (B, 128, T, h, w) and the shared log-variance (B, 1, T, h, w), float32."""
        encoder = self.vae.encoder
        out = encoder.posterior(pixels).float()
        return out[:, : encoder.latent_channels], out[:, encoder.latent_channels :].clamp(-8, 1)


def finish(vae: VideoVae, folder: Path) -> None:
    """Store the statistics of the latents, and the whole in `folder`."""
    vae.to(torch.bfloat16).float()  # measure what will be read back
    fit_statistics(vae.per_channel_statistics, _means(vae))
    export(vae, "video-vae", sections(), folder)


@torch.no_grad()
def _means(vae: VideoVae) -> Iterator[Tensor]:
    """Encoder means of whole training frames over 17 frames, (1, 128, 3, h, w) each."""
    whole = Stage(until=0, frames=17, crop=0, batch=1)
    for index in range(NUM_STATISTICS_CLIPS):
        pixels = batch(1_000_000 + index, whole)
        with torch.autocast("cpu", torch.bfloat16):
            means = vae.encoder(pixels)
        yield means
