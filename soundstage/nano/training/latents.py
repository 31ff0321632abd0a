"""Make encoded shots of the world: what the transformer and the distilled LoRA are trained on.

Worker processes draw scenes, render and synthesize them and put them into words. The VAEs encode them on the
device of training: on a CPU within the workers, else in the process that trains.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from soundstage.model.audio_vae import AudioVae, patchify_audio
from soundstage.model.mel import log_mel, resample
from soundstage.model.video_vae import VideoVae
from soundstage.nano.training.convolutions import use_flat_convolutions
from soundstage.nano.training.export import load_audio_vae, load_video_vae
from soundstage.nano.training.runs import PartRun, TrainingScale
from soundstage.nano.training.stock import Supply
from soundstage.nano.world.captions import caption, names
from soundstage.nano.world.motion import Motion, simulate
from soundstage.nano.world.render import render
from soundstage.nano.world.scene import FPS, Scene, draw_scene
from soundstage.nano.world.sound import synthesize
from soundstage.training.batches import Batch
from soundstage.training.precision import training_precision
from soundstage.types import MEL_RATE_HZ, OUTPUT_RATE_HZ, VideoShape, audio_latent_length

TEXT_TOKENS = 128  # of a prompt's context
WORDINGS = 4  # of a clip's caption; one more only names its subjects
PICTURES = 3  # frames of a clip that are encoded alone as well: the last one, and others drawn
ENCODED_AT_ONCE = 16  # clips

# (width, height, frames, share of clips): mostly two seconds of landscape, enough of the rest to follow, and
# clips of half the size, with which recipes of several passes begin.
Mix = tuple[tuple[int, int, int, float], ...]
MIX: Mix = (
    (192, 128, 49, 0.46),
    (128, 192, 49, 0.11),
    (128, 128, 49, 0.11),
    (192, 128, 25, 0.06),
    (192, 128, 97, 0.07),
    (192, 128, 121, 0.02),
    (192, 128, 9, 0.02),
    (96, 64, 49, 0.09),
    (64, 96, 49, 0.025),
    (64, 64, 49, 0.025),
    (96, 64, 97, 0.01),
)
TINY_MIX: Mix = ((64, 64, 9, 0.6), (64, 32, 17, 0.4))
CLIPS_AT_ONCE: dict[TrainingScale, int] = {"tiny": 2, "cpu": 4, "cuda": 32}


def kind_of(number: int, shares: Sequence[float]) -> int:
    """Return a kind for a number; over any run of numbers, kinds have about these shares."""
    place = (number * 0.6180339887) % 1.0
    for kind, share in enumerate(shares):
        if place < share:
            return kind
        place -= share
    return 0  # the shares sum to 1, but for rounding


def shape_of(number: int, mix: Mix) -> VideoShape:
    """Return the shape of the clips of a number."""
    width, height, frames, _ = mix[kind_of(number, [share for *_, share in mix])]
    return VideoShape(frames, height, width)


def draw_scenes(key: int, number: int, shape: VideoShape, count: int) -> list[Scene]:
    """Return scenes that are not held out. key: a part's own, so that no two parts share scenes."""
    rng = np.random.default_rng([key, number])
    return [draw_scene(int(rng.integers(2**62)), shape) for _ in range(count)]


def clip_mel(waveform: Tensor) -> Tensor:
    """Return the log-mel (B, 2, M, 64) of (B, 2, samples) at 48 kHz."""
    return log_mel(resample(waveform, OUTPUT_RATE_HZ, MEL_RATE_HZ))


# --- drawn by workers -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClipMaker:
    """Draw clips of one shape with their sound and words, as `Make`; encode them too if `encode` is set."""

    weights: Path
    mix: Mix
    count: int
    encode: bool

    def __call__(self, number: int, progress: float) -> Batch:
        scenes = draw_scenes(31, number, shape_of(number, self.mix), self.count)
        clips = drawn_clips(scenes, np.random.default_rng([19, number]), tokenizer_of(self.weights))
        return encoded_clips(clips, *vaes_of(self.weights)) if self.encode else clips


def drawn_clips(scenes: list[Scene], rng: np.random.Generator, tokenizer: Any) -> Batch:
    """Return clips of scenes of one shape.

    frames: (n, F, H, W, 3) uint8. mel: (n, 2, M, 64). times: (n, PICTURES), which frames are pictures too.
    covered: (n, tokens), see `subject_cells`. ids: (n, WORDINGS + 1, TEXT_TOKENS), with their lengths.
    """
    motions = [simulate(scene) for scene in scenes]
    shape = scenes[0].shape
    times = rng.integers(shape.num_frames, size=(len(scenes), PICTURES))
    times[:, 0] = shape.num_frames - 1
    both = list(zip(scenes, motions, strict=True))
    ids, lengths = _wordings(scenes, rng, tokenizer)
    tensors = {
        "frames": torch.from_numpy(np.stack([render(scene, motion) for scene, motion in both])),
        "mel": torch.cat([_mel(scene, motion) for scene, motion in both]),
        "times": torch.from_numpy(times),
        "covered": torch.from_numpy(np.stack([subject_cells(*pair).ravel() for pair in both])),
        "ids": ids,
        "lengths": lengths,
    }
    return Batch(f"{shape.width}x{shape.height}x{shape.num_frames}", tensors, len(scenes))


def _mel(scene: Scene, motion: Motion) -> Tensor:
    sound = torch.from_numpy(synthesize(scene, motion))[None]
    # One more frame of silence than the clip has, so that the mel covers every audio latent.
    return clip_mel(torch.nn.functional.pad(sound, (0, OUTPUT_RATE_HZ // 10)))


def _wordings(scenes: list[Scene], rng: np.random.Generator, tokenizer: Any) -> tuple[Tensor, Tensor]:
    ids = torch.zeros(len(scenes), WORDINGS + 1, TEXT_TOKENS, dtype=torch.int16)
    lengths = torch.zeros(len(scenes), WORDINGS + 1, dtype=torch.int16)
    for i, scene in enumerate(scenes):
        texts = [caption(scene, int(rng.integers(2**31))) for _ in range(WORDINGS)]
        for k, text in enumerate([*texts, names(scene)]):
            row = tokenizer.encode(text).ids[:TEXT_TOKENS]
            ids[i, k, : len(row)] = torch.tensor(row)
            lengths[i, k] = len(row)
    return ids, lengths


GRID = 8  # pixels between the points at which subjects are looked for


def subject_cells(scene: Scene, motion: Motion) -> NDArray[np.float32]:
    """Return the share of each latent cell's frames and pixels that lie on a subject, (T, h, w)."""
    shape = scene.shape
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


@lru_cache(maxsize=1)
def tokenizer_of(weights: Path) -> Any:
    """Return the exported tokenizer, without padding."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(weights / "text" / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


@lru_cache(maxsize=1)
def vaes_of(weights: Path) -> tuple[VideoVae, AudioVae]:
    """Return the exported VAEs, on the CPU."""
    return load_video_vae(weights).requires_grad_(False), load_audio_vae(weights).requires_grad_(False)


# --- encoded on the device --------------------------------------------------------------------------------


def encoded_clips(clips: Batch, video_vae: VideoVae, audio_vae: AudioVae) -> Batch:
    """Return clips with normalised latents in place of pixels and mels.

    video: (n, 128, T, h, w). pictures: (n, PICTURES, 128, 1, h, w). audio: (n, L, 128). All in bfloat16.
    """
    frames, times, rest = clips["frames"], clips["times"], dict(clips.tensors)
    rows = torch.arange(len(frames), device=frames.device)[:, None]
    stills = frames[rows, times].flatten(0, 1).unsqueeze(1)  # (n * PICTURES, 1, H, W, 3)
    rest["video"] = encode_frames(frames, video_vae)
    rest["pictures"] = torch.unflatten(encode_frames(stills, video_vae), 0, (-1, PICTURES))
    length = audio_latent_length(frames.shape[1], FPS)
    with torch.no_grad():
        rest["audio"] = patchify_audio(audio_vae.encode(clips["mel"].float())[:, :, :length]).bfloat16()
    del rest["frames"], rest["mel"]
    return Batch(clips.kind, rest, clips.samples)


def encode_frames(frames: Tensor, vae: VideoVae) -> Tensor:
    """Return the normalised latents (n, 128, T, h, w) of frames (n, F, H, W, 3) of bytes, in bfloat16."""
    return torch.cat([_encoded(some, vae) for some in torch.split(frames, ENCODED_AT_ONCE)])


@torch.no_grad()
def _encoded(frames: Tensor, vae: VideoVae) -> Tensor:
    pixels = frames.permute(0, 4, 1, 2, 3).float() / 127.5 - 1
    with training_precision(frames.device):
        return vae.encode(pixels).bfloat16()


def supply(run: PartRun, make: Callable[[bool], Any], encode: Callable[..., Batch]) -> Supply:
    """Return rows as workers make them, encoded.

    make: the maker; it is told whether it is to encode. encode: takes what it has drawn, and both VAEs.
    """
    on_cpu = run.device.type == "cpu"
    if on_cpu:
        return Supply(run, make(True), lambda rows: rows)
    video_vae, audio_vae = (vae.to(run.device) for vae in vaes_of(run.weights))
    use_flat_convolutions(video_vae)
    return Supply(run, make(False), lambda rows: encode(rows.to(run.device), video_vae, audio_vae))


def clip_supply(run: PartRun) -> Supply:
    """Return clips with sound and words, of all shapes."""
    mix, count = TINY_MIX if run.scale == "tiny" else MIX, CLIPS_AT_ONCE[run.scale]
    return supply(run, lambda encode: ClipMaker(run.weights, mix, count, encode), encoded_clips)


def shape_named(kind: str) -> VideoShape:
    """Return the shape of a kind of clips."""
    width, height, frames = (int(n) for n in kind.split("x"))
    return VideoShape(frames, height, width)
