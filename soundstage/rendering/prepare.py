"""The streams of a pass: the plan's conditions and the encoded inputs, put together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

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
from soundstage.conditioning.tokens import Added, Tokens, from_tokens, to_tokens
from soundstage.model.audio_vae import patchify_audio, unpatchify_audio
from soundstage.planning.plan import Condition, PassPlan
from soundstage.rendering.encoded_inputs import Materials
from soundstage.sampling.streams import Stream
from soundstage.types import LATENT_CHANNELS, SPACE_SCALE

if TYPE_CHECKING:
    from soundstage.rendering.parts import Parts


@dataclass(frozen=True)
class Latents:
    """video: (1, 128, T, h, w), audio: (1, 8, T, 16); None for a modality that is not made."""

    video: Tensor | None = None
    audio: Tensor | None = None


def streams(
    parts: Parts, step: PassPlan, materials: Materials, before: Latents
) -> tuple[Stream | None, Stream | None]:
    """Both modalities of a pass. before: latents of the pass before, already upsampled."""
    video = None if step.video is None else _video(parts, step, materials, before.video)
    audio = None if step.audio is None else _audio(parts, step, materials, before.audio)
    return video, audio


def upsampled(parts: Parts, step: PassPlan, materials: Materials, before: Latents) -> Latents:
    """What a pass starts from: the latents before it, or the source, through its upsamplers."""
    video = before.video
    if step.source is not None and step.source.video == "start":
        video = materials.source_video(step)
    if video is None or step.start == "noise":
        return before
    with torch.no_grad():
        for role in step.upsample:
            video = parts.upsample(role, video)
    return replace(before, video=video)


def cropped(step: PassPlan, video: Tensor | None, audio: Tensor | None) -> Latents:
    """Tokens (1, N, 128) of a pass -> latents; what was added beside the clip is dropped."""
    return Latents(
        None if video is None else from_tokens(video, step.shape.latent),
        None if audio is None else unpatchify_audio(audio[:, : step.audio_tokens]),
    )


def video_made(step: PassPlan, materials: Materials) -> Tensor | None:
    """(T, h, w): how far each cell of a partly kept picture is made anew; None where nothing is kept."""
    use = step.source
    if use is None or use.video != "part":
        return None
    return made_cells(
        step.shape.latent, use.video_made, margins=use.margins, touched=materials.source_mask(step)
    )


def _video(parts: Parts, step: PassPlan, materials: Materials, start: Tensor | None) -> Stream:
    grid = step.shape.latent
    positions = video_positions(*grid, step.fps, device=parts.device)
    tokens = Tokens.fresh(positions, LATENT_CHANNELS, parts.dtype)
    if start is not None and step.start != "noise":
        tokens.begin(to_tokens(start))
    if "video" in step.frozen:
        given = start if step.source is None or step.source.video != "all" else materials.source_video(step)
        assert given is not None
        tokens.begin(to_tokens(given))
        return tokens.stream(frozen=True)
    made = video_made(step, materials)
    if made is not None:
        source = _on_grid(materials.source_video(step), step)
        tokens.keep(to_tokens(source), made.reshape(1, -1, 1))
    for condition in step.conditions:
        _condition(tokens, condition, step, materials)
    return tokens.stream()


def _on_grid(source: Tensor, step: PassPlan) -> Tensor:
    """The source's latents in their place on the pass's grid, zeros around them."""
    assert step.source is not None
    frames, height, width = step.shape.latent
    left, top, _, _ = (side // SPACE_SCALE for side in step.source.margins)
    first = step.source.before // 8
    grid = source.new_zeros(1, source.shape[1], frames, height, width)
    grid[
        :, :, first : first + source.shape[2], top : top + source.shape[3], left : left + source.shape[4]
    ] = source[:, :, : frames - first]
    return grid


def _condition(tokens: Tokens, condition: Condition, step: PassPlan, materials: Materials) -> None:
    """Put one guide in place, or add one guide or reference beside the clip."""
    latents = materials.condition(condition, step)
    grid = (latents.shape[2], latents.shape[3], latents.shape[4])
    device = tokens.positions.device
    if condition.kind == "replace":
        _, height, width = step.shape.latent
        tokens.replace(to_tokens(latents), condition.latent * height * width, condition.strength)
        return
    attention: Tensor | float = condition.attention
    if condition.kind == "reference":
        attention = materials.reference_attention(condition, step)
        positions = reference_positions(
            *grid, step.fps, downscale=condition.downscale, temporal=condition.temporal, device=device
        )
    else:
        still = condition.num_frames == 1
        positions = guide_positions(*grid, step.fps, frame=condition.frame, still=still, device=device)
    tokens.add(Added(to_tokens(latents), 1 - condition.strength, positions, attention))


def _audio(parts: Parts, step: PassPlan, materials: Materials, start: Tensor | None) -> Stream:
    positions = audio_positions(step.audio_tokens, device=parts.device)
    tokens = Tokens.fresh(positions, LATENT_CHANNELS, parts.dtype)
    given = materials.sound(step)
    frozen = "audio" in step.frozen
    if frozen:
        kept = start if given is None else given
        assert kept is not None
        tokens.begin(patchify_audio(kept))
    elif step.sigmas[0] < 1:
        tokens.begin(patchify_audio(_audio_start(step, materials, start, given)))
    if not frozen and given is not None and step.source is not None and step.source.audio == "part":
        made = made_frames(step.audio_tokens, step.source.audio_made)
        tokens.keep(patchify_audio(given), made.reshape(1, -1, 1))
    _identity(tokens, step, materials, start)
    return tokens.stream(frozen=frozen)


def _audio_start(step: PassPlan, materials: Materials, start: Tensor | None, given: Tensor | None) -> Tensor:
    """What the sound of a pass that does not begin at pure noise is mixed from."""
    if given is not None and step.source is not None and step.source.audio == "start":
        return given
    return materials.silence(step) if start is None else start


def _identity(tokens: Tokens, step: PassPlan, materials: Materials, before: Tensor | None) -> None:
    """Add the voice to speak with, at negative time."""
    voice = before if step.identity == "previous" else materials.identity(step)
    if step.identity == "none" or voice is None:
        return
    positions = identity_positions(voice.shape[2], device=tokens.positions.device)
    tokens.add(Added(patchify_audio(voice), 0.0, positions, is_reference=True))
