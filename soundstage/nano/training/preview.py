"""Train nano's preview VAE: latents to a clip of a quarter of the size, by regression on its pixels.

It is a decoder of the TAEHV family at small width, without an encoder. In the middle of denoising latents
lie between noise and picture, so some training latents are noised: the best answer is then a blurred one,
which is a good preview.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from soundstage.model.audio_vae import AudioVae
from soundstage.model.preview import TinyDecoder, TinyVaeConfig
from soundstage.model.video_vae import VideoVae
from soundstage.nano.training.export import write
from soundstage.nano.training.latents import (
    CLIPS_AT_ONCE,
    MIX,
    TINY_MIX,
    Mix,
    draw_scenes,
    encode_frames,
    shape_of,
    supply,
    vaes_of,
)
from soundstage.nano.training.runs import PartRun, TrainingScale
from soundstage.nano.world.motion import simulate
from soundstage.nano.world.render import render
from soundstage.sampling.streams import mixed
from soundstage.training.batches import Batch
from soundstage.training.optimizers import Schedule

# A quarter of the size: 48x32 of nano's 192x128.
CONFIG = TinyVaeConfig(widths=(48, 32, 24, 16), patch=1)
SHRINK = 32 // (8 * CONFIG.patch)
BATCH: dict[TrainingScale, int] = {"tiny": 2, "cpu": 4, "cuda": 64}
FRAMES = 3  # latent frames of a training window, 17 frames of pixels
NOISED_SHARE, MOST_NOISE = 0.3, 0.5
SCHEDULE = Schedule(minutes=7, rate=2e-3, muon=2e-3, warmup=60, average=0.99)


def build() -> TinyDecoder:
    torch.manual_seed(0)
    return TinyDecoder(CONFIG)


def finish(decoder: TinyDecoder, folder: Path) -> None:
    """Store the decoder in `folder`; its config is in its shapes, as in the published files."""
    write(decoder.state_dict(), {}, folder / "preview.safetensors")


@dataclass(frozen=True)
class ShotMaker:
    """Draw shots of one shape, as `Make`: frames (n, F, H, W, 3); encode them if `encode`."""

    weights: Path
    mix: Mix
    count: int
    encode: bool

    def __call__(self, number: int, progress: float) -> Batch:
        shape = shape_of(number, self.mix)
        scenes = draw_scenes(44, number, shape, self.count)
        frames = np.stack([render(scene, simulate(scene)) for scene in scenes])
        name = f"{shape.width}x{shape.height}x{shape.num_frames}"
        shots = Batch(name, {"frames": torch.from_numpy(frames)}, self.count)
        return encoded_shots(shots, *vaes_of(self.weights)) if self.encode else shots


def encoded_shots(shots: Batch, video_vae: VideoVae, audio_vae: AudioVae) -> Batch:
    """Return shots as latents and as small pictures.

    "video" is (n, 128, T, h, w), "small" is uint8 (n, 3, F, H/4, W/4).
    """
    frames = shots["frames"]
    pixels = frames.flatten(0, 1).permute(0, 3, 1, 2).float()
    small = F.avg_pool2d(pixels, SHRINK).round().to(torch.uint8)
    rows = {
        "video": encode_frames(frames, video_vae),
        "small": torch.unflatten(small, 0, frames.shape[:2]).transpose(1, 2).contiguous(),
    }
    return Batch(shots.kind, rows, shots.samples)


def batches(run: PartRun) -> Iterator[Batch]:
    """Yield windows of latents for every step, some of them noised, and their small pictures."""
    mix, count = TINY_MIX if run.scale == "tiny" else MIX, CLIPS_AT_ONCE[run.scale]
    shots = supply(run, lambda encode: ShotMaker(run.weights, mix, count, encode), encoded_shots)
    for rng, stock in shots.steps(22, run.first):
        kind = stock.kind(rng)
        rows = stock.draw(rng, kind, BATCH[run.scale])
        yield Batch(kind, window(rng, rows["video"], rows["small"]), BATCH[run.scale])


def window(rng: np.random.Generator, video: Tensor, small: Tensor) -> dict[str, Tensor]:
    """Return FRAMES latent frames of clips, noised, and the small frames that they decode to."""
    start = int(rng.integers(max(1, video.shape[2] - FRAMES + 1)))
    latents = video[:, :, start : start + FRAMES].float()
    # Within a clip the first latent of a window covers eight frames, of which the last is decoded.
    frames = 8 * latents.shape[2] - 7
    return {"latents": _noised(rng, latents), "small": small[:, :, 8 * start : 8 * start + frames]}


def _noised(rng: np.random.Generator, latents: Tensor) -> Tensor:
    count = len(latents)
    levels = np.where(rng.random(count) < NOISED_SHARE, MOST_NOISE * rng.random(count), 0.0)
    return mixed(latents, torch.randn_like(latents), torch.from_numpy(levels).float().to(latents.device))


class PreviewLoss:
    """The loss of a batch: L1 and squared error of pixels in [0, 1]."""

    def __init__(self, decoder: TinyDecoder) -> None:
        self.decoder = decoder

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        error = self.decoder(batch["latents"]) - batch["small"].float() / 255
        square = error.square().mean()
        return {"loss": error.abs().mean() + 2 * square, "mse": square.detach()}
