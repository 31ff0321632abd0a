"""Train nano's latent upsamplers: space x2, space x1.5 and time x2, of the published structure.

Each learns from pairs of latents: a scene rendered small (or at half the frame rate) and encoded, and the
same scene rendered large (or at the full rate) and encoded. At inference the transformer's latents of the
small size are upsampled, which are like those of the small render. The loss is on normalised latents, so
that every channel counts alike, and on a few decoded cells.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from soundstage.model.audio_vae import AudioVae
from soundstage.model.config import UpsamplerConfig
from soundstage.model.published import upsampler_header
from soundstage.model.upsampler import LatentUpsampler, upsample_latents
from soundstage.model.video_vae import VideoVae
from soundstage.nano.training.export import load_video_vae, write
from soundstage.nano.training.latents import build as build_shards
from soundstage.nano.training.latents import encode_pixels, kind_of, shard_path
from soundstage.nano.world.motion import simulate
from soundstage.nano.world.render import render
from soundstage.nano.world.scene import FPS, Scene, draw_scene
from soundstage.training.optimizers import Schedule
from soundstage.types import VideoShape

UpsamplerName = Literal["x2", "x1.5", "time"]
PARTS: dict[str, UpsamplerName] = {"spatial-x2": "x2", "spatial-x1.5": "x1.5", "temporal-x2": "time"}

# The three files together are to stay under 7 MB. At one block a stage 64 channels fit; four blocks of 32
# would cost as much, but 128 channels of a cell do not fit through 32.
WIDTH, BLOCKS = 64, 1
CLIPS_PER_SHARD = 32
NUM_SHARDS = 12
BATCH = 8
SCHEDULE = Schedule(steps=700, rate=1e-3, muon=2e-3, warmup=60, average=0.99)

# The error of decoded cells: cells a side, latent frames, and its weight in the loss.
DECODED_CELLS, DECODED_FRAMES, DECODED_WEIGHT = 2, 2, 1.0

# (width, height, frames, share of shards) of the small side of a pair. 17 frames, three latent ones, are the
# fewest: over two, the weights of a convolution padded in time have wrong gradients in bfloat16 on a CPU
# (seen in torch 2.13, with oneDNN).
MIXES: dict[UpsamplerName, tuple[tuple[int, int, int, float], ...]] = {
    "x2": (
        (96, 64, 49, 0.46),
        (64, 96, 49, 0.14),
        (64, 64, 49, 0.14),
        (96, 64, 25, 0.08),
        (96, 64, 97, 0.08),
        (192, 128, 17, 0.10),
    ),
    # Even numbers of cells: the resampler rounds 3n/2 up, which odd ones would stretch.
    "x1.5": (
        (128, 128, 49, 0.40),
        (128, 64, 49, 0.25),
        (64, 128, 49, 0.20),
        (128, 128, 25, 0.15),
    ),
    "time": (
        (192, 128, 25, 0.46),
        (128, 192, 25, 0.16),
        (128, 128, 25, 0.16),
        (192, 128, 49, 0.12),
        (192, 128, 17, 0.10),
    ),
}
SEEDS: dict[UpsamplerName, int] = {"x2": 10_000_000, "x1.5": 20_000_000, "time": 30_000_000}


def header(kind: UpsamplerName) -> dict[str, Any]:
    """Return the config stored with the weights."""
    return upsampler_header(kind, mid_channels=WIDTH, blocks_per_stage=BLOCKS)


def build(kind: UpsamplerName) -> LatentUpsampler:
    torch.manual_seed(0)
    return LatentUpsampler(UpsamplerConfig.from_header(header(kind)))


def finish(kind: UpsamplerName, part: str, upsampler: LatentUpsampler, folder: Path) -> None:
    """Store an upsampler in `folder`."""
    write(upsampler.state_dict(), header(kind), folder / f"{part}.safetensors")


# --- pairs ------------------------------------------------------------------------------------------


def shard_scenes(kind: UpsamplerName, shard: int) -> list[Scene]:
    """Return the small scenes of a shard, none of them held out."""
    mix = MIXES[kind]
    width, height, frames, _ = mix[kind_of(shard, [share for *_, share in mix])]
    first = SEEDS[kind] + shard * CLIPS_PER_SHARD
    shape = VideoShape(frames, height, width)
    return [draw_scene(first + i, shape) for i in range(CLIPS_PER_SHARD)]


def enlarged(kind: UpsamplerName, scene: Scene) -> Scene:
    """Return the same shot with more pixels, or with twice the frames in the same time."""
    shape = scene.shape
    if kind == "time":
        return replace(scene, fps=2 * FPS, shape=replace(shape, num_frames=2 * shape.num_frames - 1))
    num, den = UpsamplerConfig.from_header(header(kind)).scale
    larger = replace(shape, width=shape.width * num // den, height=shape.height * num // den)
    return replace(scene, shape=larger)


@torch.inference_mode()
def encode_pairs(
    kind: UpsamplerName, shard: int, video_vae: VideoVae, audio_vae: AudioVae
) -> dict[str, Tensor]:
    """Return normalised latents of pairs: "low" (n, 128, T, h, w) and "high" (n, 128, T', h', w')."""
    lows, highs = [], []
    for scene in shard_scenes(kind, shard):
        target = enlarged(kind, scene)
        high = render(target, simulate(target))
        low = np.ascontiguousarray(high[::2]) if kind == "time" else render(scene, simulate(scene))
        lows.append(encode_pixels(low, video_vae))
        highs.append(encode_pixels(high, video_vae))
    return {"low": torch.cat(lows), "high": torch.cat(highs)}


def build_pairs(kind: UpsamplerName, folder: Path, weights: Path) -> list[dict[str, Tensor]]:
    """Return the shards of a kind, made first where they are missing."""
    build_shards(folder, NUM_SHARDS, weights, make=partial(encode_pairs, kind))
    return [load_file(shard_path(folder, shard)) for shard in range(NUM_SHARDS)]


# --- loss -------------------------------------------------------------------------------------------


def loss(kind: UpsamplerName, upsampler: LatentUpsampler, weights: Path, folder: Path) -> UpsamplerLoss:
    """Return the loss over the pairs in `folder`, which are made first where they are missing."""
    return UpsamplerLoss(upsampler, load_video_vae(weights), build_pairs(kind, folder, weights))


@dataclass
class UpsamplerLoss:
    """The loss of a step. shards: pairs as `encode_pairs` makes them."""

    upsampler: LatentUpsampler
    vae: VideoVae
    shards: list[dict[str, Tensor]]

    def __call__(self, step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([21, step])
        shard = self.shards[int(rng.integers(len(self.shards)))]
        picks = rng.integers(len(shard["low"]), size=BATCH)
        low, high = shard["low"][picks].float(), shard["high"][picks].float()
        with torch.autocast("cpu", torch.bfloat16):
            made = upsample_latents(low, self.upsampler, self.vae.per_channel_statistics).float()
        error = made - high
        square = error.square().mean()
        decoded = self._decoded(rng, made, high)
        return {
            "loss": error.abs().mean() + square + DECODED_WEIGHT * decoded,
            "square": square.detach(),
            "decoded": decoded.detach(),
        }

    def _decoded(self, rng: np.random.Generator, made: Tensor, high: Tensor) -> Tensor:
        """Return the L1 error of a few decoded cells of one sample."""
        sizes = (DECODED_FRAMES, DECODED_CELLS, DECODED_CELLS)
        starts = [
            int(rng.integers(max(1, n - size + 1))) for n, size in zip(made.shape[2:], sizes, strict=True)
        ]
        cells = tuple(slice(start, start + size) for start, size in zip(starts, sizes, strict=True))
        pair = torch.cat([made[:1, :, *cells], high[:1, :, *cells]])
        with torch.autocast("cpu", torch.bfloat16):
            ours, true = self.vae.decode(pair).float().chunk(2)
        return (ours - true).abs().mean()
