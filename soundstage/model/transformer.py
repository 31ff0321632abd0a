"""The audio-video diffusion transformer: noisy tokens of both streams -> their velocities.

A run calls `prepare` once and `forward` at every step. The tables hold all that stays the same over the
steps: rotary tables, attention biases, and groups of tokens that share a timestep. Text keys and values are
not among them: the context is scaled and shifted by sigma before the projections, so they change at every
step. At the published size they cost as much as 150 more video tokens.

Weights may be in bfloat16; the scale-and-shift tables stay in float32 and are cast where they are used.
Timesteps, positions and angles are float32 throughout.

Source: docs/model/transformer.md, "Dimensions" and "Precision"; numbers held by
tests/parity/test_transformer.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from soundstage.model.attention import context_bias, strength_bias
from soundstage.model.bias import Bias, parts_of
from soundstage.model.block import (
    KEEP_ALL,
    NUM_CONTEXT_ROWS,
    NUM_CROSS_ROWS,
    NUM_ROWS,
    Block,
    BlockKeeps,
    Perturbation,
    StreamInputs,
    shift_table,
)
from soundstage.model.config import StreamConfig, TransformerConfig
from soundstage.model.modulation import AdaLN, Modulation, TokenGroups
from soundstage.model.nag import NegativeText
from soundstage.model.rope import Rotation, rope_table

__all__ = [
    "BlockStack",
    "ModalityInputs",
    "Perturbation",
    "RunTables",
    "Shortcut",
    "StreamTables",
    "Transformer",
]


@dataclass
class ModalityInputs:
    """Hold one stream's inputs: B samples, N tokens, S text tokens, A axes (3 for video, 1 for audio).

    latents: (B, N, 128). sigma: (B,) in [0, 1]. timesteps: (B, N), denoise mask times sigma.
    positions: (B or 1, A, N, 2), see conditioning.positions. context: (B, S, D) from the connector.
    attention_mask: (B or 1, N, N) in [0, 1], self-attention only. context_mask: see
    attention.context_bias; the pipelines pass none. enabled: False leaves the stream as it is, serving
    the other as keys and values only. negative: text to steer away from inside text attention.
    unread: (N,) bool, tokens that the other stream does not read; None for none of them. unreading: (N,)
    bool, tokens that do not read the other stream.
    """

    latents: Tensor
    sigma: Tensor
    timesteps: Tensor
    positions: Tensor
    context: Tensor
    attention_mask: Tensor | None = None
    context_mask: Tensor | None = None
    enabled: bool = True
    negative: NegativeText | None = None
    unread: Tensor | None = None
    unreading: Tensor | None = None


@dataclass(frozen=True)
class StreamTables:
    """Hold what stays over a run for one stream.

    cross_rope: by time only, for the attention between the streams. read_bias: (1, 1, 1, N) on the logits of
    this stream's tokens as keys of the other's; reads: bool (1, N, 1), the tokens that read the other stream;
    None where all are read, or read.
    """

    rope: Rotation
    cross_rope: Rotation | None
    bias: Bias | None
    groups: TokenGroups
    read_bias: Tensor | None = None
    reads: Tensor | None = None


@dataclass(frozen=True)
class RunTables:
    """Hold the tables of both streams for a run.

    They are valid while positions, attention masks and denoise masks stay the same. Tables made for one
    sample serve any batch.

    Make them at a sigma above 0: at 0 all timesteps are 0, whatever the mask.
    """

    video: StreamTables | None
    audio: StreamTables | None


@dataclass(frozen=True)
class BlockStack:
    """Hold the blocks of one forward with their shared inputs: (B, N, D) of both streams in and out."""

    blocks: nn.ModuleList
    video: StreamInputs | None
    audio: StreamInputs | None
    keeps: Sequence[BlockKeeps]

    def __len__(self) -> int:
        return len(self.blocks)

    @property
    def enabled(self) -> tuple[bool, bool]:
        """Return which streams the blocks update."""
        video, audio = self.video, self.audio
        return video is not None and video.enabled, audio is not None and audio.enabled

    def run(
        self, xv: Tensor | None, xa: Tensor | None, start: int = 0, stop: int | None = None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Run blocks number `start` up to but not including `stop`."""
        for index in range(start, len(self.blocks) if stop is None else stop):
            xv, xa = self.blocks[index](xv, xa, self.video, self.audio, self.keeps[index])
        return xv, xa

    def entry(self, xv: Tensor | None, xa: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Return the input of the first block's self-attention; see `Block.entry`."""
        first = self.blocks[0]
        assert isinstance(first, Block)
        return first.entry(xv, xa, self.video, self.audio)


class Shortcut(Protocol):
    """Run the blocks of a forward, or fewer, in place of the loop over all of them; see `sampling.cache`."""

    def __call__(
        self, stack: BlockStack, xv: Tensor | None, xa: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]: ...


class Transformer(nn.Module):
    """Predict velocities of both streams, or of one. Attribute names are the published state-dict keys."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        video, audio = config.video, config.audio
        if video is not None:
            self.patchify_proj = nn.Linear(video.in_channels, video.width)
            self.adaln_single = AdaLN(video.width, NUM_ROWS)
            self.prompt_adaln_single = AdaLN(video.width, NUM_CONTEXT_ROWS)
            self.scale_shift_table = shift_table(2, video.width)
            self.proj_out = nn.Linear(video.width, video.out_channels)
        if audio is not None:
            self.audio_patchify_proj = nn.Linear(audio.in_channels, audio.width)
            self.audio_adaln_single = AdaLN(audio.width, NUM_ROWS)
            self.audio_prompt_adaln_single = AdaLN(audio.width, NUM_CONTEXT_ROWS)
            self.audio_scale_shift_table = shift_table(2, audio.width)
            self.audio_proj_out = nn.Linear(audio.width, audio.out_channels)
        if video is not None and audio is not None:
            self.av_ca_video_scale_shift_adaln_single = AdaLN(video.width, NUM_CROSS_ROWS)
            self.av_ca_audio_scale_shift_adaln_single = AdaLN(audio.width, NUM_CROSS_ROWS)
            self.av_ca_a2v_gate_adaln_single = AdaLN(video.width, 1)
            self.av_ca_v2a_gate_adaln_single = AdaLN(audio.width, 1)
        self.transformer_blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))

    @property
    def dtype(self) -> torch.dtype:
        """Return the dtype of activations, read from a norm, which is never quantized."""
        for name, parameter in self.named_parameters():
            if name.endswith("q_norm.weight"):
                return parameter.dtype
        raise AssertionError("a transformer has at least one block")

    def prepare(self, video: ModalityInputs | None, audio: ModalityInputs | None) -> RunTables:
        """Return tables for a run. The batch may be smaller than that of the forwards if it broadcasts."""
        both = video is not None and audio is not None
        limits = [s.max_positions[0] for s in (self.config.video, self.config.audio) if s is not None]
        longest_s = max(limits)
        return RunTables(
            self._stream_tables(video, self.config.video, longest_s if both else None),
            self._stream_tables(audio, self.config.audio, longest_s if both else None),
        )

    def _stream_tables(
        self, modality: ModalityInputs | None, stream: StreamConfig | None, longest_s: float | None
    ) -> StreamTables | None:
        if modality is None:
            return None
        if stream is None:
            raise ValueError("this transformer was built without the stream that was passed")
        dtype, theta = self.dtype, self.config.rope_theta
        positions = modality.positions.to(modality.latents.device)
        rope = rope_table(
            positions,
            width=stream.width,
            num_heads=stream.num_heads,
            max_positions=stream.max_positions,
            theta=theta,
        )
        cross_rope = None
        if longest_s is not None and self.config.audio is not None:
            cross_rope = rope_table(
                positions[:, :1],
                width=self.config.audio.width,
                num_heads=self.config.audio.num_heads,
                max_positions=(longest_s,),
                theta=theta,
            ).rotation(dtype)
        mask = modality.attention_mask
        return StreamTables(
            rope=rope.rotation(dtype),
            cross_rope=cross_rope,
            bias=None if mask is None else parts_of(strength_bias(mask, dtype)),
            groups=TokenGroups.of(modality.timesteps),
            read_bias=_read_bias(modality, dtype),
            reads=None if modality.unreading is None else ~modality.unreading[None, :, None],
        )

    def forward(
        self,
        video: ModalityInputs | None,
        audio: ModalityInputs | None,
        *,
        perturbation: Perturbation | Sequence[Perturbation] | None = None,
        tables: RunTables | None = None,
        shortcut: Shortcut | None = None,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return velocities (B, N, 128) of both streams; None for one that is absent or not enabled.

        perturbation: one for all samples, or a sequence with one per sample. tables: from `prepare`; made
        here if not given. shortcut: runs the blocks, or fewer, in place of all of them.
        Raises ValueError for tables that were made without a stream that is passed.
        """
        tables = tables or self.prepare(video, audio)
        _check_tables(tables, video, audio)
        dtype = self.dtype
        video_inputs = audio_inputs = xv = xa = None
        if video is not None and tables.video is not None:
            xv = self.patchify_proj(video.latents.to(dtype))
            video_inputs = self._inputs(video, audio, tables.video, self._video_nets(), dtype)
        if audio is not None and tables.audio is not None:
            xa = self.audio_patchify_proj(audio.latents.to(dtype))
            audio_inputs = self._inputs(audio, video, tables.audio, self._audio_nets(), dtype)
        device = next(m.latents.device for m in (video, audio) if m is not None)
        blocks, all_keeps = self.transformer_blocks, self._keeps(perturbation, device)
        if shortcut is not None:
            xv, xa = shortcut(BlockStack(blocks, video_inputs, audio_inputs, all_keeps), xv, xa)
        else:
            for block, keeps in zip(blocks, all_keeps, strict=True):
                xv, xa = block(xv, xa, video_inputs, audio_inputs, keeps)
        if xv is not None and video_inputs is not None:
            xv = self._head(xv, video_inputs, self.scale_shift_table, self.proj_out)
        if xa is not None and audio_inputs is not None:
            xa = self._head(xa, audio_inputs, self.audio_scale_shift_table, self.audio_proj_out)
        return xv, xa

    def _keeps(
        self, perturbation: Perturbation | Sequence[Perturbation] | None, device: torch.device
    ) -> list[BlockKeeps]:
        """Return which attention each block computes."""
        num_blocks = len(self.transformer_blocks)
        if not perturbation:
            return [KEEP_ALL] * num_blocks
        passes = (perturbation,) if isinstance(perturbation, Perturbation) else perturbation
        return [BlockKeeps.of(passes, index, device) for index in range(num_blocks)]

    def _video_nets(self) -> _StreamNets:
        both = self.config.audio is not None
        return _StreamNets(
            rows=self.adaln_single,
            context_rows=self.prompt_adaln_single,
            cross_rows=self.av_ca_video_scale_shift_adaln_single if both else None,
            cross_gate=self.av_ca_a2v_gate_adaln_single if both else None,
        )

    def _audio_nets(self) -> _StreamNets:
        both = self.config.video is not None
        return _StreamNets(
            rows=self.audio_adaln_single,
            context_rows=self.audio_prompt_adaln_single,
            cross_rows=self.av_ca_audio_scale_shift_adaln_single if both else None,
            cross_gate=self.av_ca_v2a_gate_adaln_single if both else None,
        )

    def _inputs(
        self,
        own: ModalityInputs,
        other: ModalityInputs | None,
        tables: StreamTables,
        nets: _StreamNets,
        dtype: torch.dtype,
    ) -> StreamInputs:
        """Return a stream's inputs to the blocks, at this step's noise level."""
        scale = self.config.timestep_scale
        timesteps = scale * tables.groups.gather(own.timesteps.float())
        rows, embedded = nets.rows(timesteps, dtype)
        inputs = StreamInputs(
            enabled=own.enabled,
            context=own.context.to(dtype),
            context_bias=_text_bias(own.context_mask, dtype),
            self_bias=tables.bias,
            rope=tables.rope,
            rows=rows,
            embedded_timestep=embedded,
            groups=tables.groups.group_of,
            context_rows=nets.context_rows(scale * own.sigma.float()[:, None], dtype)[0],
            negative=None if own.negative is None else own.negative.to(dtype),
        )
        if other is not None and nets.cross_rows is not None and nets.cross_gate is not None:
            other_sigma = other.sigma.float()[:, None]
            inputs.cross_rope = tables.cross_rope
            inputs.read_bias, inputs.reads = tables.read_bias, tables.reads
            inputs.cross_gate = nets.cross_gate(self.config.cross_gate_scale * other_sigma, dtype)[0]
            if self.config.cross_timestep == "own":
                inputs.cross_rows, inputs.cross_groups = nets.cross_rows(timesteps, dtype)[0], inputs.groups
            else:
                inputs.cross_rows = nets.cross_rows(scale * other_sigma, dtype)[0]
        return inputs

    def _head(self, x: Tensor, inputs: StreamInputs, table: Tensor, project: nn.Module) -> Tensor | None:
        """Return velocities (B, N, 128) of tokens (B, N, D)."""
        if not inputs.enabled:
            return None
        modulation = Modulation.of(table, inputs.embedded_timestep.unsqueeze(2), inputs.groups)
        x = F.layer_norm(x, x.shape[-1:], eps=self.config.norm_eps)
        return project(modulation.apply(x, scale=1, shift=0))  # type: ignore[no-any-return]


class _StreamNets(NamedTuple):
    """Hold the modulation networks of one stream; the cross ones exist only with another stream."""

    rows: AdaLN
    context_rows: AdaLN
    cross_rows: AdaLN | None
    cross_gate: AdaLN | None


def _read_bias(modality: ModalityInputs, dtype: torch.dtype) -> Tensor | None:
    """Return the bias (1, 1, 1, N) of tokens as keys of the other stream: lowest where they are not read."""
    unread = modality.unread
    if unread is None:
        return None
    return unread.new_zeros(1, 1, 1, len(unread), dtype=dtype).masked_fill(unread, torch.finfo(dtype).min)


def _text_bias(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Return the bias of a text mask; None where no text token is masked. Each mask is checked once."""
    if mask is None or mask.is_floating_point():
        return None if mask is None else context_bias(mask, dtype)
    version = 0 if mask.is_inference() else mask._version
    if _whole_masks.get(mask, (None, False))[0] != version:
        _whole_masks[mask] = version, bool(mask.all())
    return None if _whole_masks[mask][1] else context_bias(mask, dtype)


# By mask: the version that was checked, and whether it was whole.
_whole_masks: Any = WeakTensorKeyDictionary()  # type: ignore[no-untyped-call]


def _check_tables(tables: RunTables, video: ModalityInputs | None, audio: ModalityInputs | None) -> None:
    present = [t for t, m in ((tables.video, video), (tables.audio, audio)) if m is not None]
    if None in present or (len(present) == 2 and any(t is None or t.cross_rope is None for t in present)):
        raise ValueError("the tables were prepared without one of the streams; prepare them with both")
