"""A whole model of the true structure at a tiny width, with random weights, in a folder.

The text encoder is a stand-in that derives contexts from the prompt's bytes; every other part is read
from the files as a real model's is.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from soundstage.model.audio_vae import AudioVae
from soundstage.model.config import (
    AudioVaeConfig,
    TransformerConfig,
    VideoVaeConfig,
    VocoderConfig,
    audio_vae_header,
    transformer_header,
    video_vae_header,
    vocoder_header,
)
from soundstage.model.transformer import Transformer
from soundstage.model.video_vae import VideoVae
from soundstage.model.vocoder import Vocoder
from soundstage.model_set import AUDIO_VAE, TEXT, TEXT_FILES, TRANSFORMER, VIDEO_VAE
from soundstage.parts import LoadedParts
from soundstage.sampling.guidance import Contexts

HEADS, VIDEO_HEAD, AUDIO_HEAD = 2, 32, 16
TEXT_TOKENS = 6
DEFAULTS: dict[str, Any] = {
    "size": [64, 64],
    "presets": {"landscape": [96, 64], "portrait": [64, 96], "square": [64, 64]},
    "num_frames": 9,
    "text_tokens": TEXT_TOKENS,
    "steps": 3,
    "schedule": "linear-quadratic",
    "dtype": "float32",
    "video": {"cfg": 3.0, "stg": 1.0, "stg_blocks": [1], "modality": 2.0, "rescale": 0.7},
    "audio": {"cfg": 5.0, "stg": 1.0, "stg_blocks": [1], "modality": 2.0, "rescale": 0.7},
    "negative_prompt": "blurry",
}


def write_tiny_model(folder: Path) -> Path:
    """Make the folder and its files; the same weights every time."""
    torch.manual_seed(0)
    config: dict[str, Any] = {
        "transformer": transformer_header(
            num_layers=2,
            num_heads=HEADS,
            head_dim=VIDEO_HEAD,
            audio_num_heads=HEADS,
            audio_head_dim=AUDIO_HEAD,
        ),
        "vae": video_vae_header(encoder_base_channels=16, decoder_base_channels=16),
        "audio_vae": audio_vae_header(base_channels=32),
        "vocoder": vocoder_header(base_channels=128, bwe_channels=64),
    }
    (folder / TEXT).mkdir(parents=True)
    save(
        folder / TRANSFORMER,
        {"model.diffusion_model.": Transformer(TransformerConfig.from_header(config))},
        {"transformer": config["transformer"]},
    )
    save(
        folder / VIDEO_VAE,
        {"vae.": VideoVae(VideoVaeConfig.from_header(config))},
        {"vae": config["vae"]},
    )
    save(
        folder / AUDIO_VAE,
        {
            "audio_vae.": AudioVae(AudioVaeConfig.from_header(config)),
            "vocoder.": Vocoder(VocoderConfig.from_header(config)),
        },
        {"audio_vae": config["audio_vae"], "vocoder": config["vocoder"]},
    )
    for name in TEXT_FILES:
        (folder / TEXT / name).write_text("{}")
    save_file({}, folder / TEXT / "model.safetensors")
    (folder / "bundle.json").write_text(json.dumps({"name": "tiny", "defaults": DEFAULTS}))
    return folder


def save(path: Path, modules: dict[str, nn.Module], config: dict[str, Any]) -> None:
    tensors = {
        prefix + key: value.contiguous()
        for prefix, module in modules.items()
        for key, value in module.state_dict().items()
    }
    save_file(tensors, path, {"config": json.dumps(config)})


class TinyParts(LoadedParts):
    """`LoadedParts` with the stand-in text encoder. encoded: every prompt that was encoded, in order."""

    encoded: list[str]

    def load(self, modalities: Sequence[str]) -> None:
        self.encoded = getattr(self, "encoded", [])
        _ = self.transformer, self.video_vae, self.audio_vae, self.vocoder

    def encode(self, prompts: Sequence[str]) -> list[Contexts]:
        self.encoded.extend(prompts)
        return [_contexts(prompt) for prompt in prompts]


def _contexts(prompt: str) -> Contexts:
    generator = torch.Generator().manual_seed(zlib.crc32(prompt.encode()))
    widths = (HEADS * VIDEO_HEAD, HEADS * AUDIO_HEAD)
    video, audio = (torch.randn(1, TEXT_TOKENS, width, generator=generator) for width in widths)
    return Contexts(video, audio)
