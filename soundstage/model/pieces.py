"""The video VAE over pieces of a clip: the same numbers as at once, in memory that does not grow with length.

Only the convolutions mix frames, so each keeps its last two input frames for the next piece. The decoder's
convolutions also read one frame ahead: they return a frame when the next one has come, and the last one at
the end, with a copy of itself after it. Residual sums are delayed until their branch is computed. Pieces run
depth first, from latents to pixels, and are cut where a stage would make more than `max_bytes`. So the memory
in use is a piece per stage and two frames per convolution.

A clip that fits in one piece runs through the ordinary modules and has their bits.
Source of the technique: docs/model/video-vae.md, "Streaming".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from soundstage.model.video_vae import (
    Conv3d,
    Downsample,
    ResBlock,
    ResStage,
    Upsample,
    VideoDecoder,
    VideoVae,
    depth_to_space,
    patchify,
    unpatchify,
)
from soundstage.types import SPACE_SCALE, TIME_SCALE

# The most that a stage passes to the next in one piece. A frame of the decoder's last stage is 33 MB at
# 1088x1920 in bfloat16; larger pieces gain little speed and cost their size once per stage.
MAX_BYTES = 64 * 2**20

Pieces = Iterator[tuple[Tensor, bool]]  # (B, C, n, H, W) in order, and whether it is the last


class PieceLayer:
    """Apply a module to a clip in pieces, keeping what later pieces need. growth: bytes out for a byte in."""

    growth = 1.0

    def __call__(self, x: Tensor, last: bool) -> Tensor | None:
        """Take a piece (B, C, n, H, W) and whether it is the last; return the frames that are ready."""
        raise NotImplementedError


@torch.no_grad()
def decode_pieces(vae: VideoVae, latents: Tensor, *, max_bytes: int = MAX_BYTES) -> Iterator[Tensor]:
    """Decode normalised latents (B, 128, T, h, w) to pieces of pixels (B, 3, n, 32h, 32w), in order.

    The pieces' frames sum to 8(T - 1) + 1 and equal those of `vae.decode` to rounding; n varies.
    """
    denormalize = vae.per_channel_statistics.denormalize
    cut = _cut(latents, True, int(max_bytes / _Conv(vae.decoder.conv_in).growth))
    yield from _decoded(vae.decoder, ((denormalize(x), last) for x, last in cut), max_bytes)


@torch.no_grad()
def stream_decoder(decoder: VideoDecoder, x: Tensor, *, max_bytes: int = MAX_BYTES) -> Iterator[Tensor]:
    """Apply the decoder alone to denormalised latents, in pieces."""
    yield from _decoded(decoder, iter([(x, True)]), max_bytes)


def _decoded(decoder: VideoDecoder, pieces: Pieces, max_bytes: int) -> Iterator[Tensor]:
    for stage in (_Conv(decoder.conv_in), *map(_stage, decoder.up_blocks), _Head(decoder.conv_out)):
        pieces = _flow(stage, pieces, max_bytes)
    for x, _ in pieces:
        yield unpatchify(x, decoder.patch_size)


@torch.no_grad()
def encode_pieces(vae: VideoVae, chunks: Iterable[Tensor], *, max_bytes: int = MAX_BYTES) -> Tensor:
    """Encode chunks of pixels (B, 3, n, H, W) in [-1, 1] as normalised latents (B, 128, T, H/32, W/32).

    Chunks may be of any length; together they have 8(T - 1) + 1 frames. Equals `vae.encode` of the whole to
    rounding. Raises ValueError for sizes that do not fit the latent grid.
    """
    encoder, statistics = vae.encoder, vae.per_channel_statistics
    pieces: Pieces = ((patchify(x, encoder.patch_size), last) for x, last in _checked(chunks))
    for stage in (_Conv(encoder.conv_in), *map(_stage, encoder.down_blocks), _Head(encoder.conv_out)):
        pieces = _flow(stage, pieces, max_bytes)
    means = [statistics.normalize(x[:, : encoder.latent_channels]) for x, _ in pieces]
    return torch.cat(means, dim=2)


def _checked(chunks: Iterable[Tensor]) -> Pieces:
    """Mark the last chunk, by reading one ahead, and refuse sizes off the grid."""
    waiting: Tensor | None = None
    num_frames = 0
    for chunk in chunks:
        num_frames += chunk.shape[2]
        height, width = chunk.shape[3:]
        if height % SPACE_SCALE or width % SPACE_SCALE:
            raise ValueError(f"sides must be multiples of {SPACE_SCALE}, not {height}x{width}")
        if waiting is not None:
            yield waiting, False
        waiting = chunk if chunk.shape[2] else waiting
    if num_frames % TIME_SCALE != 1 or waiting is None:
        raise ValueError(f"the chunks have {num_frames} frames in all; they must sum to 8k+1 (1, 9, 17, ...)")
    yield waiting, True


def _flow(stage: PieceLayer, pieces: Pieces, max_bytes: int) -> Pieces:
    """Run a stage over pieces that are cut so that its result for each stays under max_bytes."""
    for x, last in pieces:
        for piece, ends in _cut(x, last, int(max_bytes / stage.growth)):
            out = stage(piece, ends)
            if out is not None:
                yield out, ends


def _cut(x: Tensor, last: bool, max_bytes: int) -> Pieces:
    """Cut x into runs of whole frames of up to max_bytes, one frame at least."""
    num_frames = x.shape[2]
    frame_bytes = x.numel() // num_frames * x.element_size()
    step = max(1, max_bytes // frame_bytes)
    for start in range(0, num_frames, step):
        yield x[:, :, start : start + step], last and start + step >= num_frames


def _stage(block: nn.Module) -> PieceLayer:
    if isinstance(block, ResStage):
        return _Res(block)
    if isinstance(block, Upsample):
        return _Up(block)
    assert isinstance(block, Downsample)
    return _Down(block)


class _Conv(PieceLayer):
    """Convolve a clip in pieces, each with the last two frames before it."""

    def __init__(self, conv: Conv3d) -> None:
        self.conv = conv
        self.growth = conv.conv.out_channels / conv.conv.in_channels
        self.past: Tensor | None = None

    def __call__(self, x: Tensor, last: bool) -> Tensor | None:
        if self.past is None and last:
            return self.conv(x)  # type: ignore[no-any-return]
        before, after = self._margins(last)
        x = torch.cat([*[x[:, :, :1]] * before, x, *[x[:, :, -1:]] * after], dim=2)
        return self._on(x, last)

    def _margins(self, last: bool) -> tuple[int, int]:
        """Return how many frames go before a piece, of the past or copies of its first, and after it."""
        before, after = self.conv.margins
        return before if self.past is None else 2, after if last else 0

    def _on(self, padded: Tensor, last: bool) -> Tensor | None:
        """Convolve a piece with its margins, and keep the two frames that the next one needs."""
        if self.past is not None:
            padded[:, :, :2] = self.past
        self.past = None if last else padded[:, :, -2:].clone()  # a view would keep all of it
        return self.conv.conv(padded) if padded.shape[2] > 2 else None


class _Head(_Conv):
    """Apply PixelNorm, SiLU and a convolution in pieces."""

    def __call__(self, x: Tensor, last: bool) -> Tensor | None:
        if self.past is None and last:
            return self.conv.of_activated(x)
        return self._on(self.conv.activate(x, *self._margins(last)), last)


class _ResBlock(PieceLayer):
    """Apply a residual block in pieces. skip: frames of x whose branch is not computed yet."""

    def __init__(self, block: ResBlock) -> None:
        self.conv1, self.conv2 = _Head(block.conv1), _Head(block.conv2)
        self.skip: Tensor | None = None

    def __call__(self, x: Tensor, last: bool) -> Tensor | None:
        h = self.conv1(x, last)
        h = None if h is None else self.conv2(h, last)
        skip = x if self.skip is None else torch.cat([self.skip, x], dim=2)
        ready = 0 if h is None else h.shape[2]
        self.skip = None if last else skip[:, :, ready:].clone()
        return None if h is None else h.add_(skip[:, :, :ready])


class _Res(PieceLayer):
    def __init__(self, stage: ResStage) -> None:
        self.blocks = [_ResBlock(block) for block in stage.res_blocks]  # type: ignore[arg-type]

    def __call__(self, x: Tensor, last: bool) -> Tensor | None:
        out: Tensor | None = x
        for block in self.blocks:
            if out is None:
                return None
            out = block(out, last)
        return out


class _Up(PieceLayer):
    """Upsample in pieces; the frame that doubling time drops is dropped once."""

    def __init__(self, block: Upsample) -> None:
        self.block = block
        self.conv = _Conv(block.conv)
        self.growth = self.conv.growth
        self.begun = False

    def __call__(self, x: Tensor, last: bool) -> Tensor | None:
        h = self.conv(x, last)
        if h is None:
            return None
        out = depth_to_space(h, self.block.stride)
        if self.block.stride[0] == 2 and not self.begun:
            out = out[:, :, 1:]
        self.begun = True
        return out


class _Down(PieceLayer):
    """Downsample in pieces; the first frame is doubled once, a frame without a partner is kept."""

    def __init__(self, block: Downsample) -> None:
        self.block = block
        self.conv = _Conv(block.conv)
        self.odd: Tensor | None = None
        self.begun = False

    def __call__(self, x: Tensor, last: bool) -> Tensor | None:
        if last and not self.begun:
            return self.block(x)  # type: ignore[no-any-return]
        if self.block.stride[0] == 2:
            x = x if self.odd is None else torch.cat([self.odd, x], dim=2)
            x = x if self.begun else torch.cat([x[:, :, :1], x], dim=2)
            paired = x.shape[2] // 2 * 2
            self.odd = x[:, :, paired:].clone() if x.shape[2] > paired else None
            x = x[:, :, :paired]
        self.begun = True
        h = self.conv(x, last) if x.shape[2] else None
        return None if h is None else self.block.pack(h, x)
