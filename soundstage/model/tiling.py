"""The video VAE over tiles: less memory at a time, for a little more work.

A clip is cut along time, height and width into tiles that overlap; each is decoded (or encoded) as a clip of
its own, and they are blended with ramps that sum to 1. A tile's edge is not the clip's edge, so blending
hides a difference; with `exact` each tile also reads every cell that its result depends on, and the blend is
the whole to rounding, at a multiple of the work. `streaming` cuts time alone and costs nothing; tiles are
for frames whose width is too much by itself.

Source: docs/model/video-vae.md, "Reach" and "Tiles".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from soundstage.model.video_vae import VideoVae
from soundstage.types import SPACE_SCALE, TIME_SCALE, VideoShape

# How far a result looks, in latents: backward in time, forward in time, to each side. Held by the tests.
DECODER_REACH = (14, 14, 16)
ENCODER_REACH = (27, 0, 15)


@dataclass(frozen=True)
class Tiling:
    """Sizes of a tile and of its overlap with the next, in pixel frames and in pixels.

    Frames are multiples of 8 and sides of 32, two units at least; an overlap is smaller than its tile. The
    values here are the official pipelines'. exact: read around each tile what its result depends on.
    """

    frames: int = 80
    frames_overlap: int = 24
    side: int = 768
    side_overlap: int = 64
    exact: bool = False

    def __post_init__(self) -> None:
        for name, size, overlap, unit in (
            ("frames", self.frames, self.frames_overlap, TIME_SCALE),
            ("side", self.side, self.side_overlap, SPACE_SCALE),
        ):
            if size % unit or size < 2 * unit:
                raise ValueError(f"tiling {name} is {size}; give a multiple of {unit}, {2 * unit} or more")
            if overlap % unit or not 0 <= overlap < size:
                raise ValueError(
                    f"tiling {name}_overlap is {overlap}; give a multiple of {unit} below {size} (or 0)"
                )


@dataclass(frozen=True)
class Span:
    """A tile along one axis, in latents [start, stop), and the lengths of its blending ramps."""

    start: int
    stop: int
    left: int = 0
    right: int = 0


def spans(length: int, size: int, overlap: int, *, time: bool = False) -> list[Span]:
    """Cut an axis of `length` latents. time: a later tile starts one latent earlier.

    A tile's first latent decodes to one frame, not eight, so in time it is there for its neighbours only.
    """
    if length <= size:
        return [Span(0, length)]
    early = 1 if time else 0
    count = math.ceil((length - overlap) / (size - overlap))
    starts = [i * (size - overlap) for i in range(count)]
    first = Span(0, size, right=overlap)
    later = [
        Span(start - early, min(start + size, length), overlap + early, overlap if i < count - 1 else 0)
        for i, start in enumerate(starts)
        if i
    ]
    return [first, *later]


@dataclass(frozen=True)
class Tile:
    """One axis of a tile. read: what it takes of the source. crop: what of its result counts, and place:
    where that goes. weight: its share of each of those points, float32; a point's shares sum to 1."""

    read: slice
    crop: slice
    place: slice
    weight: Tensor


@dataclass(frozen=True)
class Scales:
    """Points per latent in source and result, and how far a result looks: before, after, to each side."""

    source: tuple[int, int]  # in time, in space
    result: tuple[int, int]
    reach: tuple[int, int, int]


DECODE = Scales((1, 1), (TIME_SCALE, SPACE_SCALE), DECODER_REACH)
ENCODE = Scales((TIME_SCALE, SPACE_SCALE), (1, 1), ENCODER_REACH)


def _axis(cut: list[Span], scales: Scales, *, time: bool, exact: bool) -> list[Tile]:
    source, result = (pair[0 if time else 1] for pair in (scales.source, scales.result))
    before, after, side = scales.reach if exact else (0, 0, 0)
    before, after = (before, after) if time else (side, side)
    length = cut[-1].stop
    places = [_points(span.start, span.stop, result, time) for span in cut]
    masks = [_mask(span, result, time) for span in cut]
    total = torch.zeros(places[-1].stop)
    for place, mask in zip(places, masks, strict=True):
        total[place] += mask
    tiles = []
    for span, place, mask in zip(cut, places, masks, strict=True):
        start, stop = max(0, span.start - before), min(length, span.stop + after)
        first = result * (span.start - start)
        crop = slice(first, first + len(mask))
        tiles.append(Tile(_points(start, stop, source, time), crop, place, mask / total[place]))
    return tiles


def _points(start: int, stop: int, scale: int, time: bool) -> slice:
    """Where latents [start, stop) are on a finer grid; in time the first stands alone, as in every clip."""
    return slice(scale * start, scale * (stop - 1) + 1 if time else scale * stop)


def _mask(span: Span, scale: int, time: bool) -> Tensor:
    """A tile's ramps over its points. In time the left one starts from zero, on the frame alone."""
    points = _points(span.start, span.stop, scale, time)
    mask = torch.ones(points.stop - points.start)
    right = scale * span.right
    if time and span.left:
        left = 1 + scale * (span.left - 1)
        mask[:left] = torch.arange(left) / left
    elif span.left:
        left = scale * span.left
        mask[:left] = (torch.arange(left) + 1) / (left + 1)
    if right:
        mask[-right:] *= (right - torch.arange(right)) / (right + 1)
    return mask


@torch.no_grad()
def decode_tiled(vae: VideoVae, latents: Tensor, tiling: Tiling) -> Iterator[Tensor]:
    """Normalised latents (B, 128, T, h, w) -> pixels (B, 3, n, 32h, 32w) in order, a stretch of time each.

    Frames are handed over when no later tile covers them, so two stretches are alive at most.
    """
    frames, height, width = latents.shape[2:]
    yield from _tiled(vae.decode, latents, (frames, height, width), tiling, DECODE)


@torch.no_grad()
def encode_tiled(vae: VideoVae, pixels: Tensor, tiling: Tiling) -> Tensor:
    """Pixels (B, 3, 8k+1, H, W) in [-1, 1] -> normalised latents (B, 128, k+1, H/32, W/32).

    Raises ValueError for sizes that do not fit the latent grid.
    """
    frames, height, width = pixels.shape[2:]
    try:
        shape = VideoShape(frames, height, width).latent
    except ValueError as error:
        raise ValueError(f"pixels of {frames}x{height}x{width} cannot be encoded: {error}") from error
    return torch.cat(list(_tiled(vae.encode, pixels, shape, tiling, ENCODE)), dim=2)


def _tiled(
    run: Callable[[Tensor], Tensor],
    source: Tensor,
    shape: tuple[int, int, int],
    tiling: Tiling,
    scales: Scales,
) -> Iterator[Tensor]:
    """Blend `run` of every tile, stretch by stretch. shape: (T, h, w) in latents."""
    long = spans(shape[0], tiling.frames // TIME_SCALE, tiling.frames_overlap // TIME_SCALE, time=True)
    sides = tiling.side // SPACE_SCALE, tiling.side_overlap // SPACE_SCALE
    rows, columns = (
        _axis(spans(length, *sides), scales, time=False, exact=tiling.exact) for length in shape[1:]
    )
    waiting: Tensor | None = None  # frames that the next stretch adds to, or all that are left
    begun = 0
    for tile in _axis(long, scales, time=True, exact=tiling.exact):
        made = _stretch(run, source, tile, rows, columns)
        if waiting is not None:
            done = tile.place.start - begun
            yield waiting[:, :, :done]
            made[:, :, : waiting.shape[2] - done] += waiting[:, :, done:]
        waiting, begun = made, tile.place.start
    assert waiting is not None
    yield waiting


def _stretch(
    run: Callable[[Tensor], Tensor], source: Tensor, time: Tile, rows: list[Tile], columns: list[Tile]
) -> Tensor:
    """All tiles of one stretch of time, blended in space and weighted in time, in the dtype of `run`."""
    out: Tensor | None = None
    for row, column in product(rows, columns):
        made = run(source[:, :, time.read, row.read, column.read])[:, :, time.crop, row.crop, column.crop]
        if out is None:
            out = made.new_zeros((*made.shape[:3], rows[-1].place.stop, columns[-1].place.stop))
        weight = time.weight.view(-1, 1, 1) * torch.outer(row.weight, column.weight)
        out[..., row.place, column.place] += (made * weight.to(made.device)).to(made.dtype)
    assert out is not None
    return out
