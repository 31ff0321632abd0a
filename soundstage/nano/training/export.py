"""Write trained parts as safetensors in bfloat16 under the published names, and read them back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from soundstage.files import whole_file
from soundstage.model.audio_vae import AudioVae
from soundstage.model.video_vae import VideoVae
from soundstage.weights.configs import stored_config
from soundstage.weights.header import read_header
from soundstage.weights.layouts import Part, find_parts
from soundstage.weights.load import builder, load_part

PREFIXES = {"video-vae": "vae.", "audio-vae": "audio_vae.", "vocoder": "vocoder."}


def export(model: nn.Module, part: str, sections: dict[str, Any], folder: Path) -> Path:
    """Write `folder`/<part>.safetensors, whole or not at all, and return its path.

    part: a key of PREFIXES. sections: the config by section ("vae", "audio_vae", "vocoder").
    """
    prefix = PREFIXES[part]
    tensors = {prefix + name: value for name, value in model.state_dict().items()}
    return write(tensors, sections, folder / f"{part}.safetensors")


def write(tensors: Mapping[str, Tensor], sections: dict[str, Any], path: Path) -> Path:
    """Write tensors and config, whole or not at all: in bfloat16, scale-and-shift tables in float32."""
    stored = {
        name: value.detach().to(torch.float32 if "scale_shift_table" in name else torch.bfloat16).contiguous()
        for name, value in tensors.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        # One key only: safetensors writes several in random order, and equal weights should be equal bytes.
        save_file(stored, partial, metadata={"config": json.dumps(sections)})
    return path


def load_video_vae(folder: Path) -> VideoVae:
    """Return the exported video VAE of a weights folder, in float32."""
    return load_exported(folder, "video_vae")  # type: ignore[return-value]


def load_audio_vae(folder: Path) -> AudioVae:
    """Return the exported audio VAE of a weights folder, in float32."""
    return load_exported(folder, "audio_vae")  # type: ignore[return-value]


def load_exported(folder: Path, part: Part) -> nn.Module:
    """Return a part of a weights folder, in float32.

    Raises WeightsError for a missing or damaged file, or keys that do not fit.
    """
    files = [read_header(folder / f"{part.replace('_', '-')}.safetensors")]
    parts = find_parts(files)
    return load_part(builder(part, parts, stored_config(files)), parts, part, dtype=torch.float32)
