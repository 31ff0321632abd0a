"""Decode latents to the frames and samples of a clip, and put given pictures and sounds in their places.

A kept stretch of a source is shown in its own pixels, with a soft seam to what was made; a sound that was
given is heard in its own samples.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from soundstage.conditioning.masks import blend_weights, blended, seam_weights
from soundstage.conditioning.pixels import LARGEST_HALF, to_uint8
from soundstage.conditioning.seams import Seam
from soundstage.errors import MediaError
from soundstage.media.arrays import fit_audio
from soundstage.media.hdr import Hdr, shown
from soundstage.media.in_memory import File
from soundstage.media.light import CURVES
from soundstage.media.load import load_sound
from soundstage.model.mel import resample
from soundstage.planning.plan import PassPlan, Plan
from soundstage.rendering.color import ColorMatch
from soundstage.rendering.encoded_inputs import EncodedInputs
from soundstage.rendering.events import At, unseen
from soundstage.rendering.finite import checked
from soundstage.rendering.parts import ModelParts
from soundstage.rendering.prepare import video_made
from soundstage.types import OUTPUT_RATE_HZ, SPACE_SCALE, TIME_SCALE

MAX_BYTES_IN_MEMORY = 2**30  # of frames: 17 s of 960x544
MAX_LIGHT_IN_MEMORY = 2**24  # of light, which is written once and read again: 0.1 s of 960x544
PLAYABLE_HZ = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 88_200, 96_000)


@torch.no_grad()
def finished_frames(
    plan: Plan,
    parts: ModelParts,
    inputs: EncodedInputs,
    latents: Tensor,
    color: ColorMatch | None = None,
    *,
    at: At = unseen,
) -> Finished:
    """Return the frames of the plan's last pass, (F, H, W, 3).

    color: takes out a long take's drift. at: is told how many frames are decoded.
    """
    if plan.hdr is None:
        return Finished(_whole_frames(plan, parts, inputs, latents, _InBytes(color), at), None)
    light = _whole_frames(plan, parts, inputs, latents, _InLight(plan.hdr), at)
    frames = _room_for(light.shape, np.uint8, MAX_LIGHT_IN_MEMORY)
    for i, frame in enumerate(light):
        frames[i] = shown(frame, plan.hdr)
    return Finished(frames, light)


@dataclass(frozen=True)
class Finished:
    """The frames of a clip, (F, H, W, 3) in 8 bits. light: the same as light, where the plan has it."""

    frames: NDArray[np.uint8]
    light: NDArray[np.float16] | None


class _InBytes:
    """Makes pictures of 8 bits of decoded pixels. color: takes out a long take's drift."""

    kind = np.uint8

    def __init__(self, color: ColorMatch | None) -> None:
        self._color = color

    def __call__(self, pixels: Tensor) -> NDArray[np.uint8]:
        piece = to_uint8(pixels)
        return piece if self._color is None else self._color(piece)

    def own(self, inputs: EncodedInputs, step: PassPlan) -> NDArray[np.uint8]:
        return inputs.source_pixels(step)


class _InLight:
    """Makes light of decoded pixels, by the curve that the model makes its picture in."""

    kind = np.float16

    def __init__(self, hdr: Hdr) -> None:
        assert hdr.curve is not None
        self._decode = CURVES[hdr.curve].decode

    def __call__(self, pixels: Tensor) -> NDArray[np.float16]:
        codes = pixels[0].float().add(1).div(2).permute(1, 2, 3, 0).cpu().numpy()
        light = np.empty(codes.shape, np.float16)
        for i, frame in enumerate(codes):  # one by one: the curve takes several times a frame's memory
            light[i] = np.minimum(self._decode(frame), LARGEST_HALF)
        return light

    def own(self, inputs: EncodedInputs, step: PassPlan) -> NDArray[np.float16]:
        return inputs.source_light(step)


def _whole_frames(
    plan: Plan, parts: ModelParts, inputs: EncodedInputs, latents: Tensor, make: _InBytes | _InLight, at: At
) -> NDArray[Any]:
    """Return the frames as `make` has them: decoded, or given, or both with seams."""
    step, source = plan.passes[-1], plan.request.source
    keeps = source is not None and source.keep_pixels and step.source is not None
    if keeps and step.source is not None and step.source.video == "all":
        return _cut_back(make.own(inputs, step), plan)
    frames = _decoded_frames(parts, latents, make, at)
    made = video_made(step, inputs) if keeps else None
    if made is not None and step.source is not None:
        weights = blend_weights(made, step.source.video_seams, step.num_frames, step.source.margins)
        frames = blended(frames, _placed(make.own(inputs, step), frames, step), weights)
    return _cut_back(frames, plan)


def _cut_back(frames: NDArray[Any], plan: Plan) -> NDArray[Any]:
    """Return frames without those, and the pixels, that only filled up latents and cells."""
    width, height = plan.shown_size or (frames.shape[2], frames.shape[1])
    return frames[: plan.shown_frames : plan.thin, :height, :width]


def _decoded_frames(parts: ModelParts, latents: Tensor, make: _InBytes | _InLight, at: At) -> NDArray[Any]:
    """Decode latents (1, 128, T, h, w), piece by piece, into an array, which is on disk if it is large."""
    frames_count, height, width = (int(n) for n in latents.shape[2:])
    shape = (TIME_SCALE * (frames_count - 1) + 1, SPACE_SCALE * height, SPACE_SCALE * width, 3)
    light = isinstance(make, _InLight)
    frames = _room_for(shape, make.kind, MAX_LIGHT_IN_MEMORY if light else MAX_BYTES_IN_MEMORY)
    first = 0
    decode = parts.decode_precisely if light else parts.decode_pieces
    for pixels in decode(latents):
        checked(pixels, "the decoded picture", parts)
        piece = make(pixels)
        frames[first : first + len(piece)] = piece
        first += len(piece)
        at("", first, len(frames))
    return frames


def _room_for(
    shape: tuple[int, ...], kind: type[np.uint8] | type[np.float16], most_in_memory: int
) -> NDArray[Any]:
    """Return an array in memory, or one in a temporary file if it has more bytes than that.

    Raises MediaError where there is no room for it.
    """
    num_bytes = math.prod(shape) * np.dtype(kind).itemsize
    if num_bytes <= most_in_memory:
        return np.empty(shape, kind)
    try:
        with tempfile.TemporaryFile() as file:
            if hasattr(os, "posix_fallocate"):  # a disk that fills up later would end the process
                os.posix_fallocate(file.fileno(), 0, num_bytes)
            return np.memmap(file, kind, "r+" if hasattr(os, "posix_fallocate") else "w+", shape=shape)
    except OSError as error:
        raise MediaError(
            f"the frames need {num_bytes / 1e9:.3g} GB in the temporary folder {tempfile.gettempdir()}, and "
            f"it cannot hold them ({error.strerror}); make room, or name another by TMPDIR"
        ) from error


def _placed(pixels: NDArray[Any], frames: NDArray[Any], pass_: PassPlan) -> NDArray[Any]:
    """Return frames with the source's pixels in their place in time and in the picture."""
    assert pass_.source is not None
    left, top, right, bottom = pass_.source.margins
    whole = frames.copy()
    height, width = frames.shape[1:3]
    first = pass_.source.before
    whole[first : first + len(pixels), top : height - bottom, left : width - right] = pixels
    return whole


@torch.no_grad()
def finished_sound(plan: Plan, parts: ModelParts, latents: Tensor) -> tuple[NDArray[np.float32], int]:
    """Return the clip's sound, (2, n) float32, and its rate in Hz."""
    request, step = plan.request, plan.passes[-1]
    if plan.driven and request.audio is not None:
        return _given(request.audio.file, request.audio.start_s, 0.0, plan)
    source, use = request.source, step.source
    part = "none" if use is None else use.audio
    keeps = source is not None and source.keep_pixels and part in ("all", "part")
    if keeps and source is not None and use is not None:
        file = source.video if source.audio is None else source.audio
        assert file is not None
        samples, rate = _given(file, source.start_s, use.before / step.fps, plan)
        if part == "all":
            return samples, rate
        count = math.ceil(samples.shape[1] * OUTPUT_RATE_HZ / rate)
        made = _resampled(_decoded(parts, latents, count), OUTPUT_RATE_HZ, rate)
        return _spliced(made, samples, [seam.scaled(rate / OUTPUT_RATE_HZ) for seam in use.audio_seams]), rate
    return _decoded(parts, latents, round(plan.duration_s * OUTPUT_RATE_HZ)), OUTPUT_RATE_HZ


def _decoded(parts: ModelParts, latents: Tensor, num_samples: int) -> NDArray[np.float32]:
    """Decode latents to exactly num_samples samples, (2, n), at the output's rate."""
    decoded = parts.decode_audio(latents, num_samples)
    checked(decoded, "the decoded sound", parts)
    return fit_audio(decoded[0].float().cpu().numpy(), num_samples)


def _given(file: File, start_s: float, delay_s: float, plan: Plan) -> tuple[NDArray[np.float32], int]:
    """Return a file's own samples, after delay_s of silence, for the length of the clip, and their rate.

    Silence follows a sound that ends early; one that is kept to its own end may last longer.
    """
    length_s = plan.duration_s
    samples, rate = load_sound(file, start_s, None if plan.whole_sound else length_s)
    if rate not in PLAYABLE_HZ:
        samples, rate = _resampled(samples, rate, OUTPUT_RATE_HZ), OUTPUT_RATE_HZ
    delayed = np.pad(samples, ((0, 0), (round(delay_s * rate), 0)))
    count = round(length_s * rate)
    return fit_audio(delayed, max(count, delayed.shape[1]) if plan.whole_sound else count), rate


def _resampled(samples: NDArray[np.float32], rate_hz: int, wanted_hz: int) -> NDArray[np.float32]:
    moved: NDArray[np.float32] = resample(torch.from_numpy(samples), rate_hz, wanted_hz).numpy()
    return moved


def _spliced(
    made: NDArray[np.float32], own: NDArray[np.float32], seams: Sequence[Seam]
) -> NDArray[np.float32]:
    """Return own samples with the made stretches faded in; elsewhere every sample stays as it is."""
    share = seam_weights(seams, own.shape[1])
    mixed = own + share * (fit_audio(made, own.shape[1]) - own)
    return np.where(share == 0, own, mixed).astype(np.float32)
