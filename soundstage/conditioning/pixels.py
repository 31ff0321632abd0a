"""Pictures and clips as the video VAE takes them: fitted to the size, in [-1, 1].

Source: preprocessing of the LTX-2.3 pipelines, spec section 4. Scaling is bilinear without antialiasing,
as the model's conditioning pictures were scaled in training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from soundstage.inputs import Crop


def fit(frames: Iterable[NDArray[np.uint8]], width: int, height: int, crop: Crop = "center") -> Tensor:
    """Return frames (H, W, 3) uint8 as (1, 3, F, height, width) float32 in [-1, 1].

    Each is scaled as it comes, so that only one of them is held at its own size. crop: "center" fills the
    size and cuts what is over, "stretch" distorts, "pad" shows all on black.
    """
    fitted = _each(frames, lambda frame: _scaled(frame.permute(0, 3, 1, 2).float(), width, height, crop))
    return fitted.div_(127.5).sub_(1).transpose(0, 1).unsqueeze(0)


def fit_mask(
    frames: Iterable[NDArray[np.uint8]], width: int, height: int, num_frames: int, crop: Crop
) -> Tensor:
    """Return a mask picture or clip as (num_frames, height, width) in [0, 1], its last frame repeated."""

    def gray(frame: Tensor) -> Tensor:
        return _scaled(frame.float().mean(dim=-1)[:, None] / 255, width, height, crop)[:, 0]

    fitted = _each(frames, gray)
    missing = num_frames - len(fitted)
    if missing > 0:
        fitted = torch.cat([fitted, fitted[-1:].expand(missing, -1, -1)])
    return fitted[:num_frames]


def to_uint8(pixels: Tensor) -> NDArray[np.uint8]:
    """(1, 3, F, H, W) in about [-1, 1] -> (F, H, W, 3)."""
    scaled = pixels[0].float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
    array: NDArray[np.uint8] = scaled.permute(1, 2, 3, 0).contiguous().cpu().numpy()
    return array


def strided(count: int, step: int) -> list[int]:
    """Return which of `count` frames a reference keeps: frame 0, then 1, 1 + step, 1 + 2 step, ...

    Source: spec of the LTX-2.3 pipelines, section 3.4.
    """
    return [0, *range(1, count, step)][:count]


def _each(frames: Iterable[NDArray[np.uint8]], prepare: Callable[[Tensor], Tensor]) -> Tensor:
    """Return what `prepare` makes of each frame (1, H, W, 3), joined; repeated ones are done once.

    The results go into one growing block: small tensors left among large ones that come and go would keep
    their memory from being used again (1.4 GB for 65 frames of 1080p).
    """
    done = torch.empty(0)
    count = 0
    before: NDArray[np.uint8] | None = None
    for frame in frames:
        if frame is not before:
            before, small = frame, prepare(torch.from_numpy(np.require(frame, requirements=["C", "W"]))[None])
        if count == 0:
            done = small.new_empty((8, *small.shape[1:]))
        elif count == len(done):
            done = torch.cat([done, torch.empty_like(done)])
        done[count] = small[0]
        count += 1
    return done[:count]


def _scaled(pixels: Tensor, width: int, height: int, crop: Crop) -> Tensor:
    """(F, C, H, W) -> (F, C, height, width)."""
    own_height, own_width = pixels.shape[2:]
    ratios = (height / own_height, width / own_width)
    if crop == "stretch":
        return _resized(pixels, height, width)
    scale = max(ratios) if crop == "center" else min(ratios)
    rounded = math.ceil if crop == "center" else math.floor
    scaled_height = rounded(round(own_height * scale, 6))
    scaled_width = rounded(round(own_width * scale, 6))
    scaled = _resized(pixels, max(1, scaled_height), max(1, scaled_width))
    top, left = (scaled.shape[2] - height) // 2, (scaled.shape[3] - width) // 2
    if crop == "center":
        return scaled[:, :, top : top + height, left : left + width]
    bottom, right = height - scaled.shape[2] + top, width - scaled.shape[3] + left
    return F.pad(scaled, (-left, right, -top, bottom))


def _resized(pixels: Tensor, height: int, width: int) -> Tensor:
    if pixels.shape[2:] == (height, width):
        return pixels
    return F.interpolate(pixels, size=(height, width), mode="bilinear", align_corners=False)
