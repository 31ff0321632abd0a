"""From latents to the frames and samples of a clip, with what was given shown as it came.

A kept stretch of a source is shown in its own pixels, with a soft seam to what was made; a sound that was
given is heard in its own samples.
"""

from __future__ import annotations

import math
import tempfile
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from soundstage.causes import likely_cause
from soundstage.conditioning.masks import blend_weights, blended, made_frames
from soundstage.conditioning.pixels import to_uint8
from soundstage.finite import checked
from soundstage.inputs import File
from soundstage.materials import given_sound
from soundstage.media.write import fit_audio
from soundstage.staging import video_made
from soundstage.types import AUDIO_LATENTS_PER_S, OUTPUT_RATE_HZ, SPACE_SCALE, TIME_SCALE

if TYPE_CHECKING:
    from soundstage.long_take.color import ColorMatch
    from soundstage.materials import Materials
    from soundstage.parts import Parts
    from soundstage.plan import PassPlan, Plan

MAX_BYTES_IN_MEMORY = 2**30  # of frames: 17 s of 960x544
SEAM_S = 0.12  # of sound, on either side of a made stretch: three latents
PLAYABLE_HZ = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 88_200, 96_000)


@torch.no_grad()
def finished_frames(
    plan: Plan, parts: Parts, materials: Materials, latents: Tensor, color: ColorMatch | None = None
) -> NDArray[np.uint8]:
    """(F, H, W, 3) uint8 of the plan's last pass. color: takes out a long take's drift."""
    step, source = plan.passes[-1], plan.request.source
    keeps = source is not None and source.keep_pixels and step.source is not None
    if keeps and step.source is not None and step.source.video == "all":
        return materials.source_pixels(step)[:: plan.thin]
    frames = _decoded_frames(parts, latents, color)
    made = video_made(step, materials) if keeps else None
    if made is not None:
        weights = blend_weights(made, step.num_frames)
        frames = blended(frames, _placed(materials.source_pixels(step), frames, step), weights)
    return frames[:: plan.thin]


def _decoded_frames(parts: Parts, latents: Tensor, color: ColorMatch | None) -> NDArray[np.uint8]:
    """Frames of latents (1, 128, T, h, w), piece by piece into an array, on disk if it is large."""
    frames_count, height, width = (int(n) for n in latents.shape[2:])
    shape = (TIME_SCALE * (frames_count - 1) + 1, SPACE_SCALE * height, SPACE_SCALE * width, 3)
    frames = _room_for(shape)
    first = 0
    for pixels in parts.decode_stream(latents):
        checked(pixels, "the decoded picture", lambda: likely_cause(parts))
        piece = to_uint8(pixels)
        frames[first : first + len(piece)] = piece if color is None else color(piece)
        first += len(piece)
    return frames


def _room_for(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """An array in memory, or in a temporary file that goes with it where memory would be filled by it."""
    if math.prod(shape) <= MAX_BYTES_IN_MEMORY:
        return np.empty(shape, np.uint8)
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, np.uint8, "w+", shape=shape)


def _placed(pixels: NDArray[np.uint8], frames: NDArray[np.uint8], step: PassPlan) -> NDArray[np.uint8]:
    """The source's pixels in their place in time and room; elsewhere the made ones."""
    assert step.source is not None
    left, top, right, bottom = step.source.margins
    whole = frames.copy()
    height, width = frames.shape[1:3]
    first = step.source.before
    whole[first : first + len(pixels), top : height - bottom, left : width - right] = pixels
    return whole


@torch.no_grad()
def finished_sound(plan: Plan, parts: Parts, latents: Tensor) -> tuple[NDArray[np.float32], int]:
    """(2, n) float32 samples and their rate in Hz."""
    request, step = plan.request, plan.passes[-1]
    if plan.driven and request.audio is not None:
        return _given(request.audio.file, request.audio.start_s, 0.0, plan.duration_s)
    source, use = request.source, step.source
    part = "none" if use is None else use.audio
    keeps = source is not None and source.keep_pixels and part in ("all", "part")
    if keeps and source is not None and use is not None:
        file = source.video if source.audio is None else source.audio
        assert file is not None
        samples, rate = _given(file, source.start_s, use.before / step.fps, plan.duration_s)
        if part == "all":
            return samples, rate
        made = _decoded(parts, latents)
        own = _at_output_rate(samples, rate)
        return _spliced(fit_audio(made, own.shape[1]), own, use.audio_made, step.audio_tokens), OUTPUT_RATE_HZ
    return _decoded(parts, latents), OUTPUT_RATE_HZ


def _decoded(parts: Parts, latents: Tensor) -> NDArray[np.float32]:
    decoded = checked(parts.decode_audio(latents), "the decoded sound", lambda: likely_cause(parts))
    samples: NDArray[np.float32] = decoded[0].float().cpu().numpy()
    return samples


def _given(file: File, start_s: float, delay_s: float, length_s: float) -> tuple[NDArray[np.float32], int]:
    """A file's own samples, after delay_s of silence, for exactly length_s; silence where it ends early."""
    samples, rate = given_sound(file, start_s, length_s)
    if rate not in PLAYABLE_HZ:
        samples, rate = _at_output_rate(samples, rate), OUTPUT_RATE_HZ
    delayed = np.pad(samples, ((0, 0), (round(delay_s * rate), 0)))
    return fit_audio(delayed, round(length_s * rate)), rate


def _at_output_rate(samples: NDArray[np.float32], rate_hz: int) -> NDArray[np.float32]:
    from soundstage.model.mel import resample

    moved: NDArray[np.float32] = resample(torch.from_numpy(samples), rate_hz, OUTPUT_RATE_HZ).numpy()
    return moved


def _spliced(
    made: NDArray[np.float32], own: NDArray[np.float32], ranges: tuple[tuple[int, int], ...], count: int
) -> NDArray[np.float32]:
    """Own samples with the made stretches faded in; every sample farther than SEAM_S is the own one."""
    samples_per_latent = OUTPUT_RATE_HZ // AUDIO_LATENTS_PER_S
    inside = made_frames(count, ranges).repeat_interleave(samples_per_latent).numpy()
    inside = np.pad(inside, (0, max(0, own.shape[1] - len(inside))), mode="edge")[: own.shape[1]]
    seam = round(SEAM_S * OUTPUT_RATE_HZ)
    share = np.zeros(own.shape[1], np.float32)
    edges = np.flatnonzero(np.diff(np.concatenate([[0.0], inside, [0.0]])))
    time = np.arange(own.shape[1])
    for first, end in zip(edges[::2], edges[1::2], strict=True):
        distance = np.maximum(np.maximum(first - time, time - end + 1), 0)
        share = np.maximum(share, 1 - distance / seam).astype(np.float32)
    mixed = own + share * (made - own)
    return np.where(share == 0, own, mixed).astype(np.float32)
