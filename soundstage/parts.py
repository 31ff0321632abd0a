"""The parts of a model, built when first used and kept: what an engine needs of a model, and nothing else.

`Parts` is the interface; `LoadedParts` builds it from a model folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from soundstage.errors import RequestError
from soundstage.model.audio_vae import AudioVae
from soundstage.model.transformer import Transformer
from soundstage.model.video_vae import VideoVae
from soundstage.model.vocoder import Vocoder
from soundstage.model_set import AUDIO_VAE, TEXT, TRANSFORMER, VIDEO_VAE, ModelSet
from soundstage.sampling.guidance import Contexts, Velocity

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Parts(Protocol):
    """device and dtype are those of the latents; (1, S, W) contexts and (1, ...) latents throughout."""

    device: torch.device
    dtype: torch.dtype

    @property
    def transformer(self) -> Velocity: ...

    def encode(self, prompts: Sequence[str]) -> list[Contexts]:
        """One pair of contexts per prompt."""
        ...

    def decode_video(self, latents: Tensor) -> Tensor:
        """(1, 128, T, h, w) -> pixels (1, 3, 8(T - 1) + 1, 32h, 32w), about [-1, 1]."""
        ...

    def decode_audio(self, latents: Tensor) -> Tensor:
        """(1, 8, T, 16) -> samples (1, 2, n) float32 at 48 kHz."""
        ...


def pick_device(name: str) -> torch.device:
    """"auto" is a CUDA device where there is one. Raises RequestError for a device that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise RequestError(
            f"device is '{name}', which this machine does not have; give 'auto' or 'cpu'", field="device"
        ) from error
    return torch.device(name)


def pick_dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise RequestError(f"dtype is '{name}'; give one of {', '.join(DTYPES)}", field="dtype")
    return DTYPES[name]
