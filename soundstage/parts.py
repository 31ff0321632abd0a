"""The parts of a model, built when first used and kept: what an engine needs of a model, and nothing else.

`Parts` is the interface; `LoadedParts` builds it from a model folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Protocol, TypeVar

import torch
from torch import Tensor, nn

from soundstage.errors import RequestError
from soundstage.model.audio_vae import AudioVae
from soundstage.model.transformer import Transformer
from soundstage.model.video_vae import VideoVae
from soundstage.model.vocoder import Vocoder
from soundstage.model_set import AUDIO_VAE, TEXT, TRANSFORMER, VIDEO_VAE, ModelSet
from soundstage.sampling.guidance import Contexts, Velocity
from soundstage.weights.header import read_header
from soundstage.weights.layouts import Part, find_parts
from soundstage.weights.load import builder, load_part, stored_config

if TYPE_CHECKING:
    from soundstage.text.encoder import TextEncoder

Module = TypeVar("Module", bound=nn.Module)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Parts(Protocol):
    """device and dtype are those of the latents; (1, S, W) contexts and (1, ...) latents throughout."""

    device: torch.device
    dtype: torch.dtype

    @property
    def transformer(self) -> Velocity: ...

    def load(self, modalities: Sequence[str]) -> None:
        """Build what a run of these modalities needs; nothing if it is built already."""
        ...

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
    """ "auto" is a CUDA device where there is one. Raises RequestError for a device that is not there."""
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


class LoadedParts:
    """Parts read from a model folder. Each file's header is read at once, each part's weights on first use.

    Raises WeightsError or ConfigError for files that are not one LTX-2.3 model.
    """

    def __init__(self, model: ModelSet, device: torch.device, dtype: torch.dtype) -> None:
        self.model = model
        self.device = device
        self.dtype = dtype
        files = [read_header(model.folder / name) for name in (TRANSFORMER, VIDEO_VAE, AUDIO_VAE)]
        self._tensors = find_parts(files)
        self._config = stored_config(files)

    @cached_property
    def transformer(self) -> Transformer:
        return self._load("transformer", Transformer)

    @cached_property
    def video_vae(self) -> VideoVae:
        return self._load("video_vae", VideoVae)

    @cached_property
    def audio_vae(self) -> AudioVae:
        """Always float32, like the vocoder: small, and bfloat16 kernels are slow at odd widths."""
        return self._load("audio_vae", AudioVae, torch.float32)

    @cached_property
    def vocoder(self) -> Vocoder:
        """Always float32: in bfloat16 its error is audible."""
        return self._load("vocoder", Vocoder, torch.float32)

    @cached_property
    def text_encoder(self) -> TextEncoder:
        from soundstage.text.encoder import TextEncoder  # transformers is slow to import

        return TextEncoder.load(
            self.model.folder / TEXT,
            self._tensors,
            self._config,
            num_tokens=self.model.defaults.text_tokens,
            dtype=self.dtype,
            device=self.device,
        )

    def load(self, modalities: Sequence[str]) -> None:
        """Build all that a run needs, so that a file that does not fit is found before the work begins."""
        _ = self.text_encoder, self.transformer
        if "video" in modalities:
            _ = self.video_vae
        if "audio" in modalities:
            _ = self.audio_vae, self.vocoder

    def encode(self, prompts: Sequence[str]) -> list[Contexts]:
        context = self.text_encoder.encode(list(prompts))
        return [Contexts(context.video[i : i + 1], context.audio[i : i + 1]) for i in range(len(prompts))]

    def decode_video(self, latents: Tensor) -> Tensor:
        return self.video_vae.decode(latents)

    def decode_audio(self, latents: Tensor) -> Tensor:
        return self.vocoder(self.audio_vae.decode(latents.float()))  # type: ignore[no-any-return]

    def _load(self, part: Part, kind: type[Module], dtype: torch.dtype | None = None) -> Module:
        build = builder(part, self._tensors, self._config)
        module = load_part(build, self._tensors, part, dtype=dtype or self.dtype, device=self.device)
        assert isinstance(module, kind)
        return module
