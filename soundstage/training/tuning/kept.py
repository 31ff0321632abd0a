"""Draw what of a sample is given, and make its streams, by the code that prepares a pass of inference.

A stream's tokens are those of the sample. What is given is kept by a mask, as a source's part is
(conditioning/masks.py), references stand beside the clip (conditioning/positions.py). Given tokens
are clean, stand at noise level 0 and count in no loss.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from soundstage.conditioning.masks import made_cells, made_frames
from soundstage.conditioning.positions import (
    audio_positions,
    guide_positions,
    identity_positions,
    reference_positions,
    video_positions,
)
from soundstage.conditioning.tokens import Added, Grid, Tokens, to_tokens
from soundstage.dataset.encoded import Sample
from soundstage.dataset.index import SampleInfo
from soundstage.model.audio_vae import patchify_audio
from soundstage.sampling.streams import Stream
from soundstage.training.tuning.config import AudioTraining, GivenPart, TrainConfig, VideoTraining
from soundstage.types import SPACE_SCALE, Exchange


@dataclass(frozen=True)
class DrawnConditions:
    """Say which conditions a sample has: those of the config that were drawn, at chance 1.

    reference_blend is then the share of the clip in its reference.
    """

    video: VideoTraining
    audio: AudioTraining


def draw_given(rng: np.random.Generator, config: TrainConfig) -> DrawnConditions:
    """Draw the conditions of one sample. References are not drawn here: a batch shares them."""
    video, audio = config.video, config.audio
    drawn_video = replace(
        video,
        first_frame=_drawn(rng, video.first_frame),
        prefix=_part(rng, video.prefix),
        suffix=_part(rng, video.suffix),
        crop=video.crop if video.crop is not None and _drawn(rng, video.crop.chance) else None,
        mask=_drawn(rng, video.mask),
        reference_blend=_share(rng, video.reference_blend),
    )
    drawn_audio = replace(
        audio,
        prefix=_part(rng, audio.prefix),
        suffix=_part(rng, audio.suffix),
        mask=_drawn(rng, audio.mask),
    )
    return DrawnConditions(drawn_video, drawn_audio)


def draw_references(rng: np.random.Generator, config: TrainConfig) -> DrawnConditions:
    """Draw whether a batch has references of either kind."""
    return DrawnConditions(
        replace(config.video, reference=_drawn(rng, config.video.reference)),
        replace(config.audio, reference=_drawn(rng, config.audio.reference)),
    )


def _drawn(rng: np.random.Generator, chance: float) -> float:
    return float(rng.random() < chance)


def _share(rng: np.random.Generator, chance: float) -> float:
    """Draw a share from 0 to 1 at a chance, else 0. Draws nothing for a chance of 0."""
    return float((rng.random() < chance) * rng.random()) if chance else 0.0


def _part(rng: np.random.Generator, part: GivenPart | None) -> GivenPart | None:
    return part if part is not None and _drawn(rng, part.chance) else None


# --- streams ----------------------------------------------------------------------------------------


def video_stream(
    sample: Sample, info: SampleInfo, given: VideoTraining, exchange: Exchange = "all"
) -> Stream | None:
    """Return the picture's stream, a batch of one; None where it is absent. exchange: see TrainConfig."""
    if given.stream == "absent" or sample.video is None:
        return None
    latents = sample.video.float()[None]
    grid: Grid = (latents.shape[2], latents.shape[3], latents.shape[4])
    tokens = Tokens.fresh(video_positions(*grid, info.fps), latents.shape[1], torch.float32)
    tokens.begin(to_tokens(latents))
    if given.stream == "given":
        return tokens.stream(frozen=True)
    tokens.keep(tokens.start, made_of_video(grid, given, sample.video_mask).reshape(1, -1, 1))
    if given.reference and sample.reference is not None:
        beside = sample.reference.float()[None]
        if given.reference_blend:
            beside = torch.lerp(beside, latents, given.reference_blend)
        _add_reference(tokens, beside, info, given, exchange)
    return tokens.stream()


def made_of_video(grid: Grid, given: VideoTraining, mask: Tensor | None = None) -> Tensor:
    """Return where the picture is made, (T, h, w): 1, and 0 where it is given. mask: the sample's own."""
    frames, height, width = grid
    made = torch.ones(grid)
    if given.first_frame:
        made = made * made_cells(grid, [(1, frames)])
    made = made * made_frames(frames, [_range(frames, given.prefix, given.suffix)])[:, None, None]
    if given.crop is not None:
        top, left, bottom, right = (side // SPACE_SCALE * SPACE_SCALE for side in given.crop.box)
        margins = (left, top, width * SPACE_SCALE - right, height * SPACE_SCALE - bottom)
        made = made * made_cells(grid, (), margins=margins)
    if given.mask and mask is not None:
        made = made * (1 - mask.float())
    return made


def audio_stream(sample: Sample, given: AudioTraining, exchange: Exchange = "all") -> Stream | None:
    """Return the sound's stream, a batch of one; None where it is absent. exchange: see TrainConfig."""
    if given.stream == "absent" or sample.audio is None:
        return None
    clean = patchify_audio(sample.audio.float()[None])
    count = clean.shape[1]
    tokens = Tokens.fresh(audio_positions(count), clean.shape[2], torch.float32)
    tokens.begin(clean)
    if given.stream == "given":
        return tokens.stream(frozen=True)
    made = made_frames(count, [_range(count, given.prefix, given.suffix)])
    if given.mask and sample.audio_mask is not None:
        made = made * (1 - sample.audio_mask.float())
    tokens.keep(tokens.start, made.reshape(1, -1, 1))
    if given.reference and sample.reference_audio is not None:
        beside = patchify_audio(sample.reference_audio.float()[None])
        length = beside.shape[1]
        before = given.reference_place == "before"
        positions = identity_positions(length) if before else audio_positions(length)
        tokens.add(Added(beside, 0.0, positions, is_reference=before, exchange=exchange))
    return tokens.stream()


def _add_reference(
    tokens: Tokens, latents: Tensor, info: SampleInfo, given: VideoTraining, exchange: Exchange
) -> None:
    grid: Grid = (latents.shape[2], latents.shape[3], latents.shape[4])
    if given.reference_place == "before":
        positions = guide_positions(*grid, info.fps, frame=-1, still=True)
    else:
        positions = reference_positions(
            *grid, info.fps, downscale=info.reference_downscale, temporal=info.reference_temporal
        )
    tokens.add(Added(to_tokens(latents), 0.0, positions, exchange=exchange))


def _range(count: int, prefix: GivenPart | None, suffix: GivenPart | None) -> tuple[int, int]:
    """Return the latents that are made, between a prefix and a suffix."""
    return (
        0 if prefix is None else min(prefix.latents, count),
        count if suffix is None else max(0, count - suffix.latents),
    )
