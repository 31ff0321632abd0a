"""Clips and latents in the shapes that diffusers returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from soundstage.clip import Clip
from soundstage.errors import RequestError, listed, shown
from soundstage.types import OUTPUT_RATE_HZ

if TYPE_CHECKING:
    from soundstage.rendering.events import Done

OUTPUT_TYPES = ("pil", "np", "pt", "latent")


@dataclass(frozen=True)
class PipelineOutput:
    """The result of a call, one entry for each clip.

    frames: lists of PIL pictures, an array (B, F, H, W, 3) or tensor (B, F, 3, H, W) in [0, 1], or latents.

    audio: samples (B, 2, n) float32 at sample_rate_hz, or latents; None for silent clips. clips: the clips
    themselves, which know their request and save themselves; empty for latents.
    """

    frames: Any
    audio: Any = None
    clips: tuple[Clip, ...] = ()
    sample_rate_hz: int = OUTPUT_RATE_HZ

    def to_tuple(self) -> tuple[Any, ...]:
        return (self.frames, self.audio)

    def __getitem__(self, key: int | slice | str) -> Any:
        return self.to_tuple()[key] if isinstance(key, (int, slice)) else getattr(self, key)


def check_output_type(name: Any) -> None:
    """Raise RequestError for an output type that is not there."""
    if not isinstance(name, str) or name not in OUTPUT_TYPES:
        raise RequestError(
            f"output_type is {shown(name)}; give one of {listed(str(name), OUTPUT_TYPES)}",
            field="output_type",
        )


def outputs(made: Sequence[Done], output_type: str) -> PipelineOutput:
    """Return the output of the runs of one call."""
    if output_type == "latent":
        video, audio = ([getattr(d, f"{kind}_latents") for d in made] for kind in ("video", "audio"))
        return PipelineOutput(_joined(video), _joined(audio))
    clips = tuple(done.clip for done in made)
    sounds = [_tensor(clip.waveform) for clip in clips]
    rate = clips[0].sample_rate_hz
    return PipelineOutput(_frames(clips, output_type), _stacked(sounds), clips, rate)


def _frames(clips: Sequence[Clip], output_type: str) -> Any:
    arrays = [clip.frames for clip in clips]
    if output_type == "pil":
        return None if arrays[0] is None else [clip.to_pil() for clip in clips]
    shares = (
        np.stack([a.astype(np.float32) / 255 for a in arrays if a is not None])
        if arrays[0] is not None
        else None
    )
    if shares is None or output_type == "np":
        return shares
    return _tensor(shares).movedim(-1, 2)


def _tensor(array: Any) -> Any:
    import torch

    return None if array is None else torch.from_numpy(np.ascontiguousarray(array))


def _joined(tensors: Sequence[Any]) -> Any:
    import torch

    return None if tensors[0] is None else torch.cat(list(tensors))


def _stacked(tensors: Sequence[Any]) -> Any:
    import torch

    return None if tensors[0] is None else torch.stack(list(tensors))
