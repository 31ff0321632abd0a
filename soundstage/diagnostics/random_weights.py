"""Build parts of the published structure with random weights, and inputs for them. Reads no files."""

from __future__ import annotations

import zlib
from typing import Any, cast

import torch
from torch import Tensor

from soundstage.conditioning.positions import audio_positions, video_positions
from soundstage.memory.offload import StreamedBlocks, chunk_feed_forward, place_blocks, streamed_numbers
from soundstage.memory.policy import Residency
from soundstage.memory.stream import BlockLayout, HostSource, like, owners_of
from soundstage.model.config import TransformerConfig, VideoVaeConfig
from soundstage.model.published import transformer_header, video_vae_header
from soundstage.model.transformer import ModalityInputs, Transformer
from soundstage.model.video_vae import VideoVae
from soundstage.speed import cuda, graphs
from soundstage.types import VideoShape, audio_latent_length
from soundstage.weights.quantize import quantize
from soundstage.weights.storage import Scheme

FPS, TEXT_TOKENS, SIGMA = 24.0, 1024, 0.7
NOISE_ELEMENTS = 1 << 22


def random_transformer(
    layers: int, weights: str, device: torch.device, residency: Residency
) -> tuple[Transformer, StreamedBlocks | None]:
    """Return the 22B transformer with this many blocks, and how it is streamed if it is.

    weights: "bfloat16" or a scheme of weights.quantize. A key has the same values in every residency.
    """
    config = TransformerConfig.from_header({"transformer": transformer_header(num_layers=layers)})
    with torch.device("meta"):
        model = Transformer(config).to(torch.bfloat16).requires_grad_(False).eval()
    if weights != "bfloat16":
        quantize(model, cast(Scheme, weights))
    noise = torch.randn(NOISE_ELEMENTS, generator=torch.Generator().manual_seed(0)).to(device)
    source = HostSource(device)
    streamed = reserve_blocks(model, residency, source) if residency.streams_blocks else {}
    for key, (owner, name) in owners_of(model).items():
        value = random_value(key, owner[name], noise)
        if key in streamed:
            streamed[key].copy_(value)
        else:
            owner[name] = like(owner[name], value)
    chunk_feed_forward(model, residency.feed_forward_tokens)
    cuda.speed_up(model, device, torch.bfloat16)
    if not residency.streams_blocks:
        graphs.record_steps(model, device, tuple)
        return model, None
    return model, place_blocks(model, list(model.transformer_blocks), source, residency, device)


def reserve_blocks(model: Any, residency: Residency, source: Any) -> dict[str, Tensor]:
    """Reserve host memory for the blocks that are streamed; return a view for each of their keys."""
    views: dict[str, Tensor] = {}
    for number in streamed_numbers(len(model.transformer_blocks), residency):
        layout = BlockLayout.of(model.transformer_blocks[number])
        memory = source.reserve(number, layout)
        views |= {
            f"transformer_blocks.{number}.{packed.key}": packed.view(memory) for packed in layout.tensors
        }
    return views


def random_value(key: str, like: Tensor, noise: Tensor) -> Tensor:
    """Return values for one tensor, cut from `noise` at a place given by its key.

    They are scaled by fan-in, so that activations keep their size through depth.
    """
    if key.endswith("norm.weight"):
        return torch.ones(like.shape, dtype=like.dtype, device=noise.device)
    fan_in = like.shape[-1] if like.ndim > 1 else 10_000
    if key.endswith("weight_scale"):
        return torch.full(like.shape, 0.01, dtype=like.dtype, device=noise.device)
    scale = 1.0 if like.dtype.itemsize == 1 else fan_in**-0.5
    shifted = noise.roll(zlib.crc32(key.encode()) % noise.numel()).mul_(scale)
    shifted = shifted.to(torch.bfloat16) if like.dtype.itemsize == 1 else shifted.to(like.dtype)
    copies = -(-like.numel() // shifted.numel())
    value = shifted.repeat(copies)[: like.numel()] if copies > 1 else shifted[: like.numel()].clone()
    return value.to(like.dtype).view(like.shape)


def random_decoder(device: torch.device) -> VideoVae:
    """Return the video VAE in bfloat16. Its encoder has no values."""
    with torch.device("meta"):
        vae = VideoVae(VideoVaeConfig.from_header({"vae": video_vae_header()}))
        vae = vae.to(torch.bfloat16).requires_grad_(False).eval()
    noise = torch.randn(NOISE_ELEMENTS, generator=torch.Generator().manual_seed(0)).to(device)
    for part in (vae.decoder, vae.per_channel_statistics):
        for key, (owner, name) in owners_of(part).items():
            owner[name] = like(owner[name], random_value(key, owner[name], noise))
    return vae


def modalities(
    size: tuple[int, int, int], device: torch.device, model: Transformer
) -> tuple[ModalityInputs, ModalityInputs]:
    """Return the inputs of a step for the video and the audio stream, the same values every time."""
    width, height, num_frames = size
    generator = torch.Generator().manual_seed(1)
    shape = VideoShape(num_frames, height, width)
    assert model.config.video is not None
    assert model.config.audio is not None

    def stream(positions: Tensor, width: int) -> ModalityInputs:
        num_tokens = positions.shape[2]
        latents, context = (
            torch.randn(1, *s, generator=generator).to(device, torch.bfloat16)
            for s in ((num_tokens, 128), (TEXT_TOKENS, width))
        )
        sigma = torch.full((1,), SIGMA, device=device)
        return ModalityInputs(latents, sigma, sigma.expand(1, num_tokens), positions.to(device), context)

    return (
        stream(video_positions(*shape.latent, FPS), model.config.video.width),
        stream(audio_positions(audio_latent_length(num_frames, FPS)), model.config.audio.width),
    )
