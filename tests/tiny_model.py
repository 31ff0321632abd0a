"""A whole model of the true structure at a tiny width, with random weights, in a folder.

`TinyParts` has a stand-in for the text encoder that derives contexts from the prompt's bytes, since
transformers takes seconds to load; every other part is read from the files as a real model's is.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import nn

from soundstage.library.convert import convert
from soundstage.library.model_files import AUDIO_VAE, TEXT, TEXT_FILES, TRANSFORMER, VIDEO_VAE
from soundstage.model.audio_vae import AudioVae
from soundstage.model.config import (
    AudioVaeConfig,
    ConnectorConfig,
    TextProjectionConfig,
    TransformerConfig,
    VideoVaeConfig,
    VocoderConfig,
)
from soundstage.model.connector import Connector, FeatureExtractor
from soundstage.model.published import audio_vae_header, transformer_header, video_vae_header, vocoder_header
from soundstage.model.transformer import Transformer
from soundstage.model.video_vae import VideoVae
from soundstage.model.vocoder import Vocoder
from soundstage.rendering.events import At, unseen
from soundstage.rendering.parts import ModelParts
from soundstage.sampling.guidance import Contexts

HEADS, VIDEO_HEAD, AUDIO_HEAD = 2, 32, 16
TEXT_TOKENS = 6
TEXT_WIDTH, TEXT_LAYERS = 16, 2
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
            caption_channels=TEXT_WIDTH,
            connector_num_layers=1,
            connector_num_registers=TEXT_TOKENS // 2,
        ),
        "vae": _shallow_video(video_vae_header(encoder_base_channels=8, decoder_base_channels=8)),
        "audio_vae": audio_vae_header(base_channels=16),
        "vocoder": _shallow_sound(vocoder_header(base_channels=64, bwe_channels=32)),
    }
    folder.mkdir(parents=True)
    projection = TextProjectionConfig.from_header(config, TEXT_WIDTH * (TEXT_LAYERS + 1))
    save(
        folder / TRANSFORMER,
        {
            "model.diffusion_model.": Transformer(TransformerConfig.from_header(config)),
            "model.diffusion_model.video_embeddings_connector.": connector(config, "video"),
            "model.diffusion_model.audio_embeddings_connector.": connector(config, "audio"),
            "text_embedding_projection.": FeatureExtractor(projection),
        },
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
    write_empty_text_encoder(folder / TEXT)
    (folder / "bundle.json").write_text(json.dumps({"name": "tiny", "defaults": DEFAULTS}))
    return folder


def _shallow_video(header: dict[str, Any]) -> dict[str, Any]:
    """Leave one layer of each group of equal ones: most of a tiny clip's time would go there."""
    for name in ("encoder_blocks", "decoder_blocks"):
        header[name] = [
            [kind, {**more, "num_layers": 1} if kind == "res_x" else more] for kind, more in header[name]
        ]
    return header


def _shallow_sound(header: dict[str, Any]) -> dict[str, Any]:
    """Leave one block of each stage, with one pair of convolutions instead of nine."""
    for generator in header.values():
        generator |= {"resblock_kernel_sizes": [3], "resblock_dilation_sizes": [[1]]}
    return header


def write_empty_text_encoder(folder: Path) -> None:
    """Files for tests that use `TinyParts`, which reads none of them: what headers tell is right."""
    folder.mkdir()
    for name in TEXT_FILES:
        (folder / name).write_text("{}")
    (folder / "config.json").write_text('{"model_type": "gemma3_text"}')
    layer = {
        "self_attn.q_proj": (16, TEXT_WIDTH), "self_attn.k_proj": (8, TEXT_WIDTH),
        "self_attn.v_proj": (8, TEXT_WIDTH), "self_attn.o_proj": (TEXT_WIDTH, 16),
        "self_attn.q_norm": (8,), "self_attn.k_norm": (8,), "mlp.gate_proj": (32, TEXT_WIDTH),
        "mlp.up_proj": (32, TEXT_WIDTH), "mlp.down_proj": (TEXT_WIDTH, 32), "input_layernorm": (TEXT_WIDTH,),
        "post_attention_layernorm": (TEXT_WIDTH,), "pre_feedforward_layernorm": (TEXT_WIDTH,),
        "post_feedforward_layernorm": (TEXT_WIDTH,),
    }  # fmt: skip
    shapes = {"embed_tokens": (9, TEXT_WIDTH), "norm": (TEXT_WIDTH,)}
    shapes |= {f"layers.{n}.{name}": shape for n in range(TEXT_LAYERS) for name, shape in layer.items()}
    tensors = {f"model.{name}.weight": torch.zeros(shape) for name, shape in shapes.items()}
    save_file(tensors, folder / "model.safetensors")


def write_tiny_layouts(root: Path) -> dict[str, Path]:
    """A tiny model with its text encoder, as a bundle and as files of the layouts `convert` writes."""
    bundle = write_tiny_model(root / "tiny")
    write_text_encoder(bundle / "text")
    paths = {
        "bundle": bundle,
        "official": root / "official" / "ltx-2.3-22b-dev.safetensors",
        "kijai": root / "kijai",
        "diffusers": root / "diffusers",
    }
    for layout in ("official", "kijai", "diffusers"):
        convert(bundle, paths[layout], layout=layout)  # type: ignore[arg-type]
    return paths


def write_text_encoder(folder: Path) -> None:
    """A tiny Gemma 3 of random weights that knows a few words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import Gemma3TextConfig, Gemma3TextModel

    torch.manual_seed(1)
    words = ["<pad>", "<eos>", "<bos>", "<unk>", "a", "red", "blue", "ball", "blurry"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    config = Gemma3TextConfig(
        vocab_size=len(words),
        hidden_size=TEXT_WIDTH,
        intermediate_size=2 * TEXT_WIDTH,
        num_hidden_layers=TEXT_LAYERS,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        layer_types=["sliding_attention", "full_attention"],
    )
    config.to_json_file(folder / "config.json")
    tensors = Gemma3TextModel(config).state_dict()
    save_file(
        {f"language_model.model.{key}": value for key, value in tensors.items()}, folder / "model.safetensors"
    )
    tokenizer.save(str(folder / "tokenizer.json"))


def connector(config: dict[str, Any], stream: Literal["video", "audio"]) -> Connector:
    return Connector(ConnectorConfig.from_header(config, stream))


def save(path: Path, modules: dict[str, nn.Module], config: dict[str, Any]) -> None:
    tensors = {
        prefix + key: value.contiguous()
        for prefix, module in modules.items()
        for key, value in module.state_dict().items()
    }
    save_file(tensors, path, {"config": json.dumps(config)})


class TinyParts(ModelParts):
    """`ModelParts` with the stand-in text encoder. encoded: every prompt that was encoded, in order."""

    encoded: list[str]

    def load(self, modalities: Sequence[str], at: At = unseen) -> None:
        self.encoded = getattr(self, "encoded", [])
        _ = self.transformer, self.video_vae, self.audio_vae, self.vocoder

    def encode(self, prompts: Sequence[str]) -> list[Contexts]:
        self.encoded.extend(prompts)
        return [_contexts(prompt) for prompt in prompts]


class QuickSound(TinyParts):
    """Samples that follow the latents, at their published count, without the vocoder's seconds of work."""

    def decode_audio(self, latents: torch.Tensor, num_samples: int | None = None) -> torch.Tensor:
        mel = latents.float().mean(dim=(1, 3), keepdim=True)[:, :, :, 0].repeat_interleave(4, dim=2)[:, :, 3:]
        return mel.repeat_interleave(480, dim=2).expand(1, 2, -1)


def _contexts(prompt: str) -> Contexts:
    generator = torch.Generator().manual_seed(zlib.crc32(prompt.encode()))
    widths = (HEADS * VIDEO_HEAD, HEADS * AUDIO_HEAD)
    video, audio = (torch.randn(1, TEXT_TOKENS, width, generator=generator) for width in widths)
    return Contexts(video, audio)
