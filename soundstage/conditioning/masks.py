"""The latents that a mask in pixels or a range of time touches, and the blending of kept and made pixels.

Latent frame 0 holds pixel frame 0, latent frame k the frames 8k - 7 to 8k. A cell is 32 pixels on a side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from soundstage.conditioning.seams import SEAM_FRAMES, Seam
from soundstage.conditioning.tokens import Grid
from soundstage.types import SPACE_SCALE, TIME_SCALE

Kind = TypeVar("Kind", np.uint8, np.float16)


def made_frames(count: int, ranges: Sequence[tuple[int, int]]) -> Tensor:
    """Return (count,) float32, 1 within any [first, end)."""
    made = torch.zeros(count)
    for first, end in ranges:
        made[first:end] = 1
    return made


def made_cells(
    grid: Grid,
    ranges: Sequence[tuple[int, int]],
    *,
    margins: tuple[int, int, int, int] = (0, 0, 0, 0),
    touched: Tensor | None = None,
) -> Tensor:
    """Return (T, h, w) float32 in [0, 1]: 1 where a cell is made anew, 0 where it is kept.

    Made are, within the ranges of latent frames, the cells `touched` (T, h, w) by a mask, or all; and, at all
    times, the cells in the margins (left, top, right, bottom, in pixels).
    """
    frames, height, width = grid
    made = made_frames(frames, ranges)[:, None, None].expand(grid)
    if touched is not None:
        made = made * touched
    left, top, right, bottom = (side // SPACE_SCALE for side in margins)
    inside = torch.zeros(grid)
    inside[:, top : height - bottom, left : width - right] = 1
    return torch.maximum(made, 1 - inside)


def cells_touched(pixels: Tensor) -> Tensor:
    """Return the largest value of a mask (F, H, W) in [0, 1] in each latent's box of pixels, (T, h, w)."""
    space = F.max_pool2d(pixels[:, None], SPACE_SCALE)[:, 0]
    groups = torch.unflatten(space[1:], 0, (-1, TIME_SCALE)).amax(dim=1) if len(space) > 1 else space[:0]
    return torch.cat([space[:1], groups])


def attention_cells(pixels: Tensor, height: int, width: int) -> Tensor:
    """Return a mask's (F, H, W) mean over each latent's box of frames and pixels, (T * height * width,)."""
    space = F.interpolate(pixels[:, None], size=(height, width), mode="area")[:, 0]
    groups = torch.unflatten(space[1:], 0, (-1, TIME_SCALE)).mean(dim=1) if len(space) > 1 else space[:0]
    return torch.cat([space[:1], groups]).flatten()


def seam_weights(seams: Sequence[Seam], total: int) -> NDArray[np.float32]:
    """Return the share of what is made in each of `total` frames or samples, (total,) in [0, 1]."""
    weights = np.zeros(total, np.float32)
    for seam in seams:
        rise = np.arange(1, seam.first - seam.start + 1) / (seam.first - seam.start + 1)
        fall = np.arange(seam.stop - seam.end, 0, -1) / (seam.stop - seam.end + 1)
        shares = np.concatenate([rise, np.ones(max(0, seam.end - seam.first)), fall])[: total - seam.start]
        stretch = slice(seam.start, seam.start + len(shares))
        weights[stretch] = np.maximum(weights[stretch], shares)
    return weights


def blend_weights(
    made: Tensor, seams: Sequence[Seam], num_frames: int, margins: tuple[int, int, int, int] = (0, 0, 0, 0)
) -> Tensor:
    """Return the share of the made picture in each cell and frame, (F, h, w), from made cells (T, h, w).

    In time it follows the seams, and falls over SEAM_FRAMES where a cell is made in one latent and kept in
    the next. In space it includes the cells around it, so that made pixels are never mixed with old ones.
    The margins (left, top, right, bottom, in pixels) are made at all times.
    Source of the blending: docs/model/conditioning.md, "Masks and time".
    """
    held = torch.cat([made[:1], made[1:].repeat_interleave(TIME_SCALE, dim=0)])[:num_frames]
    faded = held.clone()
    for distance in range(1, min(SEAM_FRAMES, num_frames - 1) + 1):
        share = 1 - distance / (SEAM_FRAMES + 1)
        faded[distance:] = torch.maximum(faded[distance:], share * held[:-distance])
        faded[:-distance] = torch.maximum(faded[:-distance], share * held[distance:])
    in_time = torch.from_numpy(seam_weights(seams, num_frames))[:, None, None]
    around = made_cells((num_frames, *made.shape[1:]), (), margins=margins)
    weights = torch.maximum(torch.minimum(faded, in_time), around)
    return F.max_pool2d(weights[:, None], 3, stride=1, padding=1)[:, 0]


def blended(made: NDArray[Kind], kept: NDArray[Kind], weights: Tensor) -> NDArray[Kind]:
    """Blend frames (F, H, W, 3): the kept ones, bit for bit, where weights (F, h, w) are 0.

    They are of 8 bits, or light.
    """
    height, width = made.shape[1:3]
    shown = kept.copy()
    for i, weight in enumerate(weights):
        if not bool((weight > 0).any()):
            continue
        share = F.interpolate(weight[None, None], size=(height, width), mode="bilinear", align_corners=False)
        w = share[0, 0, :, :, None].numpy()
        mixed = w * made[i] + (1 - w) * kept[i]
        shown[i] = (np.rint(mixed) if made.dtype == np.uint8 else mixed).astype(made.dtype)
    return shown
