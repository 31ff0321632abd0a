"""Pictures and clips as the video VAE takes them: fitted to the size, in [-1, 1].

Source: docs/model/conditioning.md, "Preparing pictures and clips". Scaling is bilinear without antialiasing,
as the model's conditioning pictures were scaled in training.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from soundstage.types import Crop

Kind = TypeVar("Kind", np.uint8, np.float32)
LARGEST_HALF = 65504.0  # of 16-bit floating point
LARGE_PIXELS = 2**24  # 16.8 megapixels, twice a frame of 2160p


def fit(
    frames: Iterable[NDArray[np.uint8] | NDArray[np.float32]], width: int, height: int, crop: Crop = "center"
) -> Tensor:
    """Return frames (H, W, 3) in 0 to 255 as (1, 3, F, height, width) float32 in [-1, 1].

    Each is scaled as it comes, so that only one of them is held at its own size. crop: "center" fills the
    size and cuts what is over, "stretch" distorts, "pad" shows all on black.
    """
    fitted = _each(frames, lambda frame: _scaled(frame, width, height, crop))
    return fitted.div_(127.5).sub_(1).permute(3, 0, 1, 2).unsqueeze(0).contiguous()


def fit_light(
    frames: Iterable[NDArray[np.float32]], width: int, height: int, crop: Crop
) -> NDArray[np.float16]:
    """Return frames of light (H, W, 3) as (F, height, width, 3), fitted as `fit` does."""
    light: NDArray[np.float16] = (
        _each(frames, lambda frame: _scaled(frame, width, height, crop))
        .clamp_(max=LARGEST_HALF)
        .half()
        .numpy()
    )
    return light


def fit_mask(
    frames: Iterable[NDArray[np.uint8]], width: int, height: int, num_frames: int, crop: Crop
) -> Tensor:
    """Return a mask picture or clip as (num_frames, height, width) in [0, 1], its last frame repeated."""

    def gray(frame: Tensor) -> Tensor:
        return _scaled(frame.float().mean(dim=-1, keepdim=True) / 255, width, height, crop)[..., 0]

    fitted = _each(frames, gray)
    missing = num_frames - len(fitted)
    if missing > 0:
        fitted = torch.cat([fitted, fitted[-1:].expand(missing, -1, -1)])
    return fitted[:num_frames]


def to_uint8(pixels: Tensor) -> NDArray[np.uint8]:
    """Return pixels (1, 3, F, H, W) in about [-1, 1] as uint8 frames (F, H, W, 3)."""
    scaled = pixels[0].float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
    array: NDArray[np.uint8] = scaled.permute(1, 2, 3, 0).contiguous().cpu().numpy()
    return array


def drawn_out(frame: NDArray[Kind], width: int, height: int) -> NDArray[Kind]:
    """Return (height, width, 3): a frame with its last column and row repeated to fill up cells."""
    missing = ((0, max(0, height - frame.shape[0])), (0, max(0, width - frame.shape[1])), (0, 0))
    return np.pad(frame, missing, mode="edge")


def mirrored(frame: NDArray[Kind], width: int, height: int) -> NDArray[Kind]:
    """Return (height, width, 3): a frame mirrored at its right and lower edge to fill up cells."""
    missing = ((0, max(0, height - frame.shape[0])), (0, max(0, width - frame.shape[1])), (0, 0))
    return np.pad(frame, missing, mode="reflect")


def strided(count: int, step: int) -> list[int]:
    """Return the numbers of the frames of `count` that a reference keeps: 0, 1, 1 + step, 1 + 2 step, ...

    Source: docs/model/conditioning.md, "References".
    """
    return [0, *range(1, count, step)][:count]


def chosen(frames: Iterator[NDArray[np.uint8]], numbers: list[int]) -> Iterator[NDArray[np.uint8]]:
    """Yield the frames of these rising numbers; no more than needed are taken."""
    for frame, before in zip(numbers, [-1, *numbers], strict=False):
        yield next(itertools.islice(frames, frame - before - 1, None))


def _each(
    frames: Iterable[NDArray[np.uint8] | NDArray[np.float32]], prepare: Callable[[Tensor], Tensor]
) -> Tensor:
    """Return the results of `prepare` for each frame (1, H, W, 3), joined; repeated frames are done once.

    The results go into one growing block: small tensors left among large ones that come and go would keep
    their memory from being used again (1.4 GB for 65 frames of 1080p).
    """
    done = torch.empty(0)
    count = 0
    before: NDArray[Any] | None = None
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
    """Scale pixels (F, H, W, C) to (F, height, width, C) float32."""
    own_height, own_width = pixels.shape[1:3]
    ratios = (height / own_height, width / own_width)
    if crop == "stretch":
        return _part(pixels, (height, width), 0, 0, height, width)
    scale = max(ratios) if crop == "center" else min(ratios)
    rounded = math.ceil if crop == "center" else math.floor
    scaled_height = max(1, rounded(round(own_height * scale, 6)))
    scaled_width = max(1, rounded(round(own_width * scale, 6)))
    top, left = (scaled_height - height) // 2, (scaled_width - width) // 2
    if crop == "center":
        return _part(pixels, (scaled_height, scaled_width), top, left, height, width)
    shown = _part(pixels, (scaled_height, scaled_width), 0, 0, scaled_height, scaled_width)
    bottom, right = height - scaled_height + top, width - scaled_width + left
    return F.pad(shown, (0, 0, -left, right, -top, bottom))


def _part(pixels: Tensor, size: tuple[int, int], top: int, left: int, height: int, width: int) -> Tensor:
    """Return a part of the pixels (F, H, W, C) scaled to `size`, (F, height, width, C) float32."""
    rows, columns = slice(top, top + height), slice(left, left + width)
    if pixels.shape[1:3] == size:
        return pixels[:, rows, columns].float()
    if max(math.prod(size), math.prod(pixels.shape[1:3])) > LARGE_PIXELS:
        down = _places(pixels.shape[1], size[0], rows)
        return _bilinear(pixels, down, _places(pixels.shape[2], size[1], columns))
    whole = F.interpolate(pixels.permute(0, 3, 1, 2).float(), size, mode="bilinear", align_corners=False)
    return whole[:, :, rows, columns].permute(0, 2, 3, 1)


def _bilinear(pixels: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return (F, H, W, C) at these places as float32: what F.interpolate gives there, to rounding.

    Slower for ordinary frames, but neither the pixels as floats nor the parts that are cut away are held. A
    picture of 2x60000, scaled for a film of 192x128, would take 13 GB.
    """
    (above, below, down), (before, after, along) = _neighbours(rows), _neighbours(columns)

    def line(numbers: Tensor) -> Tensor:
        whole = pixels.index_select(1, numbers)
        left, right = (whole.index_select(2, side).float() for side in (before, after))
        return torch.lerp(left, right, along[:, None])

    return torch.lerp(line(above), line(below), down[:, None, None])


def _places(own: int, length: int, part: slice) -> Tensor:
    """Return where a part of a side scaled to `length` points lies in its own `own` points, as float64."""
    points = torch.arange(part.start, part.stop, dtype=torch.float64)
    return ((points + 0.5) * (own / length) - 0.5).clamp(0, own - 1)


def _neighbours(places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the points before and after each place, and the share of the one after."""
    before = places.long()
    return before, places.ceil().long(), (places - before).float()
