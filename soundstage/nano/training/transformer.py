"""Recipe of nano's transformer, its connectors and its text projection, trained together.

Flow matching as in docs/model/sampling.md, "Flow": x_sigma = (1 - sigma) x0 + sigma noise, the target is
noise - x0, sigma from the shifted logit-normal law. What a step asks of a sample is drawn too: both
streams noised alike, each at its own level, or one given clean (picture for sound, sound for picture),
a clean first frame, a clean stretch of time; so one model serves every way of conditioning. One prompt
in ten is empty, for guidance.

What words look and sound like is learned from stills and from sound alone, at a sixth of a clip's cost;
clips teach motion, and what goes with what.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from soundstage.conditioning.positions import audio_positions, guide_positions, video_positions
from soundstage.model.config import (
    ConnectorConfig,
    Header,
    TextProjectionConfig,
    TransformerConfig,
    transformer_header,
)
from soundstage.model.connector import Connector, FeatureExtractor
from soundstage.model.transformer import Modality, Transformer
from soundstage.nano.training.export import write
from soundstage.nano.training.latents import (
    PICTURES_PER_CLIP,
    STILLS_PER_SCENE,
    LatentSet,
    encode_pictures,
    encode_small_shard,
    encode_stills,
    load_pictures,
    load_stills,
    small_scenes,
)
from soundstage.nano.training.latents import build as build_latents
from soundstage.nano.training.latents import load as load_latents
from soundstage.nano.world.captions import NEGATIVE, caption, names
from soundstage.text.gemma import Gemma
from soundstage.training.attention import use_training_attention
from soundstage.training.loop import Schedule
from soundstage.types import VideoShape

NUM_SHARDS = 64
NUM_SMALL_SHARDS = 16
NUM_PICTURED_SHARDS = 32
NUM_STILL_SHARDS = 23
TEXT_TOKENS = 128
BATCH_TOKENS = 12 * 220  # video and audio tokens in a step: 12 clips of two seconds in landscape
STILL_SCENES = 24  # in a step of stills
SOUNDS = 40  # in a step of sound alone
# Of steps: stills until STILLS_UNTIL and from then on, and sound alone.
STILLS_UNTIL, EARLY_STILLS, LATE_STILLS, SOUND_STEPS = 6300, 0.5, 0.12, 0.05
# Of steps of clips: with a picture beside the clip, and with the clip itself beside it.
PICTURED, REFERRED = 0.12, 0.06
PROMPT_DROPOUT = 0.1
# Weight in the loss of a token that a subject fills; a tenth of all is covered. It falls to 1 over the last
# third of the steps, for where a subject may stand but need not, it makes one more likely than it is.
SUBJECT_WEIGHT = 4.0
SHIFT, MIDDLE_SHIFT = 2.3, 0.6  # of the logits of noise levels
SCHEDULE = Schedule(steps=16000, rate=1e-3, muon=2e-3, warmup=100, average=0.998)


class NanoCore(nn.Module):
    """Everything between Gemma's hidden states and the velocities. Names are the published prefixes."""

    def __init__(self, config: Header, num_states: int) -> None:
        """num_states: hidden states of the text encoder, its layers + 1."""
        super().__init__()
        self.transformer = Transformer(TransformerConfig.from_header(config))
        self.video_embeddings_connector = Connector(ConnectorConfig.from_header(config, "video"))
        self.audio_embeddings_connector = Connector(ConnectorConfig.from_header(config, "audio"))
        in_features = config["transformer"]["caption_channels"] * num_states
        self.text_embedding_projection = FeatureExtractor(
            TextProjectionConfig.from_header(config, in_features)
        )

    def contexts(self, hidden_states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S, Dg, L) and (B, S) -> contexts (B, S, Dv), (B, S, Da)."""
        return self.context("video", hidden_states, mask), self.context("audio", hidden_states, mask)

    def context(self, modality: str, hidden_states: Tensor, mask: Tensor) -> Tensor:
        """The context of one modality."""
        video, audio = self.text_embedding_projection(hidden_states, mask)
        if modality == "video":
            return self.video_embeddings_connector(video, mask)  # type: ignore[no-any-return]
        return self.audio_embeddings_connector(audio, mask)  # type: ignore[no-any-return]


def header(text_width: int) -> dict[str, Any]:
    """Config of nano's transformer file."""
    return {
        "transformer": transformer_header(
            num_layers=6,
            num_heads=8,
            head_dim=32,
            audio_num_heads=8,
            audio_head_dim=16,
            caption_channels=text_width,
            connector_num_layers=1,
            connector_num_registers=64,
        )
    }


def build(weights: Path) -> NanoCore:
    """A fresh core that reads the text encoder exported to `weights`."""
    gemma = load_gemma(weights)
    core = NanoCore(header(gemma.width), gemma.num_states)
    initialise(core)
    return core


def load_gemma(weights: Path) -> Gemma:
    return Gemma.load(weights / "text", num_tokens=TEXT_TOKENS, dtype=torch.bfloat16)


def loss(core: NanoCore, weights: Path, latents: Path) -> TransformerLoss:
    """The loss over the encoded clips of `latents`, which are made first where they are missing."""
    stills, pictures = latents.with_name("stills"), latents.with_name("pictures")
    clips = load_clips(latents, weights)
    build_latents(pictures, NUM_PICTURED_SHARDS, weights, make=encode_pictures)
    build_latents(stills, NUM_STILL_SHARDS, weights, make=encode_stills)
    load_pictures(pictures, NUM_PICTURED_SHARDS, clips)
    compile_blocks(core.transformer)
    return TransformerLoss(core, clips, load_stills(stills, NUM_STILL_SHARDS), load_gemma(weights))


def load_clips(latents: Path, weights: Path) -> list[LatentSet]:
    """The encoded clips, whole and half the size, which are made first where they are missing."""
    small = latents.with_name("small")
    build_latents(latents, NUM_SHARDS, weights)
    build_latents(small, NUM_SMALL_SHARDS, weights, make=encode_small_shard)
    return load_latents(latents, NUM_SHARDS) + load_latents(small, NUM_SMALL_SHARDS, small_scenes)


def compile_blocks(transformer: Transformer) -> None:
    """Fuse what lies between the products of each block: a step takes 0.7 of the time on a CPU core.

    Needs a C++ compiler; without one the step stays as it is. Sizes, streams and masks make many graphs,
    so the first minutes of a start go into compiling.
    """
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        return
    torch._dynamo.config.recompile_limit = 64
    for block in transformer.transformer_blocks:
        block.compile()  # type: ignore[no-untyped-call]


def finish(core: NanoCore, weights: Path) -> None:
    """Write transformer, connectors and text projection as one file under the published names."""
    tensors = {published_name(name): value for name, value in core.state_dict().items()}
    config = header(core.text_embedding_projection.config.text_width)
    write(tensors, config, weights / "transformer.safetensors")


def published_name(name: str) -> str:
    if name.startswith("text_embedding_projection."):
        return name
    return "model.diffusion_model." + name.removeprefix("transformer.")


def initialise(core: NanoCore) -> None:
    """Small normal weights; what adds to a stream, and the output, begin at zero.

    The gates of the heads that carry picture to sound and back stay open: what they pass is of no use at
    first, and training closed them, all of them and for good.
    """
    torch.manual_seed(0)
    for name, param in core.named_parameters():
        if is_exchange_gate(name):
            nn.init.zeros_(param).requires_grad_(False)
            continue
        if param.ndim < 2:
            if name.endswith("bias"):
                nn.init.zeros_(param)
            continue
        if name.endswith("scale_shift_table") or "scale_shift_table_a2v" in name:
            nn.init.zeros_(param)
        elif name.endswith("learnable_registers"):
            nn.init.normal_(param)
        elif name.endswith(("proj_out.weight", "linear.weight", "to_gate_logits.weight")):
            nn.init.zeros_(param)
        else:
            nn.init.normal_(param, std=param.shape[1] ** -0.5)


def is_exchange_gate(name: str) -> bool:
    """Whether a parameter gates heads of the attention between picture and sound."""
    return "_attn.to_gate_logits." in name and ("audio_to_video" in name or "video_to_audio" in name)


@dataclass(frozen=True)
class Draw:
    """What one sample of a step is asked: noise levels and which tokens are given clean (mask 0)."""

    video_sigma: Tensor  # (B,)
    audio_sigma: Tensor  # (B,)
    video_mask: Tensor  # (B, Nv), 1 where generated
    audio_mask: Tensor  # (B, Na)


def draw_sigma(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Logit-normal noise levels in (0, 1), shifted; one in ten uniform.

    The law of docs/model/sampling.md, "Training levels", but for the shift by nano's few tokens and for the
    stretch, which would undo a large shift. A token holds 32x32 pixels of 8 frames in 128 channels, so that
    place and colour of a subject can be read from the noised tokens up to 0.9: what words decide is learned
    above that, where the law as it stands puts one sample in forty. Most have the shift SHIFT, the others
    MIDDLE_SHIFT, for detail.
    """
    shift = np.where(rng.random(count) < 0.3, MIDDLE_SHIFT, SHIFT)
    y = 1 / (1 + np.exp(-(rng.standard_normal(count) + shift)))
    uniform = 1e-3 + (1 - 1e-3) * rng.random(count)
    return np.where(rng.random(count) < 0.1, uniform, y)


def draw_task(rng: np.random.Generator, count: int, shape: VideoShape, num_audio: int) -> Draw:
    """Noise levels and masks of a batch."""
    frames, height, width = shape.latent
    cells = height * width
    video = draw_sigma(rng, count)
    audio = np.where(rng.random(count) < 0.6, video, draw_sigma(rng, count))
    video_mask = np.ones((count, frames, cells), dtype=np.float32)
    audio_mask = np.ones((count, num_audio), dtype=np.float32)
    for i, kind in enumerate(rng.random(count)):
        if kind < 0.15:
            video_mask[i], video[i] = 0, 0
        elif kind < 0.3:
            audio_mask[i], audio[i] = 0, 0
        elif kind < 0.4:
            video_mask[i, 0] = 0
        elif kind < 0.5 and frames > 2:
            start, end = draw_stretch(rng, frames)
            video_mask[i, :start] = video_mask[i, end:] = 0
            audio_mask[i, : num_audio * start // frames] = 0
            audio_mask[i, num_audio * end // frames :] = 0
    return Draw(
        torch.from_numpy(video).float(),
        torch.from_numpy(audio).float(),
        torch.from_numpy(video_mask).flatten(1),
        torch.from_numpy(audio_mask),
    )


def draw_stretch(rng: np.random.Generator, frames: int) -> tuple[int, int]:
    """[start, end) of the latent frames that are made: what comes after, before, or between what is given."""
    start, end = sorted(int(x) for x in rng.choice(np.arange(1, frames), size=2, replace=False))
    kind = rng.random()
    return (start, frames) if kind < 0.4 else (0, end) if kind < 0.6 else (start, end)


def masked_loss(velocity: Tensor, target: Tensor, mask: Tensor, weights: Tensor | None = None) -> Tensor:
    """Per sample (B,): squared error over the generated tokens, weighed by `weights` (B, N); 0 where there
    are none."""
    error = (velocity.float() - target).square().mean(dim=2)
    counted = mask if weights is None else mask * weights
    return (error * counted).sum(dim=1) / counted.sum(dim=1).clamp(min=1)


def subject_weights(covered: Tensor, step: int) -> Tensor:
    """Weights of tokens of which subjects cover these shares, at a step."""
    left = 3 * (1 - step / SCHEDULE.steps)
    return 1 + (SUBJECT_WEIGHT - 1) * min(1.0, max(0.0, left)) * covered


class TransformerLoss:
    """loss_fn of the training loop over encoded clips and stills; without stills, over clips alone."""

    def __init__(self, core: NanoCore, sets: list[LatentSet], stills: list[LatentSet], gemma: Gemma) -> None:
        self.core, self.sets, self.stills, self.gemma = core, sets, stills, gemma
        use_training_attention(core)

    def __call__(self, step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([11, step])
        place = rng.random()
        stills = EARLY_STILLS if step < STILLS_UNTIL else LATE_STILLS
        if self.stills and place < stills:
            return self._stills(step, rng)
        if self.stills and place < stills + SOUND_STEPS:
            return self._sounds(step, rng)
        return self._clips(step, rng)

    def _clips(self, step: int, rng: np.random.Generator) -> dict[str, Tensor]:
        """Picture and sound together, some with clean tokens beside the clip."""
        clips = _drawn(rng, self.sets)
        place = rng.random()
        pictured = place < PICTURED and clips.pictures is not None
        referred = PICTURED <= place < PICTURED + REFERRED
        num_tokens = clips.shape.num_tokens * (2 if referred else 1) + clips.audio.shape[1]
        count = max(2, min(64, BATCH_TOKENS // num_tokens))
        known = len(clips.scenes) if clips.pictures is None or not pictured else len(clips.pictures)
        picks = rng.integers(known, size=count)
        video = clips.video[picks].float().flatten(2).transpose(1, 2)  # (B, Nv, 128)
        audio = clips.audio[picks].float()
        draw = draw_task(rng, count, clips.shape, audio.shape[1])
        states, mask = self._states(rng, clips, picks, named=referred)
        noises = _noises(step, video, audio)
        grid = _grid(clips)
        beside = None
        if pictured:
            beside = _picture(rng, clips, picks)
        elif referred:
            beside = video, grid
        # On a CPU the flash kernel and its backward take 48 % of a step, plain products and softmax less.
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            contexts = self.core.contexts(states, mask)
            inputs = (
                _modality(video, noises[0], draw.video_sigma, draw.video_mask, grid, contexts[0], beside),
                _modality(
                    audio,
                    noises[1],
                    draw.audio_sigma,
                    draw.audio_mask,
                    audio_positions(audio.shape[1]),
                    contexts[1],
                ),
            )
            velocities = self.core.transformer(*inputs)
        weights = subject_weights(clips.subjects[picks], step)
        made = velocities[0][:, : video.shape[1]]
        video_loss = masked_loss(made, noises[0] - video, draw.video_mask, weights).mean()
        audio_loss = masked_loss(velocities[1], noises[1] - audio, draw.audio_mask).mean()
        return {"loss": video_loss + audio_loss, "video": video_loss.detach(), "audio": audio_loss.detach()}

    def _stills(self, step: int, rng: np.random.Generator) -> dict[str, Tensor]:
        """Single frames, several of a scene to one reading of its caption."""
        stills = _drawn(rng, self.stills)
        picks = rng.integers(len(stills.scenes), size=STILL_SCENES)
        states, mask = self._states(rng, stills, picks)
        rows = (picks[:, None] * STILLS_PER_SCENE + np.arange(STILLS_PER_SCENE)).ravel()
        video = stills.video[rows].float().flatten(2).transpose(1, 2)
        (noise,) = _noises(step, video)
        sigma = torch.from_numpy(draw_sigma(rng, len(rows))).float()
        ones = torch.ones(video.shape[:2])
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            context = self.core.context("video", states, mask).repeat_interleave(STILLS_PER_SCENE, 0)
            made, _ = self.core.transformer(
                _modality(video, noise, sigma, ones, _grid(stills), context), None
            )
        loss = masked_loss(made, noise - video, ones).mean()
        return {"loss": loss, "still": loss.detach()}

    def _sounds(self, step: int, rng: np.random.Generator) -> dict[str, Tensor]:
        """Sound alone."""
        clips = _drawn(rng, self.sets)
        picks = rng.integers(len(clips.scenes), size=SOUNDS)
        states, mask = self._states(rng, clips, picks)
        audio = clips.audio[picks].float()
        (noise,) = _noises(step, audio)
        sigma = torch.from_numpy(draw_sigma(rng, len(picks))).float()
        ones = torch.ones(audio.shape[:2])
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            context = self.core.context("audio", states, mask)
            positions = audio_positions(audio.shape[1])
            _, made = self.core.transformer(None, _modality(audio, noise, sigma, ones, positions, context))
        loss = masked_loss(made, noise - audio, ones).mean()
        return {"loss": loss, "sound": loss.detach()}

    def _states(
        self, rng: np.random.Generator, clips: LatentSet, picks: NDArray[np.int64], *, named: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Gemma's states and mask of one wording of each scene's caption.

        named: half of them only name the subjects, so that what they do is learned from what is beside.
        """
        return self.gemma.hidden_states([self._prompt(rng, clips, int(i), named) for i in picks])

    def _prompt(self, rng: np.random.Generator, clips: LatentSet, index: int, named: bool) -> str:
        wording = int(rng.integers(2**31))
        empty = rng.random() < PROMPT_DROPOUT
        if empty:  # guidance steers away from either
            return NEGATIVE if rng.random() < 0.5 else ""
        scene = clips.scenes[index]
        return names(scene) if named and wording % 2 else caption(scene, wording)


def _drawn(rng: np.random.Generator, sets: list[LatentSet]) -> LatentSet:
    """One of the sets, by how many scenes each has."""
    counts = np.array([len(s.scenes) for s in sets], dtype=np.float64)
    return sets[int(rng.choice(len(sets), p=counts / counts.sum()))]


def _noises(step: int, *like: Tensor) -> list[Tensor]:
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(x.shape, generator=generator) for x in like]


def _grid(clips: LatentSet) -> Tensor:
    return video_positions(*clips.shape.latent, clips.scenes[0].fps)


def _picture(rng: np.random.Generator, clips: LatentSet, picks: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """One picture of each clip: tokens (B, h w, 128) and positions (B, 3, h w, 2)."""
    assert clips.pictures is not None
    assert clips.picture_times is not None
    which = rng.integers(PICTURES_PER_CLIP, size=len(picks))
    tokens = clips.pictures[picks, which].float().flatten(2).transpose(1, 2)
    _, height, width = clips.shape.latent
    positions = [
        guide_positions(1, height, width, clips.scenes[0].fps, frame=int(frame), still=True)
        for frame in clips.picture_times[picks, which]
    ]
    return tokens, torch.cat(positions)


def _modality(
    x: Tensor,
    noise: Tensor,
    sigma: Tensor,
    mask: Tensor,
    positions: Tensor,
    context: Tensor,
    beside: tuple[Tensor, Tensor] | None = None,
) -> Modality:
    """Noise the generated tokens; the given ones stay clean, at timestep 0.

    beside: tokens (B, n, 128) that are clean too, behind the clip's own, and their positions.
    """
    timesteps = mask * sigma[:, None]
    level = timesteps[..., None]
    latents = (1 - level) * x + level * noise
    if beside is not None:
        added, where = beside
        latents = torch.cat([latents, added], dim=1)
        timesteps = torch.cat([timesteps, timesteps.new_zeros(added.shape[:2])], dim=1)
        batch = max(len(positions), len(where))
        positions = torch.cat([p.expand(batch, -1, -1, -1) for p in (positions, where)], dim=2)
    return Modality(
        latents=latents,
        sigma=sigma,
        timesteps=timesteps,
        positions=positions,
        context=context,
    )
