"""Train nano's latent upsamplers: space x2, space x1.5 and time x2, of the published structure.

Each learns from pairs of latents: a scene rendered small (or at half the frame rate) and encoded, and the
same scene rendered large (or at the full rate) and encoded. At inference the transformer's latents of the
small size are upsampled, which are like those of the small render. The loss is on normalised latents, so
that every channel counts alike, and on a few decoded cells.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from soundstage.model.audio_vae import AudioVae
from soundstage.model.config import UpsamplerConfig
from soundstage.model.published import upsampler_header
from soundstage.model.upsampler import LatentUpsampler, upsample_latents
from soundstage.model.video_vae import VideoVae
from soundstage.nano.training.convolutions import use_flat_convolutions
from soundstage.nano.training.export import load_video_vae, write
from soundstage.nano.training.latents import (
    CLIPS_AT_ONCE,
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
from soundstage.nano.world.scene import FPS, Scene
from soundstage.training.batches import Batch
from soundstage.training.optimizers import Schedule
from soundstage.training.precision import training_precision

UpsamplerName = Literal["x2", "x1.5", "time"]
PARTS: dict[str, UpsamplerName] = {"spatial-x2": "x2", "spatial-x1.5": "x1.5", "temporal-x2": "time"}

# The three files together are to stay under 7 MB. At one block a stage 64 channels fit; four blocks of 32
# would cost as much, but 128 channels of a cell do not fit through 32.
WIDTH, BLOCKS = 64, 1
BATCH: dict[TrainingScale, int] = {"tiny": 2, "cpu": 8, "cuda": 64}
SCHEDULE = Schedule(minutes=10, rate=1e-3, muon=2e-3, warmup=60, average=0.99)

# The error of decoded cells: cells a side, latent frames, and its weight in the loss.
DECODED_CELLS, DECODED_FRAMES, DECODED_WEIGHT = 2, 2, 1.0

# (width, height, frames, share of shards) of the small side of a pair. 17 frames, three latent ones, are the
# fewest: over two, the weights of a convolution padded in time have wrong gradients in bfloat16 on a CPU
# (seen in torch 2.13, with oneDNN).
MIXES: dict[UpsamplerName, Mix] = {
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
TINY_MIX: Mix = ((64, 64, 17, 1.0),)
KEYS: dict[UpsamplerName, int] = {"x2": 41, "x1.5": 42, "time": 43}  # of the scenes


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


def enlarged(kind: UpsamplerName, scene: Scene) -> Scene:
    """Return the same shot with more pixels, or with twice the frames in the same time."""
    shape = scene.shape
    if kind == "time":
        return replace(scene, fps=2 * FPS, shape=replace(shape, num_frames=2 * shape.num_frames - 1))
    num, den = UpsamplerConfig.from_header(header(kind)).scale
    larger = replace(shape, width=shape.width * num // den, height=shape.height * num // den)
    return replace(scene, shape=larger)


@dataclass(frozen=True)
class PairMaker:
    """Draw pairs of one shape, as `Make`: frames (n, F, H, W, 3) low and high; encode them if `encode`."""

    kind: UpsamplerName
    weights: Path
    mix: Mix
    count: int
    encode: bool

    def __call__(self, number: int, progress: float) -> Batch:
        shape = shape_of(number, self.mix)
        pairs = [rendered_pair(self.kind, s) for s in draw_scenes(KEYS[self.kind], number, shape, self.count)]
        tensors = {
            name: torch.from_numpy(np.stack([pair[i] for pair in pairs])) for i, name in enumerate(PAIR)
        }
        made = Batch(f"{shape.width}x{shape.height}x{shape.num_frames}", tensors, self.count)
        return encoded_pairs(made, *vaes_of(self.weights)) if self.encode else made


PAIR = ("low", "high")


def rendered_pair(kind: UpsamplerName, scene: Scene) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return the frames of a scene, small or slow, and those of the same shot in full."""
    target = enlarged(kind, scene)
    high = render(target, simulate(target))
    return (high[::2] if kind == "time" else render(scene, simulate(scene))), high


def encoded_pairs(pairs: Batch, video_vae: VideoVae, audio_vae: AudioVae) -> Batch:
    """Return normalised latents of pairs: "low" (n, 128, T, h, w) and "high" (n, 128, T', h', w')."""
    latents = {name: encode_frames(pairs[name], video_vae) for name in PAIR}
    return Batch(pairs.kind, latents, pairs.samples)


def batches(run: PartRun, kind: UpsamplerName) -> Iterator[Batch]:
    """Yield latents of pairs for every step, and the cells of one of them that are decoded."""
    mix, count = TINY_MIX if run.scale == "tiny" else MIXES[kind], CLIPS_AT_ONCE[run.scale]
    pairs = supply(run, lambda encode: PairMaker(kind, run.weights, mix, count, encode), encoded_pairs)
    for rng, stock in pairs.steps(21, run.first):
        shelf = stock.kind(rng)
        rows = stock.draw(rng, shelf, BATCH[run.scale])
        yield Batch(shelf, rows | decoded_cells(rng, rows["high"]), BATCH[run.scale])


def decoded_cells(rng: np.random.Generator, high: Tensor) -> dict[str, Tensor]:
    """Return the numbers of latent frames, rows and columns of cells to decode, drawn anew for a step."""
    sizes = (DECODED_FRAMES, DECODED_CELLS, DECODED_CELLS)
    cells = {}
    for name, n, size in zip(AXES, high.shape[2:], sizes, strict=True):
        start = int(rng.integers(max(1, n - size + 1)))
        cells[name] = torch.arange(start, min(n, start + size), device=high.device)
    return cells


AXES = ("frames", "rows", "columns")

# --- loss -------------------------------------------------------------------------------------------


class UpsamplerLoss:
    """The loss of a batch. vae: whose latents these are."""

    def __init__(self, upsampler: LatentUpsampler, vae: VideoVae, device: torch.device) -> None:
        self.upsampler, self.vae, self.device = upsampler, vae.to(device).requires_grad_(False), device
        if device.type == "cuda":
            use_flat_convolutions(upsampler)
            use_flat_convolutions(vae)

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        low, high = batch["low"].float(), batch["high"].float()
        with training_precision(self.device):
            made = upsample_latents(low, self.upsampler, self.vae.per_channel_statistics).float()
        error = made - high
        square = error.square().mean()
        decoded = self._decoded(batch, made, high)
        return {
            "loss": error.abs().mean() + square + DECODED_WEIGHT * decoded,
            "square": square.detach(),
            "decoded": decoded.detach(),
        }

    def _decoded(self, batch: Batch, made: Tensor, high: Tensor) -> Tensor:
        """Return the L1 error of a few decoded cells of one sample."""
        pair = torch.cat([made[:1], high[:1]])
        for axis, name in enumerate(AXES, start=2):
            pair = pair.index_select(axis, batch[name])
        with training_precision(self.device):
            ours, true = self.vae.decode(pair).float().chunk(2)
        return (ours - true).abs().mean()


def loss(upsampler: LatentUpsampler, weights: Path, device: torch.device) -> UpsamplerLoss:
    """Return the loss of an upsampler of the latents of the VAE in `weights`."""
    return UpsamplerLoss(upsampler, load_video_vae(weights), device)
