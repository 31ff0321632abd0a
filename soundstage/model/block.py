"""One transformer block: self-attention, text, the attention between the streams, and feed-forward.

A block holds only the modules of the streams its model has. The inputs that all blocks of a forward share
(tables, modulation rows, text) come as one `StreamInputs` per stream.

Source: docs/model/transformer.md, "Block".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from soundstage.model.arithmetic import PLAIN, Arithmetic, ModulationRows
from soundstage.model.attention import Attention, FeedForward
from soundstage.model.bias import Bias
from soundstage.model.config import StreamConfig, TransformerConfig
from soundstage.model.modulation import Modulation
from soundstage.model.nag import NegativeText, steered
from soundstage.model.rope import Rotation

# Row numbers of a stream's modulation.
SELF, SELF_GATE = ModulationRows(scale=1, shift=0), 2
FF, FF_GATE = ModulationRows(scale=4, shift=3), 5
TEXT, TEXT_GATE = ModulationRows(scale=7, shift=6), 8
NUM_ROWS = 9
CONTEXT = ModulationRows(scale=1, shift=0)
NUM_CONTEXT_ROWS = 2
# Rows of the attention between streams: scale comes first here. The table has a fifth row, the gate.
A2V, V2A = ModulationRows(scale=0, shift=1), ModulationRows(scale=2, shift=3)
NUM_CROSS_ROWS = 4


@dataclass(frozen=True)
class Perturbation:
    """Say in which blocks a guidance pass leaves attention out, as sets of block numbers; None is all blocks.

    skip_video_self, skip_audio_self: self-attention is replaced by its values (STG).
    skip_audio_to_video, skip_video_to_audio: the attention between the streams adds nothing.
    """

    skip_video_self: frozenset[int] | None = frozenset()
    skip_audio_self: frozenset[int] | None = frozenset()
    skip_audio_to_video: frozenset[int] | None = frozenset()
    skip_video_to_audio: frozenset[int] | None = frozenset()

    @classmethod
    def stg(cls, blocks: Sequence[int] | None, *, video: bool = True, audio: bool = True) -> Perturbation:
        """Leave self-attention out in `blocks` for the guided streams (spatio-temporal guidance)."""
        skip = None if blocks is None else frozenset(blocks)
        return cls(
            skip_video_self=skip if video else frozenset(), skip_audio_self=skip if audio else frozenset()
        )

    @classmethod
    def isolated(cls) -> Perturbation:
        """Leave the attention between the streams out everywhere (modality isolation)."""
        return cls(skip_audio_to_video=None, skip_video_to_audio=None)


Keep = bool | Tensor  # True, False, or per sample: bool (B, 1, 1)


@dataclass(frozen=True)
class BlockKeeps:
    """Say which attention one block computes for a batch: the complement of its perturbations."""

    video_self: Keep = True
    audio_self: Keep = True
    audio_to_video: Keep = True
    video_to_audio: Keep = True

    @classmethod
    def of(cls, passes: Sequence[Perturbation], block: int, device: torch.device | None = None) -> BlockKeeps:
        """Return what block number `block` computes. passes: one for the whole batch, or one per sample."""

        def keep(skips: Sequence[frozenset[int] | None]) -> Keep:
            kept = [blocks is not None and block not in blocks for blocks in skips]
            if all(kept) or not any(kept):
                return kept[0]
            return _keep_mask(tuple(kept), device)

        return cls(
            keep([p.skip_video_self for p in passes]),
            keep([p.skip_audio_self for p in passes]),
            keep([p.skip_audio_to_video for p in passes]),
            keep([p.skip_video_to_audio for p in passes]),
        )


@cache
def _keep_mask(kept: tuple[bool, ...], device: torch.device | None) -> Tensor:
    """Return (B, 1, 1) on the device, made once: a copy makes the host wait, and every block needs it.

    It is never freed: a recorded step (speed/graphs.py) reads its memory.
    """
    with torch.inference_mode(False):
        return torch.tensor(kept, device=device).view(-1, 1, 1)


KEEP_ALL = BlockKeeps()


@dataclass
class StreamInputs:
    """Hold one stream's inputs to the blocks, the same for all of a forward.

    rows: (B, G, 9, D), and the timestep they come from, (B, G, D), for the head. groups: (N,) the group
    of each token, None for a single group. context_rows: (B, 1, 2, D).
    cross_rows: (B, G or 1, 4, D), with cross_groups; cross_gate: (B, 1, 1, D); None without the other
    stream. enabled=False: the stream only serves as keys and values of the other. negative: text to steer
    away from, None for none. read_bias, reads: see StreamTables.
    """

    enabled: bool
    context: Tensor
    context_bias: Tensor | None
    self_bias: Bias | None
    rope: Rotation
    rows: Tensor
    embedded_timestep: Tensor
    groups: Tensor | None
    context_rows: Tensor
    cross_rope: Rotation | None = None
    cross_rows: Tensor | None = None
    cross_groups: Tensor | None = None
    cross_gate: Tensor | None = None
    negative: NegativeText | None = None
    read_bias: Tensor | None = None
    reads: Tensor | None = None

    def cross_modulation(self, table: Tensor) -> tuple[Modulation, Modulation]:
        """Return the modulation by a table's first four rows, and the gate by its fifth. table: (5, D)."""
        assert self.cross_rows is not None
        assert self.cross_gate is not None
        modulation = Modulation.of(table[:NUM_CROSS_ROWS], self.cross_rows, self.cross_groups)
        return modulation, Modulation.of(table[NUM_CROSS_ROWS:], self.cross_gate)


def shift_table(num_rows: int, width: int) -> nn.Parameter:
    """Return random rows, (num_rows, width)."""
    table = torch.empty(num_rows, width)
    if not table.is_meta:  # drawing on the meta device imports torch's compiler, 0.8 s of every start
        table.normal_(std=width**-0.5)
    return nn.Parameter(table)


def _self_and_text(stream: StreamConfig) -> tuple[Attention, Attention]:
    heads = {"num_heads": stream.num_heads, "head_dim": stream.head_dim}
    return Attention(stream.width, stream.width, **heads), Attention(stream.width, stream.width, **heads)


class Block(nn.Module):
    arithmetic: Arithmetic = PLAIN

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.eps = config.norm_eps
        video, audio = config.video, config.audio
        if video is not None:
            self.attn1, self.attn2 = _self_and_text(video)
            self.ff = FeedForward(video.width)
            self.scale_shift_table = shift_table(NUM_ROWS, video.width)
            self.prompt_scale_shift_table = shift_table(NUM_CONTEXT_ROWS, video.width)
        if audio is not None:
            self.audio_attn1, self.audio_attn2 = _self_and_text(audio)
            self.audio_ff = FeedForward(audio.width)
            self.audio_scale_shift_table = shift_table(NUM_ROWS, audio.width)
            self.audio_prompt_scale_shift_table = shift_table(NUM_CONTEXT_ROWS, audio.width)
        if video is not None and audio is not None:
            heads = {"num_heads": audio.num_heads, "head_dim": audio.head_dim}
            self.audio_to_video_attn = Attention(video.width, audio.width, **heads)
            self.video_to_audio_attn = Attention(audio.width, video.width, **heads)
            self.scale_shift_table_a2v_ca_video = shift_table(NUM_CROSS_ROWS + 1, video.width)
            self.scale_shift_table_a2v_ca_audio = shift_table(NUM_CROSS_ROWS + 1, audio.width)

    def forward(
        self,
        xv: Tensor | None,
        xa: Tensor | None,
        video: StreamInputs | None,
        audio: StreamInputs | None,
        keeps: BlockKeeps = KEEP_ALL,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Update xv (B, Nv, Dv) and xa (B, Na, Da). An absent stream is None in x and in its inputs."""
        video_rows = audio_rows = None
        if xv is not None and video is not None and video.enabled:
            video_rows = Modulation.of(self.scale_shift_table, video.rows, video.groups)
            h = self._entry(xv, video_rows)
            h = self.attn1(h, rope=video.rope, bias=video.self_bias, keep=keeps.video_self)
            xv = self.arithmetic.add_gated(xv, video_rows, SELF_GATE, h)
            xv = self._read(xv, video, video_rows, self.attn2, self.prompt_scale_shift_table)
        if xa is not None and audio is not None and audio.enabled:
            audio_rows = Modulation.of(self.audio_scale_shift_table, audio.rows, audio.groups)
            h = self._entry(xa, audio_rows)
            h = self.audio_attn1(h, rope=audio.rope, bias=audio.self_bias, keep=keeps.audio_self)
            xa = self.arithmetic.add_gated(xa, audio_rows, SELF_GATE, h)
            xa = self._read(xa, audio, audio_rows, self.audio_attn2, self.audio_prompt_scale_shift_table)
        if xv is not None and xa is not None and video is not None and audio is not None:
            xv, xa = self._exchange(xv, xa, video, audio, keeps)
        if xv is not None and video_rows is not None:
            xv = self._feed_forward(xv, video_rows, self.ff)
        if xa is not None and audio_rows is not None:
            xa = self._feed_forward(xa, audio_rows, self.audio_ff)
        return xv, xa

    def entry(
        self, xv: Tensor | None, xa: Tensor | None, video: StreamInputs | None, audio: StreamInputs | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the input of self-attention of both streams, (B, N, D); None for one that is not enabled."""
        hv = ha = None
        if xv is not None and video is not None and video.enabled:
            hv = self._entry(xv, Modulation.of(self.scale_shift_table, video.rows, video.groups))
        if xa is not None and audio is not None and audio.enabled:
            ha = self._entry(xa, Modulation.of(self.audio_scale_shift_table, audio.rows, audio.groups))
        return hv, ha

    def _entry(self, x: Tensor, rows: Modulation) -> Tensor:
        return self._modulated(x, rows, SELF)

    def _modulated(self, x: Tensor, rows: Modulation, place: ModulationRows) -> Tensor:
        return self.arithmetic.modulated_norms(x, self.eps, rows, (place,))[0]

    def _read(
        self, x: Tensor, stream: StreamInputs, rows: Modulation, attention: Attention, table: Tensor
    ) -> Tensor:
        """Attend to the text. The context is modulated by sigma, so its keys change at every step."""
        h = self._modulated(x, rows, TEXT)
        text = Modulation.of(table, stream.context_rows)
        context = text.apply(stream.context, scale=CONTEXT.scale, shift=CONTEXT.shift)
        if stream.negative is None:
            h = attention(h, context, bias=stream.context_bias)
        else:
            unwanted = text.apply(stream.negative.context, scale=CONTEXT.scale, shift=CONTEXT.shift)
            heads = _steered_heads(attention, h, context, stream.context_bias, unwanted, stream.negative)
            h = attention.finish(h, heads)
        return self.arithmetic.add_gated(x, rows, TEXT_GATE, h)

    def _exchange(
        self, xv: Tensor, xa: Tensor, video: StreamInputs, audio: StreamInputs, keeps: BlockKeeps
    ) -> tuple[Tensor, Tensor]:
        """Attend between the streams; both directions read the state before either is updated."""
        to_video = video.enabled and keeps.audio_to_video is not False
        to_audio = audio.enabled and keeps.video_to_audio is not False
        if not (to_video or to_audio):
            return xv, xa
        # Both directions read both streams: as queries of one attention, as keys and values of the other.
        places = [place for place, on in ((A2V, to_video), (V2A, to_audio)) if on]
        video_rows, video_gate = video.cross_modulation(self.scale_shift_table_a2v_ca_video)
        audio_rows, audio_gate = audio.cross_modulation(self.scale_shift_table_a2v_ca_audio)
        nv = dict(zip(places, self.arithmetic.modulated_norms(xv, self.eps, video_rows, places), strict=True))
        na = dict(zip(places, self.arithmetic.modulated_norms(xa, self.eps, audio_rows, places), strict=True))
        if to_video:
            ropes = {"rope": video.cross_rope, "context_rope": audio.cross_rope}
            h = self.audio_to_video_attn(nv[A2V], na[A2V], bias=audio.read_bias, **ropes)
            xv = self.arithmetic.add_gated(xv, video_gate, 0, h, _some(keeps.audio_to_video, video.reads))
        if to_audio:
            ropes = {"rope": audio.cross_rope, "context_rope": video.cross_rope}
            h = self.video_to_audio_attn(na[V2A], nv[V2A], bias=video.read_bias, **ropes)
            xa = self.arithmetic.add_gated(xa, audio_gate, 0, h, _some(keeps.video_to_audio, audio.reads))
        return xv, xa

    def _feed_forward(self, x: Tensor, rows: Modulation, feed_forward: FeedForward) -> Tensor:
        h = feed_forward(self._modulated(x, rows, FF))
        return self.arithmetic.add_gated(x, rows, FF_GATE, h)


def _steered_heads(
    attention: Attention,
    h: Tensor,
    context: Tensor,
    bias: Tensor | None,
    unwanted: Tensor,
    negative: NegativeText,
) -> Tensor:
    """Return heads (B, H, N, d) of the text, steered away from the unwanted text in the samples that ask."""

    def read(queries: Tensor, context: Tensor, bias: Tensor | None = None) -> Tensor:
        keys, values = attention.keys_of(context), attention.values_of(context)
        return attention.kernel(queries, keys, values, bias).transpose(1, 2)

    queries = attention.queries_of(h)
    heads = read(queries, context, bias)
    if negative.samples is None:
        return steered(heads, read(queries, unwanted), negative).transpose(1, 2)
    chosen = _sample_numbers(tuple(negative.samples), h.device)
    away = read(queries.index_select(0, chosen), unwanted.index_select(0, chosen))
    changed = steered(heads.index_select(0, chosen), away, negative)
    return heads.index_copy(0, chosen, changed).transpose(1, 2)


@cache
def _sample_numbers(samples: tuple[int, ...], device: torch.device) -> Tensor:
    """Return the numbers on the device, made once as `_keep_mask` is."""
    with torch.inference_mode(False):
        return torch.tensor(samples, device=device)


def _some(keep: Keep, reads: Tensor | None) -> Tensor | None:
    """Return the mask of the samples and tokens that are changed, (B, 1 or N, 1); None if all are."""
    if not isinstance(keep, Tensor):
        return reads
    return keep if reads is None else keep & reads
