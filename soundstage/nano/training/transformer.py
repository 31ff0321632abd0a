"""Recipe of nano's transformer, its connectors and its text projection, trained together.

Flow matching as in the spec of training: x_sigma = (1 - sigma) x0 + sigma noise, the target is
noise - x0, sigma from the shifted logit-normal law. What a step asks of a sample is drawn too: both
streams noised alike, each at its own level, or one given clean (picture for sound, sound for picture),
a clean first frame, a clean stretch of time; so one model serves every way of conditioning. One prompt
in ten is empty, for guidance.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from soundstage.conditioning.positions import audio_positions, video_positions
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
from soundstage.nano.training.latents import LatentSet
from soundstage.nano.training.latents import build as build_latents
from soundstage.nano.training.latents import load as load_latents
from soundstage.nano.training.loop import Schedule
from soundstage.nano.world.captions import NEGATIVE, caption
from soundstage.text.gemma import Gemma
from soundstage.types import VideoShape

NUM_SHARDS = 48
TEXT_TOKENS = 128
BATCH_TOKENS = 10 * 220  # video and audio tokens in a step: ten clips of two seconds in landscape
PROMPT_DROPOUT = 0.1
SCHEDULE = Schedule(steps=1700, rate=1e-3, muon=2e-3, warmup=60, average=0.99)


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
        video, audio = self.text_embedding_projection(hidden_states, mask)
        return self.video_embeddings_connector(video, mask), self.audio_embeddings_connector(audio, mask)


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
            connector_num_layers=2,
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
    return Gemma.load(weights / "text", num_tokens=TEXT_TOKENS, dtype=torch.float32)


def loss(core: NanoCore, weights: Path, latents: Path) -> TransformerLoss:
    """The loss over the encoded clips of `latents`, which are made first where they are missing."""
    build_latents(latents, NUM_SHARDS, weights)
    return TransformerLoss(core, load_latents(latents, NUM_SHARDS), load_gemma(weights))


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
    """Small normal weights; what adds to a stream, and the output, begin at zero."""
    torch.manual_seed(0)
    for name, param in core.named_parameters():
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


@dataclass(frozen=True)
class Draw:
    """What one sample of a step is asked: noise levels and which tokens are given clean (mask 0)."""

    video_sigma: Tensor  # (B,)
    audio_sigma: Tensor  # (B,)
    video_mask: Tensor  # (B, Nv), 1 where generated
    audio_mask: Tensor  # (B, Na)


def draw_sigma(rng: np.random.Generator, count: int, num_tokens: int) -> NDArray[np.float64]:
    """Shifted logit-normal noise levels, stretched to [0, 1]; one in ten uniform.

    Source: spec of training, section 2.
    """
    shift = 0.95 + (num_tokens - 1024) * (2.05 - 0.95) / 3072
    y = 1 / (1 + np.exp(-(rng.standard_normal(count) + shift)))
    low, high = (1 / (1 + np.exp(-(shift + edge))) for edge in (-2.5758, 3.0902))
    t = (y - low) / (high - low)
    eps = 1e-3
    t = np.clip(np.where(t < eps, 2 * eps - t, t), 0, 1)
    uniform = eps + (1 - eps) * rng.random(count)
    return np.where(rng.random(count) < 0.1, uniform, t)


def draw_task(rng: np.random.Generator, count: int, shape: VideoShape, num_audio: int) -> Draw:
    """Noise levels and masks of a batch."""
    frames, height, width = shape.latent
    cells = height * width
    video = draw_sigma(rng, count, frames * cells)
    audio = np.where(rng.random(count) < 0.6, video, draw_sigma(rng, count, frames * cells))
    video_mask = np.ones((count, frames, cells), dtype=np.float32)
    audio_mask = np.ones((count, num_audio), dtype=np.float32)
    for i, kind in enumerate(rng.random(count)):
        if kind < 0.06:
            video_mask[i], video[i] = 0, 0
        elif kind < 0.12:
            audio_mask[i], audio[i] = 0, 0
        elif kind < 0.22:
            video_mask[i, 0] = 0
        elif kind < 0.28 and frames > 2:
            start = int(rng.integers(1, frames))
            video_mask[i, :start] = 0
            audio_mask[i, : num_audio * start // frames] = 0
    return Draw(
        torch.from_numpy(video).float(),
        torch.from_numpy(audio).float(),
        torch.from_numpy(video_mask).flatten(1),
        torch.from_numpy(audio_mask),
    )


def masked_loss(velocity: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Per sample (B,): squared error over the generated tokens; 0 where there are none."""
    error = (velocity.float() - target).square().mean(dim=2)
    return (error * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)


class TransformerLoss:
    """loss_fn of the training loop over encoded clips."""

    def __init__(self, core: NanoCore, sets: list[LatentSet], gemma: Gemma) -> None:
        self.core, self.sets, self.gemma = core, sets, gemma
        counts = np.array([len(s.scenes) for s in sets], dtype=np.float64)
        self.shares = counts / counts.sum()

    def __call__(self, step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([11, step])
        clips = self.sets[int(rng.choice(len(self.sets), p=self.shares))]
        num_tokens = clips.shape.num_tokens + clips.audio.shape[1]
        count = max(2, min(64, BATCH_TOKENS // num_tokens))
        picks = rng.integers(len(clips.scenes), size=count)
        video = clips.video[picks].float().flatten(2).transpose(1, 2)  # (B, Nv, 128)
        audio = clips.audio[picks].float()
        draw = draw_task(rng, count, clips.shape, audio.shape[1])
        prompts = [self._prompt(rng, clips, int(i)) for i in picks]
        generator = torch.Generator().manual_seed(step)
        noises = [torch.randn(x.shape, generator=generator) for x in (video, audio)]
        states, mask = self.gemma.hidden_states(prompts)
        # On a CPU the flash kernel and its backward take 48 % of a step, plain products and softmax less.
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            contexts = self.core.contexts(states, mask)
            inputs = [
                _modality(*parts)
                for parts in (
                    (video, noises[0], draw.video_sigma, draw.video_mask, _grid(clips), contexts[0]),
                    (
                        audio,
                        noises[1],
                        draw.audio_sigma,
                        draw.audio_mask,
                        audio_positions(audio.shape[1]),
                        contexts[1],
                    ),
                )
            ]
            velocities = self.core.transformer(inputs[0], inputs[1])
        losses = [
            masked_loss(v, noise - x, m)
            for v, x, noise, m in zip(
                velocities, (video, audio), noises, (draw.video_mask, draw.audio_mask), strict=True
            )
        ]
        video_loss, audio_loss = (loss.mean() for loss in losses)
        return {"loss": video_loss + audio_loss, "video": video_loss.detach(), "audio": audio_loss.detach()}

    def _prompt(self, rng: np.random.Generator, clips: LatentSet, index: int) -> str:
        wording = int(rng.integers(2**31))
        empty = rng.random() < PROMPT_DROPOUT
        if empty:  # guidance steers away from either
            return NEGATIVE if rng.random() < 0.5 else ""
        return caption(clips.scenes[index], wording)


def _grid(clips: LatentSet) -> Tensor:
    return video_positions(*clips.shape.latent, clips.scenes[0].fps)


def _modality(
    x: Tensor, noise: Tensor, sigma: Tensor, mask: Tensor, positions: Tensor, context: Tensor
) -> Modality:
    """Noise the generated tokens; the given ones stay clean, at timestep 0."""
    timesteps = mask * sigma[:, None]
    level = timesteps[..., None]
    return Modality(
        latents=(1 - level) * x + level * noise,
        sigma=sigma,
        timesteps=timesteps,
        positions=positions,
        context=context,
    )
