"""Train nano's preview VAE: latents to a clip of a quarter of the size, by regression on its pixels.

It is a decoder of the TAEHV family at small width, without an encoder. In the middle of denoising latents
lie between noise and picture, so some training latents are noised: the best answer is then a blurred one,
which is a good preview.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from soundstage.model.audio_vae import AudioVae
from soundstage.model.preview import TinyDecoder, TinyVaeConfig
from soundstage.model.video_vae import VideoVae
from soundstage.nano.training.export import write
from soundstage.nano.training.latents import build as build_shards
from soundstage.nano.training.latents import encode_pixels, shard_path, shard_shape
from soundstage.nano.world.motion import simulate
from soundstage.nano.world.render import render
from soundstage.nano.world.scene import draw_scene
from soundstage.sampling.streams import mixed
from soundstage.training.optimizers import Schedule

# A quarter of the size: 48x32 of nano's 192x128.
CONFIG = TinyVaeConfig(widths=(48, 32, 24, 16), patch=1)
SHRINK = 32 // (8 * CONFIG.patch)
CLIPS_PER_SHARD = 32
NUM_SHARDS = 8
SEED = 40_000_000
BATCH = 4
FRAMES = 3  # latent frames of a training window, 17 frames of pixels
NOISED_SHARE, MOST_NOISE = 0.3, 0.5
SCHEDULE = Schedule(steps=1200, rate=2e-3, muon=2e-3, warmup=60, average=0.99)


def build() -> TinyDecoder:
    torch.manual_seed(0)
    return TinyDecoder(CONFIG)


def finish(decoder: TinyDecoder, folder: Path) -> None:
    """Store the decoder in `folder`; its config is in its shapes, as in the published files."""
    write(decoder.state_dict(), {}, folder / "preview.safetensors")


@torch.inference_mode()
def encode_shard(shard: int, video_vae: VideoVae, audio_vae: AudioVae) -> dict[str, Tensor]:
    """Return a shard of scenes that are not held out.

    "video" is latents (n, 128, T, h, w), "small" is uint8 (n, 3, F, H/4, W/4).
    """
    videos, smalls = [], []
    for i in range(CLIPS_PER_SHARD):
        scene = draw_scene(SEED + shard * CLIPS_PER_SHARD + i, shard_shape(shard))
        frames = render(scene, simulate(scene))
        videos.append(encode_pixels(frames, video_vae))
        pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
        smalls.append(F.avg_pool2d(pixels, SHRINK).round().to(torch.uint8).transpose(0, 1)[None])
    return {"video": torch.cat(videos), "small": torch.cat(smalls)}


def loss(decoder: TinyDecoder, weights: Path, folder: Path) -> PreviewLoss:
    """Return the loss over the clips in `folder`, which are made first where they are missing."""
    build_shards(folder, NUM_SHARDS, weights, make=encode_shard)
    return PreviewLoss(decoder, [load_file(shard_path(folder, shard)) for shard in range(NUM_SHARDS)])


@dataclass
class PreviewLoss:
    """The loss of a step. shards: as `encode_shard` makes them."""

    decoder: TinyDecoder
    shards: list[dict[str, Tensor]]

    def __call__(self, step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([22, step])
        shard = self.shards[int(rng.integers(len(self.shards)))]
        picks = rng.integers(len(shard["video"]), size=BATCH)
        start = int(rng.integers(max(1, shard["video"].shape[2] - FRAMES + 1)))
        latents = shard["video"][picks, :, start : start + FRAMES].float()
        latents = self._noised(rng, step, latents)
        made = self.decoder(latents)
        # Within a clip the first latent of a window covers eight frames, of which the last is decoded.
        first = 8 * start
        true = shard["small"][picks, :, first : first + made.shape[2]].float() / 255
        error = made - true
        square = error.square().mean()
        return {"loss": error.abs().mean() + 2 * square, "mse": square.detach()}

    def _noised(self, rng: np.random.Generator, step: int, latents: Tensor) -> Tensor:
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(step))
        levels = np.where(rng.random(BATCH) < NOISED_SHARE, MOST_NOISE * rng.random(BATCH), 0.0)
        return mixed(latents, noise, torch.from_numpy(levels).float())
