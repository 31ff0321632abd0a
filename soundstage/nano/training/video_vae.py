"""Train nano's video VAE: stills first, then short crops of clips, then whole frames.

Stills form the spatial part at a third of the cost (one frame needs only 2-D convolutions); a training that
begins with clips stalls. The loss is L1 plus squared error. A small KL term keeps latents smooth and near
unit variance for the transformer. Subjects fill only a tenth of a picture: their pixels count more, and
crops lie on them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from soundstage.model.config import VideoVaeConfig
from soundstage.model.published import video_vae_header
from soundstage.model.video_vae import Conv3d, Downsample, ResBlock, Upsample, VideoVae
from soundstage.nano.training.convolutions import use_flat_convolutions
from soundstage.nano.training.export import export
from soundstage.nano.training.runs import PartRun, TrainingScale
from soundstage.nano.training.statistics import fit_statistics
from soundstage.nano.world.motion import Motion, simulate
from soundstage.nano.world.render import render
from soundstage.nano.world.scene import BUCKETS, Scene, draw_scene
from soundstage.training.batches import Batch
from soundstage.training.optimizers import Schedule
from soundstage.training.precision import training_precision
from soundstage.types import VideoShape

ENCODER_WIDTH = 16
DECODER_WIDTH = 24
KL_WEIGHT = 1e-4
NUM_STATISTICS_CLIPS: dict[TrainingScale, int] = {"tiny": 2, "cpu": 100, "cuda": 64}


@dataclass(frozen=True)
class Stage:
    """A stretch of the training with batches of one kind."""

    until: float  # the share of the schedule at which it ends
    frames: int  # of a clip
    crop: int  # pixels a side that a clip is cut to; 0: whole frames
    batch: int  # clips
    encoder: bool = True  # False trains the decoder alone: latents that are already made stay valid


STAGES = (
    Stage(until=0.12, frames=1, crop=128, batch=16),
    Stage(until=0.25, frames=9, crop=64, batch=12),
    Stage(until=0.55, frames=17, crop=96, batch=4),
    Stage(until=0.78, frames=9, crop=96, batch=7),
    Stage(until=1.0, frames=17, crop=0, batch=2, encoder=False),
)
CUDA_BATCHES = 12  # times those above
TINY = tuple(replace(stage, frames=min(stage.frames, 9), crop=32, batch=1) for stage in STAGES)


def stages_of(scale: TrainingScale) -> tuple[Stage, ...]:
    """Return the stages with the batches of a scale."""
    if scale == "tiny":
        return TINY
    times = CUDA_BATCHES if scale == "cuda" else 1
    return tuple(replace(stage, batch=times * stage.batch) for stage in STAGES)


SUBJECT_WEIGHT = 6.0  # of a subject's pixels over others
SUBJECT_REACH = 1.25  # in radii: the subject, its rim and a little of the background
SCHEDULE = Schedule(minutes=144, rate=2e-3, muon=3e-3, warmup=100)


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


def batch(step: int, stage: Stage) -> Batch:
    """Return a step's frames (B, 3, F, H, W), uint8, and where subjects are (B, 1, F, H, W), bool.

    A function of its arguments alone.
    """
    rng = np.random.default_rng([7, step])
    width, height = BUCKETS[list(BUCKETS)[int(rng.integers(len(BUCKETS)))]]
    clips, near = [], []
    for _ in range(stage.batch):
        scene = draw_scene(int(rng.integers(2**62)), VideoShape(49, height, width))
        start = int(rng.integers(49 - stage.frames + 1))
        window = range(start, start + stage.frames)
        motion = simulate(scene)
        clip, subjects = render(scene, motion, window), near_subjects(scene, motion, window)
        if stage.crop:
            y, x = _corner(rng, scene, motion, window, stage.crop)
            clip = clip[:, y : y + stage.crop, x : x + stage.crop]
            subjects = subjects[:, y : y + stage.crop, x : x + stage.crop]
        clips.append(clip)
        near.append(subjects)
    frames = torch.from_numpy(np.stack(clips)).permute(0, 4, 1, 2, 3).contiguous()
    part = "both" if stage.encoder else "decoder"
    kind = f"{part} {'x'.join(str(n) for n in frames.shape)}"
    return Batch(kind, {"frames": frames, "near": torch.from_numpy(np.stack(near)).unsqueeze(1)}, stage.batch)


@dataclass(frozen=True)
class FrameMaker:
    """Make the frames of a step by the stage that its progress is in, as `Make`."""

    stages: tuple[Stage, ...]

    def __call__(self, number: int, progress: float) -> Batch:
        return batch(number, next((s for s in self.stages if progress < s.until), self.stages[-1]))


def batches(run: PartRun) -> Iterator[Batch]:
    """Yield frames for every step."""
    return run.batches(FrameMaker(stages_of(run.scale)))


def near_subjects(scene: Scene, motion: Motion, window: range) -> NDArray[np.bool_]:
    """Return (F, H, W): whether a pixel lies within SUBJECT_REACH radii of a subject's centre."""
    unit = min(scene.shape.width, scene.shape.height)
    centres = motion.screen_positions(scene)
    rows, columns = np.arange(scene.shape.height)[:, None], np.arange(scene.shape.width)[None]
    near = np.zeros((len(window), scene.shape.height, scene.shape.width), dtype=np.bool_)
    for row, f in enumerate(window):
        for k, track in enumerate(motion.tracks):
            reach = SUBJECT_REACH * track.radius[f] * motion.camera[f, 2] * unit
            x, y = centres[f, k]
            near[row] |= (columns - x) ** 2 + (rows - y) ** 2 < reach**2
    return near


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


def pixels_of(frames: Tensor) -> Tensor:
    """Return pixels in [-1, 1] of bytes."""
    return frames.float() / 127.5 - 1


def weights_of(near: Tensor) -> Tensor:
    """Return the weights of pixels, of mean 1. near: where subjects are, bool."""
    weights = 1 + (SUBJECT_WEIGHT - 1) * near.float()
    return weights / weights.mean()


class VideoVaeLoss:
    """The loss of a batch; one whose kind begins with "decoder" trains the decoder alone."""

    def __init__(self, vae: VideoVae, device: torch.device) -> None:
        self.vae, self.device = vae, device
        if device.type == "cuda":
            use_flat_convolutions(vae)

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        pixels, weights = pixels_of(batch["frames"]), weights_of(batch["near"])
        learns = torch.is_grad_enabled() and not batch.kind.startswith("decoder")
        with training_precision(self.device):
            with torch.set_grad_enabled(learns):
                mean, log_var = self._posterior(pixels)
            decoded = self.vae.decoder(mean + torch.randn_like(mean) * torch.exp(0.5 * log_var))
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


def finish(vae: VideoVae, folder: Path, scale: TrainingScale) -> None:
    """Fit the statistics of the latents, and store the VAE in `folder`."""
    vae.to(torch.bfloat16).float()  # measure what will be read back
    fit_statistics(vae.per_channel_statistics, _means(vae, NUM_STATISTICS_CLIPS[scale]))
    export(vae, "video-vae", sections(), folder)


@torch.no_grad()
def _means(vae: VideoVae, count: int) -> Iterator[Tensor]:
    """Yield encoder means (1, 128, 3, h, w) of clips of 17 whole frames."""
    whole = Stage(until=0, frames=17, crop=0, batch=1)
    for index in range(count):
        pixels = pixels_of(batch(2**40 + index, whole)["frames"])
        with training_precision(pixels.device):
            means = vae.encoder(pixels)
        yield means
