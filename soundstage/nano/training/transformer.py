"""Train nano's transformer, its connectors and its text projection, all together.

Flow matching, docs/model/sampling.md, "Flow". A step's task, noise levels and given tokens, is drawn in
tasks.py. A step has clips, stills or sound alone: looks and sounds of words are learned from stills and from
sound, at a sixth of a clip's cost; clips teach motion, and sound for picture. One prompt in ten is empty, for
guidance.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from soundstage.conditioning.positions import audio_positions, guide_positions, video_positions
from soundstage.conditioning.tokens import Added, Tokens, to_tokens
from soundstage.model.config import ConnectorConfig, Header, TextProjectionConfig, TransformerConfig
from soundstage.model.connector import Connector, FeatureExtractor
from soundstage.model.published import transformer_header
from soundstage.model.transformer import Transformer
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
from soundstage.nano.training.tasks import draw_sigma, draw_task
from soundstage.nano.world.captions import NEGATIVE, caption, names
from soundstage.sampling.streams import Stream
from soundstage.text.gemma import Gemma
from soundstage.training.attention import training_precision, use_training_attention
from soundstage.training.noising import noised_modality, velocity_loss
from soundstage.training.optimizers import Schedule

NUM_SHARDS = 64
NUM_SMALL_SHARDS = 16
NUM_PICTURED_SHARDS = 32
NUM_STILL_SHARDS = 23
TEXT_TOKENS = 128
BATCH_TOKENS = 12 * 220  # video and audio tokens in a step: 12 clips of two seconds in landscape
STILL_SCENES = 24  # in a step of stills
SOUNDS = 40  # in a step of sound alone
# Shares of steps: stills until STILLS_UNTIL and from then on, and sound alone.
STILLS_UNTIL, EARLY_STILLS, LATE_STILLS, SOUND_STEPS = 6300, 0.5, 0.12, 0.05
# Shares of steps of clips: with a given picture beside the clip, and with the clip itself, given, beside it.
PICTURED, REFERRED = 0.12, 0.06
PROMPT_DROPOUT = 0.1
# Weight in the loss of a token that a subject fills; subjects cover a tenth of all tokens. It falls to 1 over
# the last third of the steps, since it makes subjects too likely where there may be one or none.
SUBJECT_WEIGHT = 4.0
SCHEDULE = Schedule(steps=16000, rate=1e-3, muon=2e-3, warmup=100, average=0.998)


class NanoCore(nn.Module):
    """All modules between Gemma's hidden states and the velocities, under the published prefixes."""

    def __init__(self, config: Header, num_states: int) -> None:
        """Build the modules. num_states: hidden states of the text encoder, its layers + 1."""
        super().__init__()
        self.transformer = Transformer(TransformerConfig.from_header(config))
        self.video_embeddings_connector = Connector(ConnectorConfig.from_header(config, "video"))
        self.audio_embeddings_connector = Connector(ConnectorConfig.from_header(config, "audio"))
        in_features = config["transformer"]["caption_channels"] * num_states
        self.text_embedding_projection = FeatureExtractor(
            TextProjectionConfig.from_header(config, in_features)
        )

    def contexts(self, hidden_states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return contexts (B, S, Dv), (B, S, Da) of hidden states (B, S, Dg, L) and their mask (B, S)."""
        return self.context("video", hidden_states, mask), self.context("audio", hidden_states, mask)

    def context(self, modality: str, hidden_states: Tensor, mask: Tensor) -> Tensor:
        """Return the context of one modality."""
        video, audio = self.text_embedding_projection(hidden_states, mask)
        if modality == "video":
            return self.video_embeddings_connector(video, mask)  # type: ignore[no-any-return]
        return self.audio_embeddings_connector(audio, mask)  # type: ignore[no-any-return]


def header(text_width: int) -> dict[str, Any]:
    """Return the config of nano's transformer file."""
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
    """Return a fresh core for the text encoder exported to `weights`."""
    gemma = load_gemma(weights)
    core = NanoCore(header(gemma.width), gemma.num_states)
    initialise(core)
    return core


def load_gemma(weights: Path) -> Gemma:
    return Gemma.load(weights / "text", num_tokens=TEXT_TOKENS, dtype=torch.bfloat16)


def loss(core: NanoCore, weights: Path, latents: Path) -> TransformerLoss:
    """Return the loss over the encoded clips of `latents`, which are made first where they are missing."""
    stills, pictures = latents.with_name("stills"), latents.with_name("pictures")
    clips = load_clips(latents, weights)
    build_latents(pictures, NUM_PICTURED_SHARDS, weights, make=encode_pictures)
    build_latents(stills, NUM_STILL_SHARDS, weights, make=encode_stills)
    load_pictures(pictures, NUM_PICTURED_SHARDS, clips)
    compile_blocks(core.transformer)
    return TransformerLoss(core, clips, load_stills(stills, NUM_STILL_SHARDS), load_gemma(weights))


def load_clips(latents: Path, weights: Path) -> list[LatentSet]:
    """Return the encoded clips, whole and half the size; they are made first where they are missing."""
    small = latents.with_name("small")
    build_latents(latents, NUM_SHARDS, weights)
    build_latents(small, NUM_SMALL_SHARDS, weights, make=encode_small_shard)
    return load_latents(latents, NUM_SHARDS) + load_latents(small, NUM_SMALL_SHARDS, small_scenes)


def compile_blocks(transformer: Transformer) -> None:
    """Compile each block, which fuses all but its products: a step takes 0.7 of the time on a CPU core.

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
    """Set small normal weights, and zeros for what is added to a stream and for the output.

    The gates of the heads between picture and sound are not trained. What they pass is of no use at first:
    training closed all of them, and they stayed closed.
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
    """Return whether a parameter gates heads of the attention between picture and sound."""
    return "_attn.to_gate_logits." in name and ("audio_to_video" in name or "video_to_audio" in name)


def subject_weights(covered: Tensor, step: int) -> Tensor:
    """Return the weights of tokens at a step. covered: the share of each token that subjects cover."""
    left = 3 * (1 - step / SCHEDULE.steps)
    return 1 + (SUBJECT_WEIGHT - 1) * min(1.0, max(0.0, left)) * covered


class TransformerLoss:
    """The loss of a step over encoded clips and stills; without stills, over clips alone."""

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
        """Return the losses on picture and sound together, some clips with clean tokens beside them."""
        clips = _drawn(rng, self.sets)
        place = rng.random()
        pictured = place < PICTURED and clips.pictures is not None
        referred = PICTURED <= place < PICTURED + REFERRED
        num_tokens = clips.shape.num_tokens * (2 if referred else 1) + clips.audio.shape[1]
        count = max(2, min(64, BATCH_TOKENS // num_tokens))
        known = len(clips.scenes) if clips.pictures is None or not pictured else len(clips.pictures)
        picks = rng.integers(known, size=count)
        video, audio = to_tokens(clips.video[picks].float()), clips.audio[picks].float()
        task = draw_task(rng, count, clips.shape, audio.shape[1])
        states, mask = self._states(rng, clips, picks, named=referred)
        noises = _noises(step, video, audio)
        tokens = Tokens(video, video, task.video_mask, _grid(clips))
        if pictured:
            tokens.add(_picture(rng, clips, picks))
        elif referred:
            tokens.add(Added(video, mask=0.0, positions=_grid(clips)))
        picture = tokens.stream()
        sound = Stream(audio, task.audio_mask, audio_positions(audio.shape[1]))
        with training_precision():
            contexts = self.core.contexts(states, mask)
            made = self.core.transformer(
                noised_modality(picture, noises[0], task.video_sigma, contexts[0]),
                noised_modality(sound, noises[1], task.audio_sigma, contexts[1]),
            )
        weights = subject_weights(clips.subjects[picks], step)
        video_loss = velocity_loss(made[0], picture, noises[0], weights).mean()
        audio_loss = velocity_loss(made[1], sound, noises[1]).mean()
        return {"loss": video_loss + audio_loss, "video": video_loss.detach(), "audio": audio_loss.detach()}

    def _stills(self, step: int, rng: np.random.Generator) -> dict[str, Tensor]:
        """Return the loss on single frames, several of a scene to one reading of its caption."""
        stills = _drawn(rng, self.stills)
        picks = rng.integers(len(stills.scenes), size=STILL_SCENES)
        states, mask = self._states(rng, stills, picks)
        rows = (picks[:, None] * STILLS_PER_SCENE + np.arange(STILLS_PER_SCENE)).ravel()
        picture = _generated(to_tokens(stills.video[rows].float()), _grid(stills))
        (noise,) = _noises(step, picture.clean)
        sigma = torch.from_numpy(draw_sigma(rng, len(rows))).float()
        with training_precision():
            context = self.core.context("video", states, mask).repeat_interleave(STILLS_PER_SCENE, 0)
            made, _ = self.core.transformer(noised_modality(picture, noise, sigma, context), None)
        loss = velocity_loss(made, picture, noise).mean()
        return {"loss": loss, "still": loss.detach()}

    def _sounds(self, step: int, rng: np.random.Generator) -> dict[str, Tensor]:
        """Return the loss on sound alone."""
        clips = _drawn(rng, self.sets)
        picks = rng.integers(len(clips.scenes), size=SOUNDS)
        states, mask = self._states(rng, clips, picks)
        audio = clips.audio[picks].float()
        sound = _generated(audio, audio_positions(audio.shape[1]))
        (noise,) = _noises(step, audio)
        sigma = torch.from_numpy(draw_sigma(rng, len(picks))).float()
        with training_precision():
            context = self.core.context("audio", states, mask)
            _, made = self.core.transformer(None, noised_modality(sound, noise, sigma, context))
        loss = velocity_loss(made, sound, noise).mean()
        return {"loss": loss, "sound": loss.detach()}

    def _states(
        self, rng: np.random.Generator, clips: LatentSet, picks: NDArray[np.int64], *, named: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Return Gemma's states and mask of one wording of each scene's caption.

        named: half of them only name the subjects, so that their motion is learned from the clip beside.
        """
        return self.gemma.hidden_states([self._prompt(rng, clips, int(i), named) for i in picks])

    def _prompt(self, rng: np.random.Generator, clips: LatentSet, index: int, named: bool) -> str:
        wording = int(rng.integers(2**31))
        empty = rng.random() < PROMPT_DROPOUT
        if empty:  # guidance steers away from both kinds
            return NEGATIVE if rng.random() < 0.5 else ""
        scene = clips.scenes[index]
        return names(scene) if named and wording % 2 else caption(scene, wording)


def _drawn(rng: np.random.Generator, sets: list[LatentSet]) -> LatentSet:
    """Return one of the sets, drawn by their numbers of scenes."""
    counts = np.array([len(s.scenes) for s in sets], dtype=np.float64)
    return sets[int(rng.choice(len(sets), p=counts / counts.sum()))]


def _noises(step: int, *like: Tensor) -> list[Tensor]:
    """Return the noise of a step for each of these tokens."""
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(x.shape, generator=generator) for x in like]


def _generated(tokens: Tensor, positions: Tensor) -> Stream:
    """Return a stream of which nothing is given."""
    return Stream(tokens, torch.ones(*tokens.shape[:2], 1), positions)


def _grid(clips: LatentSet) -> Tensor:
    """Return the positions of a set's clips."""
    return video_positions(*clips.shape.latent, clips.scenes[0].fps)


def _picture(rng: np.random.Generator, clips: LatentSet, picks: NDArray[np.int64]) -> Added:
    """Return one picture of each clip as given tokens: (B, h w, 128) at (B, 3, h w, 2)."""
    assert clips.pictures is not None
    assert clips.picture_times is not None
    which = rng.integers(PICTURES_PER_CLIP, size=len(picks))
    _, height, width = clips.shape.latent
    positions = [
        guide_positions(1, height, width, clips.scenes[0].fps, frame=int(frame), still=True)
        for frame in clips.picture_times[picks, which]
    ]
    return Added(to_tokens(clips.pictures[picks, which].float()), mask=0.0, positions=torch.cat(positions))
