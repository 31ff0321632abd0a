"""Latents that a call is given, and how a plan starts from them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from soundstage.compat.diffusers.telling import number
from soundstage.errors import RequestError, shown
from soundstage.planning.plan import PassPlan, Plan
from soundstage.types import LATENT_CHANNELS, SPACE_SCALE, TIME_SCALE, VideoShape

if TYPE_CHECKING:
    from torch import Tensor

    from soundstage.rendering.prepare import Latents


@dataclass(frozen=True, eq=False)
class GivenLatents:
    """Latents of one clip: video (1, 128, T, h, w), audio (1, 8, T, 16).

    noise_scale: the level they are to be noised to, None for that of the first step.
    """

    video: Tensor | None
    audio: Tensor | None
    noise_scale: float | None = None

    @property
    def shape(self) -> VideoShape | None:
        """Return the size of the picture, None where only sound is given."""
        if self.video is None:
            return None
        frames, height, width = self.video.shape[2:]
        return VideoShape((frames - 1) * TIME_SCALE + 1, height * SPACE_SCALE, width * SPACE_SCALE)

    @property
    def latents(self) -> Latents:
        from soundstage.rendering.prepare import Latents

        return Latents(self.video, self.audio)

    def check(self, plan: Plan, first: PassPlan) -> None:
        """Raise RequestError where a plan's first pass does not fit the latents."""
        if plan.windows:
            raise RequestError("latents are given, but the clip would be made in windows; make it shorter")
        if self.video is not None and self.video.shape[2:] != first.shape.latent:
            raise RequestError(
                f"latents are {tuple(self.video.shape)}, but pass '{first.name}' of '{plan.recipe}' has "
                f"{first.shape.latent}; use the recipe 'single'",
                field="latents",
            )
        if self.audio is not None and self.audio.shape[2] != first.audio_tokens:
            raise RequestError(
                f"audio_latents has {self.audio.shape[2]} frames, but a clip of {plan.num_frames} frames at "
                f"{plan.fps:g} a second has {first.audio_tokens}; give the frame_rate it was made with",
                field="audio_latents",
            )
        level = self.noise_scale
        if level is not None and not math.isclose(level, first.sigmas[0], abs_tol=1e-6):
            raise RequestError(
                f"noise_scale is {level:g}, but the steps begin at {first.sigmas[0]:g}, and latents are "
                "noised to that level; give sigmas that begin at noise_scale, or leave it out",
                field="noise_scale",
            )


def given_latents(words: Mapping[str, Any], count: int) -> list[GivenLatents | None]:
    """Return the latents of each clip of a call, None where a clip starts from noise alone.

    Raises RequestError for a shape that is none of latents, and for another number of clips.
    """
    video, audio = words.get("latents"), words.get("audio_latents")
    if video is None and audio is None:
        if words.get("denoise_strength") is not None:
            raise RequestError("denoise_strength is given without latents; give latents, or leave it out")
        return [None] * count
    video, audio = _tensor(video, "latents"), _tensor(audio, "audio_latents")
    videos = [None] * count if video is None else _each(_video(video, words), count, "latents")
    audios = [None] * count if audio is None else _each(_audio(audio), count, "audio_latents")
    scale = words.get("noise_scale")
    scale = None if scale is None else number(scale, "noise_scale")
    return [GivenLatents(v, a, scale) for v, a in zip(videos, audios, strict=True)]


def _video(latents: Any, words: Mapping[str, Any]) -> Any:
    """Return video latents (B, 128, T, h, w); tokens (B, N, 128) get their shape from the call."""
    shape = tuple(getattr(latents, "shape", ()))
    if len(shape) == 5 and shape[1] == LATENT_CHANNELS:
        return latents
    sides: list[Any] = [words.get(name) for name in ("num_frames", "height", "width")]
    if len(shape) == 3 and shape[2] == LATENT_CHANNELS and None not in sides:
        grid = VideoShape(*sides).latent
        if shape[1] == math.prod(grid):
            return latents.transpose(1, 2).reshape(shape[0], LATENT_CHANNELS, *grid)
    raise RequestError(
        f"latents are {_told(latents)}; give (B, 128, T, h, w), or tokens (B, N, 128) with width, height and "
        "num_frames",
        field="latents",
    )


def _audio(latents: Any) -> Any:
    """Return audio latents (B, 8, T, 16), from tokens (B, T, 128) too."""
    from soundstage.model.audio_vae import unpatchify_audio

    shape = tuple(getattr(latents, "shape", ()))
    if len(shape) == 4 and shape[1] * shape[3] == LATENT_CHANNELS:
        return latents
    if len(shape) == 3 and shape[2] == LATENT_CHANNELS:
        return unpatchify_audio(latents)
    raise RequestError(
        f"audio_latents are {_told(latents)}; give (B, 8, T, 16), or tokens (B, T, 128)",
        field="audio_latents",
    )


def _tensor(value: Any, name: str) -> Any:
    """Return latents as a tensor of floats, without their history; None stays.

    Raises RequestError for what is neither a tensor nor an array, and for one without values.
    """
    import numpy as np
    import torch

    if value is None:
        return None
    is_array = isinstance(value, np.ndarray) and value.dtype.kind in "fiu"
    found = torch.from_numpy(np.ascontiguousarray(value)) if is_array else value
    if not isinstance(found, torch.Tensor) or not found.numel():
        raise RequestError(f"{name} is {_told(value)}; give a tensor, such as one of output_type='latent'")
    return found.detach() if found.is_floating_point() else found.float()


def _each(latents: Any, count: int, name: str) -> list[Any]:
    if len(latents) == 1:
        return [latents] * count
    if len(latents) != count:
        raise RequestError(
            f"{name} has {len(latents)} entries for {count} clips; give one for each", field=name
        )
    return [latents[i : i + 1] for i in range(count)]


def _told(value: Any) -> str:
    return f"of shape {tuple(value.shape)}" if hasattr(value, "shape") else shown(value)
