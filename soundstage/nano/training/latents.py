"""The transformer's data: shots of the world, rendered and encoded once, kept as shards on disk.

A shard is 64 clips of one size and length; which, and which scenes, follows from its number. Building
resumes: a shard is written under a temporary name and renamed, and one that exists is kept.
"""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor

from soundstage.model.audio_vae import AudioVae, patchify_audio
from soundstage.model.mel import log_mel, resample
from soundstage.model.video_vae import VideoVae
from soundstage.nano.world.motion import simulate
from soundstage.nano.world.render import render
from soundstage.nano.world.scene import BUCKETS, Scene, draw_scene
from soundstage.nano.world.sound import synthesize
from soundstage.types import MEL_RATE_HZ, OUTPUT_RATE_HZ, VideoShape, audio_latent_length

CLIPS_PER_SHARD = 64
# (orientation, frames, share of shards): mostly two seconds of landscape, enough of the rest to follow
MIX = (
    ("landscape", 49, 0.56),
    ("portrait", 49, 0.12),
    ("square", 49, 0.12),
    ("landscape", 25, 0.08),
    ("landscape", 97, 0.08),
    ("landscape", 121, 0.02),
    ("landscape", 9, 0.02),
)


def shard_shape(shard: int) -> VideoShape:
    """Size and length of a shard's clips; shares follow MIX as numbers grow, whatever the count."""
    place = (shard * 0.6180339887) % 1.0
    for orientation, frames, share in MIX:
        if place < share:
            width, height = BUCKETS[orientation]
            return VideoShape(frames, height, width)
        place -= share
    raise AssertionError("the shares of MIX sum to 1")


def shard_scenes(shard: int) -> list[Scene]:
    """The scenes of a shard, none of them held out."""
    shape = shard_shape(shard)
    return [draw_scene(shard * CLIPS_PER_SHARD + i, shape) for i in range(CLIPS_PER_SHARD)]


def clip_mel(waveform: Tensor) -> Tensor:
    """(B, 2, samples) at 48 kHz -> log-mel (B, 2, M, 64)."""
    return log_mel(resample(waveform, OUTPUT_RATE_HZ, MEL_RATE_HZ))


@torch.inference_mode()
def encode_scenes(scenes: list[Scene], video_vae: VideoVae, audio_vae: AudioVae) -> dict[str, Tensor]:
    """{"video": (n, 128, T, h, w), "audio": (n, L, 128)} normalised latents of scenes of one shape."""
    videos, audios = [], []
    for scene in scenes:
        motion = simulate(scene)
        pixels = torch.from_numpy(render(scene, motion)).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
        with torch.autocast("cpu", torch.bfloat16):
            videos.append(video_vae.encode(pixels).bfloat16())
        # One more frame of silence than the clip has, so that the mel covers every audio latent.
        sound = torch.from_numpy(synthesize(scene, motion))[None]
        mel = clip_mel(torch.nn.functional.pad(sound, (0, OUTPUT_RATE_HZ // 10)))
        length = audio_latent_length(scene.shape.num_frames, scene.fps)
        audios.append(patchify_audio(audio_vae.encode(mel)[:, :, :length]).bfloat16())
    return {"video": torch.cat(videos), "audio": torch.cat(audios)}


@dataclass
class LatentSet:
    """Clips of one shape: latents and the scenes they came from."""

    shape: VideoShape
    video: Tensor
    audio: Tensor
    scenes: list[Scene]


def build(folder: Path, num_shards: int, weights: Path, workers: int = 2) -> None:
    """Write every shard of 0..num_shards-1 that is not there yet. weights: folder of the trained VAEs."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [s for s in range(num_shards) if not (folder / f"{s:05d}.safetensors").exists()]
    if not missing:
        return
    console = Console(stderr=True)
    jobs = [(folder, shard, weights) for shard in missing]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for done, shard in enumerate(pool.map(_build_shard, jobs), start=1):
            console.print(f"latents: shard {shard}, {done}/{len(missing)}")


_vaes: dict[Path, tuple[VideoVae, AudioVae]] = {}


def _build_shard(job: tuple[Path, int, Path]) -> int:
    from soundstage.nano.training.export import load_audio_vae, load_video_vae

    folder, shard, weights = job
    torch.set_num_threads(1)
    if weights not in _vaes:
        _vaes[weights] = (load_video_vae(weights), load_audio_vae(weights))
    tensors = encode_scenes(shard_scenes(shard), *_vaes[weights])
    path = folder / f"{shard:05d}.safetensors"
    part = path.with_suffix(".part")
    save_file(tensors, part)
    os.replace(part, path)
    return shard


def load(folder: Path, num_shards: int) -> list[LatentSet]:
    """All shards, joined by shape; in order, so that an index means the same clip every time."""
    sets: dict[VideoShape, list[tuple[dict[str, Tensor], list[Scene]]]] = {}
    for shard in range(num_shards):
        tensors = load_file(folder / f"{shard:05d}.safetensors")
        sets.setdefault(shard_shape(shard), []).append((tensors, shard_scenes(shard)))
    return [
        LatentSet(
            shape,
            torch.cat([t["video"] for t, _ in parts]),
            torch.cat([t["audio"] for t, _ in parts]),
            [scene for _, scenes in parts for scene in scenes],
        )
        for shape, parts in sets.items()
    ]
