"""Which latents a mask in pixels or a range of time touches, and how kept pixels meet made ones.

Latent frame 0 holds pixel frame 0, latent frame k the frames 8k - 7 to 8k. A cell is 32 pixels on a side.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from soundstage.conditioning.tokens import Grid
from soundstage.types import SPACE_SCALE, TIME_SCALE

# Latents over which a seam in time is blended. The published nodes take 3; a soft seam of 8 frames shows no
# jump either, and leaves more of a short clip in its own pixels.
SLOPE_LATENTS = 1


def made_frames(count: int, ranges: Sequence[tuple[int, int]]) -> Tensor:
    """(count,) float32, 1 within any [first, end)."""
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
    """(T, h, w) float32 in [0, 1]: 1 where a cell is made anew, 0 where it is kept.

    Within the ranges of latent frames, the cells `touched` (T, h, w) by a mask, or all of them; and, at all
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
    """A mask (F, H, W) in [0, 1] -> (T, h, w): the largest value in each latent's box of pixels."""
    space = F.max_pool2d(pixels[:, None], SPACE_SCALE)[:, 0]
    groups = torch.unflatten(space[1:], 0, (-1, TIME_SCALE)).amax(dim=1) if len(space) > 1 else space[:0]
    return torch.cat([space[:1], groups])


def attention_cells(pixels: Tensor, height: int, width: int) -> Tensor:
    """A mask (F, H, W) -> (T * height * width,): its mean over each latent's box of frames and pixels."""
    space = F.interpolate(pixels[:, None], size=(height, width), mode="area")[:, 0]
    groups = torch.unflatten(space[1:], 0, (-1, TIME_SCALE)).mean(dim=1) if len(space) > 1 else space[:0]
    return torch.cat([space[:1], groups]).flatten()


def blend_weights(made: Tensor, num_frames: int) -> Tensor:
    """(T, h, w) of made cells in [0, 1] -> (F, h, w): the share of the made picture in each cell and frame.

    In time it falls over a latent on either side of what is made, on a line between the latents' last
    frames. In space the cells around it are taken along, so that made pixels are never mixed with old ones.
    Source: blend weights, spec of the LTX-2.3 pipelines, section 3.6.
    """
    cells = made.flatten(1)
    ramp = cells.clone()
    for k in range(1, SLOPE_LATENTS + 1):
        share = 1 - k / (SLOPE_LATENTS + 1)
        ramp[k:] = torch.maximum(ramp[k:], share * cells[:-k])
        ramp[:-k] = torch.maximum(ramp[:-k], share * cells[k:])
    line = F.interpolate(ramp.T[None], size=num_frames, mode="linear", align_corners=True)[0].T
    held = torch.cat([cells[:1], cells[1:].repeat_interleave(TIME_SCALE, dim=0)])
    frames = torch.unflatten(torch.maximum(line, held), 1, made.shape[1:])
    return F.max_pool2d(frames[:, None], 3, stride=1, padding=1)[:, 0]


def blended(made: NDArray[np.uint8], kept: NDArray[np.uint8], weights: Tensor) -> NDArray[np.uint8]:
    """Frames (F, H, W, 3) with the kept ones shown where weights (F, h, w) are 0, bit for bit."""
    height, width = made.shape[1:3]
    shown = kept.copy()
    for i, weight in enumerate(weights):
        if not bool((weight > 0).any()):
            continue
        share = F.interpolate(weight[None, None], size=(height, width), mode="bilinear", align_corners=False)
        w = share[0, 0, :, :, None].numpy()
        shown[i] = np.rint(w * made[i] + (1 - w) * kept[i]).astype(np.uint8)
    return shown
