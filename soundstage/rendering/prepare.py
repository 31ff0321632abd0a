"""Prepare the streams of a pass from the plan's conditions and the encoded inputs."""

from __future__ import annotations

from dataclasses import dataclass, replace

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
from soundstage.rendering.encoded_inputs import EncodedInputs
from soundstage.rendering.parts import ModelParts
from soundstage.sampling.streams import Stream
from soundstage.types import LATENT_CHANNELS, SPACE_SCALE, Exchange


@dataclass(frozen=True)
class Latents:
    """The latents of a clip. video: (1, 128, T, h, w), audio: (1, 8, T, 16); None where not made."""

    video: Tensor | None = None
    audio: Tensor | None = None

    def placed(self, device: torch.device, dtype: torch.dtype) -> Latents:
        """Return them on a device, in a dtype."""
        both = [None if x is None else x.to(device, dtype) for x in (self.video, self.audio)]
        return Latents(*both)

    def named(self, name: str) -> dict[str, Tensor]:
        """Return those that are made as "<name>.video" and "<name>.audio"."""
        found = {f"{name}.video": self.video, f"{name}.audio": self.audio}
        return {key: latents for key, latents in found.items() if latents is not None}


def streams(
    parts: ModelParts, pass_: PassPlan, inputs: EncodedInputs, before: Latents
) -> tuple[Stream | None, Stream | None]:
    """Return the video and audio streams of a pass. before: the pass before, already upsampled."""
    video = None if pass_.video is None else _video(parts, pass_, inputs, before.video)
    audio = None if pass_.audio is None else _audio(parts, pass_, inputs, before.audio)
    return video, audio


def upsampled(parts: ModelParts, pass_: PassPlan, inputs: EncodedInputs, before: Latents) -> Latents:
    """Return what a pass starts from: the latents before it, or the source, through its upsamplers."""
    video = before.video
    if pass_.source is not None and pass_.source.video == "start":
        video = inputs.source_video(pass_)
    if video is None or pass_.start == "noise":
        return before
    with torch.no_grad():
        for role in pass_.upsample:
            video = parts.upsample(role, video)
    return replace(before, video=video)


def cropped(pass_: PassPlan, video: Tensor | None, audio: Tensor | None) -> Latents:
    """Turn tokens of a pass, (1, N, 128), into latents without what was added beside the clip."""
    return Latents(
        None if video is None else from_tokens(video, pass_.shape.latent),
        None if audio is None else unpatchify_audio(audio[:, : pass_.audio_tokens]),
    )


def video_made(pass_: PassPlan, inputs: EncodedInputs) -> Tensor | None:
    """Return how far each cell of a partly kept picture is made anew, (T, h, w); None if none is kept."""
    use = pass_.source
    if use is None or use.video != "part":
        return None
    return made_cells(
        pass_.shape.latent, use.video_made, margins=use.margins, touched=inputs.source_mask(pass_)
    )


def _video(parts: ModelParts, pass_: PassPlan, inputs: EncodedInputs, start: Tensor | None) -> Stream:
    grid = pass_.shape.latent
    positions = video_positions(*grid, pass_.fps, device=parts.device)
    tokens = Tokens.fresh(positions, LATENT_CHANNELS, parts.dtype)
    if start is not None and pass_.start != "noise":
        tokens.begin(to_tokens(start))
    if "video" in pass_.frozen:
        given = start if pass_.source is None or pass_.source.video != "all" else inputs.source_video(pass_)
        assert given is not None
        tokens.begin(to_tokens(given))
        return tokens.stream(frozen=True)
    made = video_made(pass_, inputs)
    if made is not None:
        source = _on_grid(inputs.source_video(pass_), pass_)
        tokens.keep(to_tokens(source), made.reshape(1, -1, 1))
    for condition in pass_.conditions:
        _condition(tokens, condition, pass_, inputs)
    return tokens.stream()


def _on_grid(source: Tensor, pass_: PassPlan) -> Tensor:
    """Return the source's latents in their place on the pass's grid, with zeros around them."""
    assert pass_.source is not None
    frames, height, width = pass_.shape.latent
    left, top, _, _ = (side // SPACE_SCALE for side in pass_.source.margins)
    first = pass_.source.before // 8
    grid = source.new_zeros(1, source.shape[1], frames, height, width)
    grid[
        :, :, first : first + source.shape[2], top : top + source.shape[3], left : left + source.shape[4]
    ] = source[:, :, : frames - first]
    return grid


def _condition(tokens: Tokens, condition: Condition, pass_: PassPlan, inputs: EncodedInputs) -> None:
    """Put one guide in place, or add one guide or reference beside the clip."""
    latents = inputs.condition(condition, pass_)
    grid = (latents.shape[2], latents.shape[3], latents.shape[4])
    device = tokens.positions.device
    if condition.kind == "replace":
        _, height, width = pass_.shape.latent
        tokens.replace(to_tokens(latents), condition.latent * height * width, condition.strength)
        return
    attention: Tensor | float = condition.attention
    if condition.kind == "reference":
        attention = inputs.reference_attention(condition, pass_)
        positions = reference_positions(
            *grid, pass_.fps, downscale=condition.downscale, temporal=condition.temporal, device=device
        )
    else:
        still = condition.num_frames == 1
        positions = guide_positions(*grid, pass_.fps, frame=condition.frame, still=still, device=device)
    exchange: Exchange = pass_.exchange if condition.kind == "reference" else "all"
    tokens.add(Added(to_tokens(latents), 1 - condition.strength, positions, attention, exchange=exchange))


def _audio(parts: ModelParts, pass_: PassPlan, inputs: EncodedInputs, start: Tensor | None) -> Stream:
    positions = audio_positions(pass_.audio_tokens, device=parts.device)
    tokens = Tokens.fresh(positions, LATENT_CHANNELS, parts.dtype)
    given = inputs.sound(pass_)
    frozen = "audio" in pass_.frozen
    if frozen:
        kept = start if given is None else given
        assert kept is not None
        tokens.begin(patchify_audio(kept))
    elif pass_.sigmas[0] < 1:
        tokens.begin(patchify_audio(_audio_start(pass_, inputs, start, given)))
    if not frozen and given is not None and pass_.source is not None and pass_.source.audio == "part":
        made = made_frames(pass_.audio_tokens, pass_.source.audio_made)
        tokens.keep(patchify_audio(given), made.reshape(1, -1, 1))
    _identity(tokens, pass_, inputs, start)
    return tokens.stream(frozen=frozen)


def _audio_start(
    pass_: PassPlan, inputs: EncodedInputs, start: Tensor | None, given: Tensor | None
) -> Tensor:
    """Return the latents that noise is mixed with at the start of a pass."""
    if given is not None and pass_.source is not None and pass_.source.audio == "start":
        return given
    return inputs.silence(pass_) if start is None else start


def _identity(tokens: Tokens, pass_: PassPlan, inputs: EncodedInputs, before: Tensor | None) -> None:
    """Add the voice to speak with, at negative time."""
    voice = before if pass_.identity == "previous" else inputs.identity(pass_)
    if pass_.identity == "none" or voice is None:
        return
    positions = identity_positions(voice.shape[2], device=tokens.positions.device)
    tokens.add(Added(patchify_audio(voice), 0.0, positions, is_reference=True, exchange=pass_.exchange))
