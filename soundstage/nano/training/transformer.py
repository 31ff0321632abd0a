"""Train nano's transformer, its connectors and its text projection, all together.

Flow matching, docs/model/sampling.md, "Flow". What a step asks, and the batch that it asks it of, are made by
examples.py; here are the modules and their loss. A step has clips, stills or sound alone: looks and sounds of
words are learned from stills and from sound, at a sixth of a clip's cost; clips teach motion, and sound for
picture.

The loss has fixed shapes for each kind of batch and copies nothing from the host: it can be recorded.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from soundstage.model.config import ConnectorConfig, Header, TextProjectionConfig, TransformerConfig
from soundstage.model.connector import Connector, FeatureExtractor
from soundstage.model.modulation import TokenGroups
from soundstage.model.published import transformer_header
from soundstage.model.rope import Rotation
from soundstage.model.transformer import ModalityInputs, RunTables, StreamTables, Transformer
from soundstage.nano.training.examples import Examples
from soundstage.nano.training.export import write
from soundstage.nano.training.latents import TEXT_TOKENS, clip_supply
from soundstage.nano.training.runs import PartRun
from soundstage.sampling.streams import Stream
from soundstage.text.gemma import Gemma
from soundstage.training.batches import Batch
from soundstage.training.noising import noised_modality, velocity_loss
from soundstage.training.optimizers import Schedule
from soundstage.training.precision import training_precision, use_training_attention
from soundstage.types import Modality

SCHEDULE = Schedule(minutes=290, rate=1e-3, muon=2e-3, warmup=100, average=0.998)


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

    def context(self, modality: Modality, hidden_states: Tensor, mask: Tensor) -> Tensor:
        """Return the context (B, S, D) of one stream. hidden_states: (B, S, Dg, L). mask: (B, S)."""
        video, audio = self.text_embedding_projection.dense(hidden_states, mask)
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
    gemma = load_gemma(weights, torch.device("cpu"))
    core = NanoCore(header(gemma.width), gemma.num_states)
    initialise(core)
    return core


def load_gemma(weights: Path, device: torch.device) -> Gemma:
    return Gemma.load(weights / "text", num_tokens=TEXT_TOKENS, dtype=torch.bfloat16, device=device)


def batches(run: PartRun) -> Iterator[Batch]:
    """Yield a batch per step, of clips that are encoded while the training runs."""
    gemma = load_gemma(run.weights, run.device)
    with torch.device("meta"):
        transformer = Transformer(TransformerConfig.from_header(header(gemma.width)))
    supply = clip_supply(run)
    examples = Examples(transformer, gemma, run.scale, run.device)
    for rng, stock in supply.steps(11, run.first):
        yield examples.batch(rng, run.progress(), stock)


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


class TransformerLoss:
    """The loss of a batch as `Examples` makes them: the squared error of the velocities of its streams."""

    def __init__(self, core: NanoCore, device: torch.device) -> None:
        self.core, self.device = core, device
        use_training_attention(core, device)

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        streams = {name: _stream(batch, name) for name in MODALITIES if name in batch.tensors}
        noises = {name: torch.randn_like(batch[name]) for name in streams}
        with training_precision(self.device):
            inputs = {name: self._inputs(batch, name, s, noises[name]) for name, s in streams.items()}
            tables = RunTables(*(_tables(batch, name) for name in MODALITIES))
            made = self.core.transformer(inputs.get("video"), inputs.get("audio"), tables=tables)
        losses = {}
        for name, velocity in zip(MODALITIES, made, strict=True):
            if velocity is not None:
                weights = batch.tensors.get(f"{name}_weights")
                error = velocity_loss(velocity, streams[name], noises[name], weights).mean()
                losses[batch.kind.partition(" ")[0] + f"_{name}"] = error
        return {"loss": torch.stack(list(losses.values())).sum(), **losses}

    def _inputs(self, batch: Batch, name: Modality, stream: Stream, noise: Tensor) -> ModalityInputs:
        context = self.core.context(name, batch["states"].float(), batch["prompt_mask"])
        several = len(stream.clean) // len(context)  # stills of a scene, which share its prompt
        context = context.repeat_interleave(several, 0) if several > 1 else context
        return noised_modality(stream, noise, batch[f"{name}_sigma"], context)


MODALITIES: tuple[Modality, Modality] = ("video", "audio")


def _stream(batch: Batch, name: Modality) -> Stream:
    """Return a stream's tokens, and behind them those that stand beside the clip, all given."""
    clean, mask = batch[name], batch[f"{name}_mask"]
    beside = batch.tensors.get(f"{name}_beside")
    if beside is not None:
        clean, mask = torch.cat([clean, beside], dim=1), nn.functional.pad(mask, (0, 0, 0, beside.shape[1]))
    return Stream(clean, mask, positions=mask)  # the tables have the positions


def _tables(batch: Batch, name: Modality) -> StreamTables | None:
    """Return a stream's tables, which `Examples` has made."""
    if name not in batch.tensors:
        return None
    cross = None
    if f"{name}_cross_cos" in batch.tensors:
        cross = Rotation(batch[f"{name}_cross_cos"], batch[f"{name}_cross_sin"])
    rope = Rotation(batch[f"{name}_cos"], batch[f"{name}_sin"])
    groups = TokenGroups(batch[f"{name}_first"], batch[f"{name}_groups"])
    return StreamTables(rope, cross, None, groups)
