"""Contexts from a file, in place of those that the text encoder makes of a prompt."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from soundstage.errors import WeightsError
from soundstage.planning.light import CONTEXTS
from soundstage.rendering.parts import ModelParts
from soundstage.sampling.guidance import Contexts


def read_contexts(path: str, parts: ModelParts) -> Contexts:
    """Return a file's contexts, (1, S, width) each, None for one that it lacks.

    Raises WeightsError for tensors that do not fit the model.
    """
    held = load_file(Path(path))
    config = parts.transformer.config
    streams = (config.video, config.audio)
    return Contexts(
        *(
            None
            if stream is None or name not in held
            else _context(path, name, held[name], stream.width, parts)
            for name, stream in zip(CONTEXTS, streams, strict=True)
        )
    )


def _context(path: str, name: str, value: Tensor, width: int, parts: ModelParts) -> Tensor:
    context = value if value.ndim == 3 else value[None]
    if context.ndim != 3 or context.shape[0] != 1 or context.shape[2] != width:
        raise WeightsError(
            f"{path}: '{name}' has the shape {list(value.shape)}, and {parts.model.name} reads contexts of "
            f"[1, tokens, {width}]; get the file of this model"
        )
    if not bool(torch.isfinite(context.float()).all()):
        raise WeightsError(f"{path}: '{name}' holds values that are not numbers; get a good copy")
    return context.to(parts.device, parts.dtype)
