"""Pictures, clips and sounds that are given as arrays in place of a file."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soundstage.errors import shown
from soundstage.media.arrays import LightFrames
from soundstage.media.pixels import rgb_pixels
from soundstage.types import OUTPUT_RATE_HZ

MAX_CHANNELS = 64
MAX_SAMPLE = 100.0  # 40 dB above full scale: no float recording, but whole numbers that were not divided
ROUNDING = 1e-3  # what pixels may lie beyond their range
SIGNED_BELOW = -0.05  # pixels from -1 to 1 reach below this; less may be the ringing of a filter


@dataclass(frozen=True, eq=False, repr=False)
class InMemory:
    """Pixels and samples that are not in a file; equal only to itself.

    frames: (F, H, W, 3) uint8 or None. waveform: (C, n) float32 in [-1, 1] or None. fps: None where the
    caller did not say, as with a bare array. light: the frames in high dynamic range, where they have it.
    """

    frames: NDArray[np.uint8] | None
    waveform: NDArray[np.float32] | None = None
    fps: float | None = None
    sample_rate_hz: int = OUTPUT_RATE_HZ
    light: LightFrames | None = None

    @property
    def sha256(self) -> str:
        """Return the hash of the values as they are now: the caller may have changed the array."""
        digest = hashlib.sha256()
        for array in (self.frames, self.waveform, self.light):
            if array is not None:
                digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def __str__(self) -> str:
        shapes = [f"{a.dtype} {a.shape}" for a in (self.frames, self.waveform) if a is not None]
        return ", ".join(shapes)

    def __repr__(self) -> str:
        return f"<{self}>"


File = str | InMemory  # what a media field holds after validation


def is_media(value: Any) -> bool:
    """Return whether a value is an array, a tensor, a PIL picture or a `Clip`."""
    return isinstance(value, InMemory) or _is_clip(value) or _is_pil(value) or _is_array(value)


def in_memory(value: Any) -> InMemory:
    """Return an array, a tensor, a PIL picture or a `Clip` as it is kept.

    Raises ValueError that says what would be right.
    """
    if isinstance(value, InMemory):
        return value
    if _is_clip(value):
        made = _clip(value)
    elif _is_pil(value):
        made = InMemory(_picture(value)[None])
    elif _is_array(value):
        made = _array(_on_host(value))
    else:
        raise ValueError(
            f"{shown(value)} is no media; pass a file's path, an array, a tensor, a PIL picture or a Clip"
        )
    for array in (made.frames, made.waveform):
        if array is not None and 0 in array.shape:
            raise ValueError(f"{made} holds nothing; pass at least one picture of one pixel, or one sample")
    return made


def _is_clip(value: Any) -> bool:
    return hasattr(value, "frames") and hasattr(value, "waveform")


def _is_pil(value: Any) -> bool:
    return hasattr(value, "convert") and hasattr(value, "getbands")


def _is_array(value: Any) -> bool:
    return hasattr(value, "__array__") and not isinstance(value, type)


def _on_host(value: Any) -> NDArray[Any]:
    """Return an array, or the values of a tensor of PyTorch or another library, as an array of numpy."""
    if isinstance(value, np.ndarray):
        return value
    try:
        if hasattr(value, "detach"):
            value = value.detach().cpu()
            value = value.float() if value.is_floating_point() else value  # numpy has no bfloat16
        return np.asarray(value)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"a {type(value).__name__} cannot be read as an array ({reason[:100]}); pass plain values"
        ) from error


def _array(value: NDArray[Any]) -> InMemory:
    if _is_sound(value):
        return InMemory(None, _samples(value))
    if value.ndim not in (3, 4) or not (value.dtype == np.uint8 or value.dtype.kind == "f"):
        raise _no_media(value)
    pixels = _channels_last(value)
    pixels = pixels if pixels.dtype == np.uint8 else _bytes(pixels)
    return InMemory(pixels[None] if pixels.ndim == 3 else pixels)


def _channels_last(value: NDArray[Any]) -> NDArray[Any]:
    """Return (H, W, 3) or (F, H, W, 3) for an array that has its three channels there or before (H, W)."""
    last, first = value.shape[-1] == 3, value.shape[-3] == 3
    if last and first:
        raise ValueError(
            f"an array {value.shape} may have its channels first or last; pass a picture with other sides"
        )
    if not last and not first:
        raise _no_media(value)
    return value if last else np.ascontiguousarray(np.moveaxis(value, -3, -1))


def _bytes(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Return pixels from 0 to 1, or from -1 to 1 where one lies below 0, as bytes."""
    low, high = float(pixels.min(initial=np.inf)), float(pixels.max(initial=-np.inf))
    if pixels.size and not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("the picture has values that are not numbers (NaN or infinity); pass others")
    signed = -1 - ROUNDING <= low < SIGNED_BELOW
    if pixels.size and (high > 1 + ROUNDING or (low < -ROUNDING and not signed)):
        raise ValueError(
            f"the picture's values go from {low:.6g} to {high:.6g}; pass uint8, or float from 0 to 1 or from "
            "-1 to 1"
        )
    least = -1 if signed else 0
    shares = (pixels.astype(np.float32) - least) / (1 - least)
    rounded: NDArray[np.uint8] = (np.clip(shares, 0, 1) * 255 + 0.5).astype(np.uint8)
    return rounded


def _no_media(value: NDArray[Any]) -> ValueError:
    return ValueError(
        f"an array of {value.dtype} {value.shape} is no picture, clip or sound; pass uint8 or float "
        "(H, W, 3) or (3, H, W) in RGB, with F before it for a clip, or float (channels, samples) at 48 kHz"
    )


def _is_picture(value: Any) -> bool:
    """Return whether a value is a picture (H, W, 3) or a clip (F, H, W, 3), in bytes."""
    shaped = isinstance(value, np.ndarray) and value.ndim in (3, 4) and value.shape[-1] == 3
    return bool(shaped and value.dtype == np.uint8)


def _is_sound(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.ndim in (1, 2)


def _clip(value: Any) -> InMemory:
    """Return the arrays of a `Clip`, or of an object with the same attributes."""
    frames, waveform, fps, rate = value.frames, value.waveform, value.fps, value.sample_rate_hz
    if frames is not None and not (_is_picture(frames) and frames.ndim == 4):
        raise ValueError(f"the clip's frames are {_told(frames)}; they should be uint8 (F, H, W, 3) in RGB")
    if waveform is not None and not _is_sound(waveform):
        raise ValueError(f"the clip's waveform is {_told(waveform)}; it should be float (channels, samples)")
    if frames is not None and not (isinstance(fps, Real) and 0 < float(fps) < math.inf):
        raise ValueError(f"the clip's fps is {shown(fps)}; give the frames a second, more than 0")
    if waveform is not None and not (isinstance(rate, Integral) and int(rate) > 0):
        raise ValueError(f"the clip's sample_rate_hz is {shown(rate)}; give a whole number above 0")
    samples = None if waveform is None else _samples(waveform)
    return InMemory(frames, samples, fps, rate, getattr(value, "linear", None))


def _told(value: Any) -> str:
    return f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"


def _samples(waveform: NDArray[Any]) -> NDArray[np.float32]:
    """Return samples as (C, n) float32. Raises ValueError for values that are no sound."""
    samples = np.atleast_2d(waveform)
    _check_samples(samples)
    return samples.astype(np.float32)


def _picture(value: Any) -> NDArray[np.uint8]:
    try:
        return rgb_pixels(value)
    except Exception as error:
        raise ValueError(f"this PIL picture cannot be decoded ({error}); is its file complete?") from error


def _check_samples(samples: NDArray[Any]) -> None:
    if len(samples) > MAX_CHANNELS:
        raise ValueError(
            f"the sound's array {samples.shape} would be {len(samples)} channels; pass (channels, samples), "
            f"at most {MAX_CHANNELS} channels: transpose one of (samples, channels)"
        )
    wrong = np.count_nonzero(~np.isfinite(samples))
    if wrong:
        raise ValueError(
            f"{wrong} of the sound's {samples.size} values are not numbers (NaN or infinity); pass others"
        )
    largest = float(np.abs(samples).max(initial=0))
    if largest > MAX_SAMPLE:
        raise ValueError(
            f"the sound's values reach {largest:.6g}; samples lie between -1 and 1, divide by full scale"
        )
