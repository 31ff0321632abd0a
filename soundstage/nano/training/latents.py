"""Make the transformer's data: shots of the world, rendered and encoded once, in shards on disk.

A shard is 64 clips of one size and length. Its number decides size, length and scenes. Building resumes:
a shard is written under a temporary name and renamed, and one that exists is kept.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor

from soundstage.model.audio_vae import AudioVae, patchify_audio
from soundstage.model.mel import log_mel, resample
from soundstage.model.video_vae import VideoVae
from soundstage.nano.training.export import load_audio_vae, load_video_vae
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
    """Return size and length of a shard's clips."""
    orientation, frames, _ = MIX[kind_of(shard, [share for *_, share in MIX])]
    width, height = BUCKETS[orientation]
    return VideoShape(frames, height, width)


def kind_of(shard: int, shares: Sequence[float]) -> int:
    """Return the kind of a shard; for any number of shards, kinds have about these shares."""
    place = (shard * 0.6180339887) % 1.0
    for kind, share in enumerate(shares):
        if place < share:
            return kind
        place -= share
    raise AssertionError("the shares sum to 1")


def shard_scenes(shard: int) -> list[Scene]:
    """Return the scenes of a shard, none of them held out."""
    shape = shard_shape(shard)
    return [draw_scene(shard * CLIPS_PER_SHARD + i, shape) for i in range(CLIPS_PER_SHARD)]


# The same for clips of half the size, with which recipes of several passes begin.
SMALL_MIX = (("landscape", 49, 0.6), ("portrait", 49, 0.15), ("square", 49, 0.15), ("landscape", 97, 0.1))
FIRST_SMALL_SCENE = 20_000_000


def small_scenes(shard: int) -> list[Scene]:
    """Return the scenes of a shard of clips of half size."""
    orientation, frames, _ = SMALL_MIX[kind_of(shard, [share for *_, share in SMALL_MIX])]
    width, height = BUCKETS[orientation]
    shape = VideoShape(frames, height // 2, width // 2)
    first = FIRST_SMALL_SCENE + shard * CLIPS_PER_SHARD
    return [draw_scene(first + i, shape) for i in range(CLIPS_PER_SHARD)]


PICTURES_PER_CLIP = 3


def picture_times(shard: int) -> NDArray[np.int64]:
    """Return which frames of a shard's clips are encoded alone as well: the last one, and others drawn.

    Shape (clips, PICTURES_PER_CLIP).
    """
    frames = shard_shape(shard).num_frames
    rng = np.random.default_rng([19, shard])
    drawn = rng.integers(1, frames, size=(CLIPS_PER_SHARD, PICTURES_PER_CLIP))
    drawn[:, 0] = frames - 1
    return drawn


SCENES_PER_SHARD_OF_STILLS = 256
STILLS_PER_SCENE = 4
FIRST_SCENE_OF_STILLS = 10_000_000
# (orientation, share of shards)
STILLS_MIX = (("landscape", 0.6), ("portrait", 0.2), ("square", 0.2))


def stills_shape(shard: int) -> VideoShape:
    """Return the size of a shard's stills, of one frame each."""
    place = (shard * 0.6180339887) % 1.0
    for orientation, share in STILLS_MIX:
        if place < share:
            width, height = BUCKETS[orientation]
            return VideoShape(1, height, width)
        place -= share
    raise AssertionError("the shares of STILLS_MIX sum to 1")


def stills_scenes(shard: int) -> list[Scene]:
    """Return the scenes of a shard of stills, which has STILLS_PER_SCENE of each, one after the other."""
    still = stills_shape(shard)
    shape = VideoShape(49, still.height, still.width)
    first = FIRST_SCENE_OF_STILLS + shard * SCENES_PER_SHARD_OF_STILLS
    return [draw_scene(first + i, shape) for i in range(SCENES_PER_SHARD_OF_STILLS)]


def clip_mel(waveform: Tensor) -> Tensor:
    """Return the log-mel (B, 2, M, 64) of (B, 2, samples) at 48 kHz."""
    return log_mel(resample(waveform, OUTPUT_RATE_HZ, MEL_RATE_HZ))


@torch.inference_mode()
def encode_pixels(frames: NDArray[np.uint8], video_vae: VideoVae) -> Tensor:
    """Return the normalised latents (1, 128, T, h, w) of frames (F, H, W, 3), in bfloat16."""
    pixels = torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    with torch.autocast("cpu", torch.bfloat16):
        return video_vae.encode(pixels).bfloat16()


@torch.inference_mode()
def encode_scenes(scenes: list[Scene], video_vae: VideoVae, audio_vae: AudioVae) -> dict[str, Tensor]:
    """Return normalised latents of scenes of one shape: "video" (n, 128, T, h, w), "audio" (n, L, 128)."""
    videos, audios = [], []
    for scene in scenes:
        motion = simulate(scene)
        videos.append(encode_pixels(render(scene, motion), video_vae))
        # One more frame of silence than the clip has, so that the mel covers every audio latent.
        sound = torch.from_numpy(synthesize(scene, motion))[None]
        mel = clip_mel(torch.nn.functional.pad(sound, (0, OUTPUT_RATE_HZ // 10)))
        length = audio_latent_length(scene.shape.num_frames, scene.fps)
        audios.append(patchify_audio(audio_vae.encode(mel)[:, :, :length]).bfloat16())
    return {"video": torch.cat(videos), "audio": torch.cat(audios)}


@dataclass
class LatentSet:
    """Clips or stills of one shape: latents and the scenes they came from."""

    shape: VideoShape
    video: Tensor  # (n, 128, T, h, w)
    audio: Tensor  # (n, L, 128); empty for stills
    scenes: list[Scene]
    # Of the first clips, frames encoded alone (n, PICTURES_PER_CLIP, 128, 1, h, w), and their numbers.
    pictures: Tensor | None = None
    picture_times: NDArray[np.int64] | None = None  # (n, PICTURES_PER_CLIP)

    @cached_property
    def subjects(self) -> Tensor:
        """Return the share of each token's frames and pixels that subjects cover, (n, tokens)."""
        return torch.from_numpy(np.stack([subject_cells(scene).ravel() for scene in self.scenes]))


GRID = 8  # pixels between the points at which subjects are looked for


def subject_cells(scene: Scene) -> NDArray[np.float32]:
    """Return the share of each latent cell's frames and pixels that lie on a subject, (T, h, w)."""
    motion, shape = simulate(scene), scene.shape
    unit = min(shape.width, shape.height)
    x = np.arange(GRID / 2, shape.width, GRID)
    y = np.arange(GRID / 2, shape.height, GRID)[:, None]
    centres = motion.screen_positions(scene)[..., None, None]  # (F, subjects, 2, 1, 1)
    reach = np.stack([t.radius for t in motion.tracks], axis=1) * motion.camera[:, None, 2] * unit
    squares = (x - centres[:, :, 0]) ** 2 + (y - centres[:, :, 1]) ** 2
    covered = (squares < reach[..., None, None] ** 2).any(axis=1)  # (F, H / GRID, W / GRID)
    frames, rows, columns = shape.latent
    side = 32 // GRID
    cells = covered.reshape(-1, rows, side, columns, side).mean(axis=(2, 4))
    later = cells[1:].reshape(frames - 1, 8, rows, columns).mean(axis=1)
    return np.concatenate([cells[:1], later]).astype(np.float32)


# The number of a shard and the VAEs -> its tensors. A function of a module, so that workers can import it.
MakeShard = Callable[[int, VideoVae, AudioVae], dict[str, Tensor]]


def build(
    folder: Path, num_shards: int, weights: Path, *, make: MakeShard | None = None, workers: int = 2
) -> None:
    """Write every shard of 0..num_shards-1 that is not there yet.

    weights: folder of the trained VAEs. make: encodes a shard; by default the transformer's clips.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = [s for s in range(num_shards) if not shard_path(folder, s).exists()]
    if not missing:
        return
    console = Console(stderr=True)
    jobs = [(folder, shard, weights, make or encode_shard) for shard in missing]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for done, shard in enumerate(pool.map(_build_shard, jobs), start=1):
            console.print(f"{folder.name}: shard {shard}, {done}/{len(missing)}")


def shard_path(folder: Path, shard: int) -> Path:
    return folder / f"{shard:05d}.safetensors"


def encode_shard(shard: int, video_vae: VideoVae, audio_vae: AudioVae) -> dict[str, Tensor]:
    """Return a shard of the transformer's clips."""
    return encode_scenes(shard_scenes(shard), video_vae, audio_vae)


def encode_small_shard(shard: int, video_vae: VideoVae, audio_vae: AudioVae) -> dict[str, Tensor]:
    """Return a shard of clips of half size."""
    return encode_scenes(small_scenes(shard), video_vae, audio_vae)


def encode_stills(shard: int, video_vae: VideoVae, audio_vae: AudioVae) -> dict[str, Tensor]:
    """Return a shard of stills: frames at random times, each encoded alone.

    "video" is (scenes * STILLS_PER_SCENE, 128, 1, h, w).
    """
    rng = np.random.default_rng([17, shard])
    scenes = stills_scenes(shard)
    times = [rng.choice(s.shape.num_frames, size=STILLS_PER_SCENE, replace=False) for s in scenes]
    return {"video": _encode_frames(scenes, times, video_vae)}


def encode_pictures(shard: int, video_vae: VideoVae, audio_vae: AudioVae) -> dict[str, Tensor]:
    """Return a shard of pictures: frames of a shard's clips, each encoded alone.

    "video" is (clips * PICTURES_PER_CLIP, 128, 1, h, w).
    """
    return {"video": _encode_frames(shard_scenes(shard), picture_times(shard), video_vae)}


@torch.inference_mode()
def _encode_frames(
    scenes: Sequence[Scene], times: Iterable[NDArray[np.int64]], video_vae: VideoVae
) -> Tensor:
    """Return the latents (n, 128, 1, h, w) of single frames. times: the numbers of each scene's frames."""
    latents = []
    for scene, numbers in zip(scenes, times, strict=True):
        motion = simulate(scene)
        frames = np.concatenate([render(scene, motion, range(t, t + 1)) for t in numbers])
        pixels = torch.from_numpy(frames).permute(0, 3, 1, 2)[:, :, None].float() / 127.5 - 1
        with torch.autocast("cpu", torch.bfloat16):
            latents.append(video_vae.encode(pixels).bfloat16())
    return torch.cat(latents)


def load_stills(folder: Path, num_shards: int) -> list[LatentSet]:
    """Return all stills, joined by shape. Still k of a set belongs to its scene k // STILLS_PER_SCENE."""
    sets: dict[VideoShape, list[tuple[Tensor, list[Scene]]]] = {}
    for shard in range(num_shards):
        video = load_file(shard_path(folder, shard))["video"]
        sets.setdefault(stills_shape(shard), []).append((video, stills_scenes(shard)))
    return [
        LatentSet(
            shape,
            torch.cat([video for video, _ in parts]),
            torch.empty(0),
            [scene for _, scenes in parts for scene in scenes],
        )
        for shape, parts in sets.items()
    ]


_vaes: dict[Path, tuple[VideoVae, AudioVae]] = {}


def _build_shard(job: tuple[Path, int, Path, MakeShard]) -> int:
    folder, shard, weights, make = job
    torch.set_num_threads(1)
    if weights not in _vaes:
        _vaes[weights] = (load_video_vae(weights), load_audio_vae(weights))
    path = shard_path(folder, shard)
    part = path.with_suffix(".part")
    save_file(make(shard, *_vaes[weights]), part)
    os.replace(part, path)
    return shard


def load(
    folder: Path, num_shards: int, scenes_of: Callable[[int], list[Scene]] = shard_scenes
) -> list[LatentSet]:
    """Return all shards, joined by shape in order, so that an index means the same clip every time."""
    sets: dict[VideoShape, list[tuple[dict[str, Tensor], list[Scene]]]] = {}
    for shard in range(num_shards):
        scenes = scenes_of(shard)
        sets.setdefault(scenes[0].shape, []).append((load_file(shard_path(folder, shard)), scenes))
    return [
        LatentSet(
            shape,
            torch.cat([t["video"] for t, _ in parts]),
            torch.cat([t["audio"] for t, _ in parts]),
            [scene for _, scenes in parts for scene in scenes],
        )
        for shape, parts in sets.items()
    ]


def load_pictures(folder: Path, num_shards: int, sets: list[LatentSet]) -> None:
    """Give the clips of the first shards their pictures."""
    for clips in sets:
        shards = [s for s in range(num_shards) if shard_shape(s) == clips.shape]
        if not shards:
            continue
        video = torch.cat([load_file(shard_path(folder, s))["video"] for s in shards])
        clips.pictures = video.view(-1, PICTURES_PER_CLIP, *video.shape[1:])
        clips.picture_times = np.concatenate([picture_times(s) for s in shards])
