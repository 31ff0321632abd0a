"""Train nano's video VAE: stills first, then short crops of clips, then whole frames.

Stills form the spatial part at a third of the cost (one frame needs only 2-D convolutions); a training that
begins with clips stalls. The loss is L1 plus squared error. A small KL term keeps latents smooth and near
unit variance for the transformer. Subjects fill only a tenth of a picture: their pixels count more, and
crops lie on them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from soundstage.model.config import VideoVaeConfig
from soundstage.model.published import video_vae_header
from soundstage.model.video_vae import Conv3d, Downsample, ResBlock, Upsample, VideoVae
from soundstage.nano.training.export import export
from soundstage.nano.training.statistics import fit_statistics
from soundstage.nano.world.motion import Motion, simulate
from soundstage.nano.world.render import render
from soundstage.nano.world.scene import BUCKETS, Scene, draw_scene
from soundstage.training.optimizers import Schedule
from soundstage.types import VideoShape

ENCODER_WIDTH = 16
DECODER_WIDTH = 24
KL_WEIGHT = 1e-4
NUM_STATISTICS_CLIPS = 200


@dataclass(frozen=True)
class Stage:
    """A stretch of the training with batches of one kind."""

    until: int  # the step at which it ends
    frames: int  # of a clip
    crop: int  # pixels a side that a clip is cut to; 0: whole frames
    batch: int  # clips
    encoder: bool = True  # False trains the decoder alone: latents that are already made stay valid


STAGES = (
    Stage(until=2000, frames=1, crop=128, batch=16),
    Stage(until=3600, frames=9, crop=64, batch=12),
    Stage(until=6300, frames=17, crop=96, batch=4),
    Stage(until=8600, frames=9, crop=96, batch=7),
    Stage(until=10600, frames=17, crop=0, batch=2, encoder=False),
)
SUBJECT_WEIGHT = 6.0  # of a subject's pixels over others
SUBJECT_REACH = 1.25  # in radii: the subject, its rim and a little of the background
SCHEDULE = Schedule(steps=STAGES[-1].until, rate=2e-3, muon=3e-3, warmup=100)


def sections() -> dict[str, Any]:
    """Return the config stored with the weights."""
    header = video_vae_header(encoder_base_channels=ENCODER_WIDTH, decoder_base_channels=DECODER_WIDTH)
    return {"vae": header}


def build() -> VideoVae:
    """Return a fresh video VAE: residual branches begin at zero, so that it starts as a linear code."""
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
    """Give the middle of a kernel, the present frame, most of the weight."""
    weight = conv.conv.weight
    present = 2 if conv.causal else 1
    middle = torch.randn(weight.shape[:2]) * weight.shape[1] ** -0.5
    with torch.no_grad():
        weight.mul_(0.3)
        weight[:, :, present, 1, 1] += middle


def batch(step: int, stage: Stage) -> tuple[Tensor, Tensor]:
    """Return a step's pixels (B, 3, F, H, W) in [-1, 1] and their weights (B, 1, F, H, W), of mean 1.

    A function of the step's number alone.
    """
    rng = np.random.default_rng([7, step])
    width, height = BUCKETS[list(BUCKETS)[int(rng.integers(len(BUCKETS)))]]
    clips, weights = [], []
    for _ in range(stage.batch):
        scene = draw_scene(int(rng.integers(2**31)), VideoShape(49, height, width))
        start = int(rng.integers(49 - stage.frames + 1))
        window = range(start, start + stage.frames)
        motion = simulate(scene)
        clip, weight = render(scene, motion, window), subject_weights(scene, motion, window)
        if stage.crop:
            y, x = _corner(rng, scene, motion, window, stage.crop)
            clip = clip[:, y : y + stage.crop, x : x + stage.crop]
            weight = weight[:, y : y + stage.crop, x : x + stage.crop]
        clips.append(clip)
        weights.append(weight)
    pixels = torch.from_numpy(np.stack(clips)).permute(0, 4, 1, 2, 3)
    stacked = torch.from_numpy(np.stack(weights)).unsqueeze(1)
    return pixels.float() / 127.5 - 1, stacked / stacked.mean()


def subject_weights(scene: Scene, motion: Motion, window: range) -> NDArray[np.float32]:
    """Return (F, H, W): SUBJECT_WEIGHT within SUBJECT_REACH radii of a subject's centre, 1 elsewhere."""
    unit = min(scene.shape.width, scene.shape.height)
    centres = motion.screen_positions(scene)
    rows, columns = np.arange(scene.shape.height)[:, None], np.arange(scene.shape.width)[None]
    weights = np.ones((len(window), scene.shape.height, scene.shape.width), dtype=np.float32)
    for row, f in enumerate(window):
        for k, track in enumerate(motion.tracks):
            reach = SUBJECT_REACH * track.radius[f] * motion.camera[f, 2] * unit
            x, y = centres[f, k]
            weights[row][(columns - x) ** 2 + (rows - y) ** 2 < reach**2] = SUBJECT_WEIGHT
    return weights


def _corner(
    rng: np.random.Generator, scene: Scene, motion: Motion, window: range, crop: int
) -> tuple[int, int]:
    """Return top and left of a crop, even numbers; three crops in four lie on a subject."""
    room = (scene.shape.height - crop, scene.shape.width - crop)
    if rng.random() < 0.25:
        return int(rng.integers(room[0] // 2 + 1)) * 2, int(rng.integers(room[1] // 2 + 1)) * 2
    subject = int(rng.integers(len(motion.tracks)))
    x, y = motion.screen_positions(scene)[window[len(window) // 2], subject]
    jitter = rng.normal(0, crop / 8, size=2)
    corner = (np.array([y, x]) - crop / 2 + jitter).clip(0, room)
    return int(corner[0]) // 2 * 2, int(corner[1]) // 2 * 2


class VideoVaeLoss:
    """The loss of a step, by its stage."""

    def __init__(self, vae: VideoVae, stages: tuple[Stage, ...] = STAGES) -> None:
        self.vae, self.stages = vae, stages

    def __call__(self, step: int) -> dict[str, Tensor]:
        stage = next((s for s in self.stages if step < s.until), self.stages[-1])
        pixels, weights = batch(step, stage)
        with torch.autocast("cpu", torch.bfloat16):
            with torch.set_grad_enabled(stage.encoder):
                mean, log_var = self._posterior(pixels)
            generator = torch.Generator().manual_seed(step)
            noise = torch.randn(mean.shape, generator=generator)
            decoded = self.vae.decoder(mean + noise * torch.exp(0.5 * log_var))
        error = decoded.float() - pixels
        square = error.square()
        kl = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).mean()
        return {
            "loss": ((error.abs() + 2 * square) * weights).mean() + KL_WEIGHT * kl,
            "mse": square.detach().mean(),
            "weighted": (square.detach() * weights).mean(),
            "kl": kl.detach(),
            "log_var": -log_var.detach().mean(),
        }

    def _posterior(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return means (B, 128, T, h, w) and the shared log-variance (B, 1, T, h, w), float32."""
        encoder = self.vae.encoder
        out = encoder.posterior(pixels).float()
        return out[:, : encoder.latent_channels], out[:, encoder.latent_channels :].clamp(-8, 1)


def finish(vae: VideoVae, folder: Path) -> None:
    """Fit the statistics of the latents, and store the VAE in `folder`."""
    vae.to(torch.bfloat16).float()  # measure what will be read back
    fit_statistics(vae.per_channel_statistics, _means(vae))
    export(vae, "video-vae", sections(), folder)


@torch.no_grad()
def _means(vae: VideoVae) -> Iterator[Tensor]:
    """Yield encoder means (1, 128, 3, h, w) of clips of 17 whole frames."""
    whole = Stage(until=0, frames=17, crop=0, batch=1)
    for index in range(NUM_STATISTICS_CLIPS):
        pixels, _ = batch(1_000_000 + index, whole)
        with torch.autocast("cpu", torch.bfloat16):
            means = vae.encoder(pixels)
        yield means
