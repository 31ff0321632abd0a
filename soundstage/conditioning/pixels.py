"""Pictures and clips as the video VAE takes them: fitted to the size, in [-1, 1].

Source: preprocessing of the LTX-2.3 pipelines, spec section 4. Scaling is bilinear without antialiasing,
as the model's conditioning pictures were scaled in training.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from soundstage.inputs import Crop


def fit(frames: NDArray[np.uint8], width: int, height: int, crop: Crop = "center") -> Tensor:
    """(F, H, W, 3) uint8 -> (1, 3, F, height, width) float32 in [-1, 1].

    crop: "center" fills the size and cuts what is over, "stretch" distorts, "pad" shows all on black.
    """
    pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float()
    fitted = _scaled(pixels, width, height, crop)
    return (fitted / 127.5 - 1).transpose(0, 1).unsqueeze(0)


def fit_mask(frames: NDArray[np.uint8], width: int, height: int, num_frames: int, crop: Crop) -> Tensor:
    """A mask picture or clip -> (num_frames, height, width) in [0, 1], its last frame repeated."""
    gray = torch.from_numpy(np.ascontiguousarray(frames)).float().mean(dim=-1)[:, None] / 255
    fitted = _scaled(gray, width, height, crop)[:, 0]
    missing = num_frames - len(fitted)
    if missing > 0:
        fitted = torch.cat([fitted, fitted[-1:].expand(missing, -1, -1)])
    return fitted[:num_frames]


def to_uint8(pixels: Tensor) -> NDArray[np.uint8]:
    """(1, 3, F, H, W) in about [-1, 1] -> (F, H, W, 3)."""
    scaled = pixels[0].float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
    array: NDArray[np.uint8] = scaled.permute(1, 2, 3, 0).contiguous().cpu().numpy()
    return array


def at_rate(count: int, fps: float | None, wanted_fps: float, limit: int) -> list[int]:
    """Indices of a clip's frames that are nearest to those of another rate, at most `limit` of them."""
    if fps is None or count <= 1 or math.isclose(fps, wanted_fps, rel_tol=1e-3):
        return list(range(min(count, limit)))
    total = int((count - 1) / fps * wanted_fps + 1e-6) + 1
    return [min(count - 1, round(i * fps / wanted_fps)) for i in range(min(total, limit))]


def strided(count: int, step: int) -> list[int]:
    """Return which of `count` frames a reference keeps: frame 0, then 1, 1 + step, 1 + 2 step, ...

    Source: spec of the LTX-2.3 pipelines, section 3.4.
    """
    return [0, *range(1, count, step)][:count]


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
