"""The video VAE gives the reference's numbers: printed vectors, and diffusers on the same weights."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from soundstage.model.config import VideoVaeConfig
from soundstage.model.published import video_vae_header
from soundstage.model.video_vae import Conv3d, VideoVae
from soundstage.weights.diffusers_names import to_diffusers


def tiny_config() -> VideoVaeConfig:
    header = video_vae_header(encoder_base_channels=8, decoder_base_channels=4, latent_channels=8)
    return VideoVaeConfig.from_header({"vae": header})


def wave(shape: tuple[int, ...], step: float) -> Tensor:
    """sin(step * n) over the flat index, in float64."""
    return torch.sin(step * torch.arange(math.prod(shape), dtype=torch.float64)).view(shape)


def fill_parameters(module: nn.Module) -> None:
    """The deterministic filling the printed vectors were made with."""
    state = dict(module.named_parameters())
    for rank, key in enumerate(sorted(state)):
        value = state[key]
        amplitude = 1.5 / math.sqrt(value[0].numel()) if value.ndim > 1 else 0.1
        n = torch.arange(value.numel(), dtype=torch.float64)
        value.data.copy_((amplitude * torch.sin(0.37 * n + rank)).view(value.shape))


@pytest.fixture(scope="module")
def tiny() -> VideoVae:
    vae = VideoVae(tiny_config()).double().eval().requires_grad_(False)
    fill_parameters(vae.encoder)
    fill_parameters(vae.decoder)
    channels = torch.arange(8, dtype=torch.float64)
    vae.per_channel_statistics.get_buffer("mean-of-means").copy_(0.1 * channels - 0.3)
    vae.per_channel_statistics.get_buffer("std-of-means").copy_(1 + 0.05 * channels)
    return vae


ENCODED = {0: 0.352610954, 1: 0.315660365, 5: 0.364930315, 50: -0.203034613, 95: -0.308883066}
DECODED = {
    0: 0.295431425,
    1: -0.273047910,
    64: -0.164157794,
    4096: -1.317818954,
    100000: -1.385469666,
    208895: -0.636612679,
}


def assert_printed(found: Tensor, total: float, squares: float, values: dict[int, float]) -> None:
    assert found.sum().item() == pytest.approx(total, abs=1e-8)
    assert found.square().sum().item() == pytest.approx(squares, abs=1e-8)
    for index, value in values.items():
        assert found.flatten()[index].item() == pytest.approx(value, abs=1e-9)


def test_encode_gives_the_printed_latents(tiny: VideoVae) -> None:
    latents = tiny.encode(wave((1, 3, 17, 64, 64), 0.11))
    assert latents.shape == (1, 8, 3, 2, 2)
    assert_printed(latents, -2.641333736, 6.915273120, ENCODED)


def test_decode_gives_the_printed_pixels(tiny: VideoVae) -> None:
    pixels = tiny.decode(wave((1, 8, 3, 2, 2), 0.23))
    assert pixels.shape == (1, 3, 17, 64, 64)
    assert_printed(pixels, -1490.694489782, 729266.299728290, DECODED)


def test_encoder_is_causal(tiny: VideoVae) -> None:
    """Latents of a prefix are the prefix of the latents."""
    pixels = wave((1, 3, 33, 64, 64), 0.13)
    whole = tiny.encode(pixels)
    for num_frames, num_latents in ((1, 1), (17, 3), (25, 4)):
        torch.testing.assert_close(tiny.encode(pixels[:, :, :num_frames]), whole[:, :, :num_latents])


def test_single_frame_convolution_equals_the_three_dimensional_one() -> None:
    torch.manual_seed(0)
    frame = torch.randn(2, 6, 1, 5, 7, dtype=torch.float64)
    for causal in (True, False):
        for padding in ("zeros", "reflect"):
            conv = Conv3d(6, 4, causal=causal, padding=padding).double()
            full = conv.conv(frame.expand(-1, -1, 3, -1, -1))
            torch.testing.assert_close(conv(frame), full)


def test_sizes_off_the_grid_are_refused(tiny: VideoVae) -> None:
    with pytest.raises(ValueError, match="8k\\+1"):
        tiny.encode(torch.zeros(1, 3, 8, 64, 64, dtype=torch.float64))
    with pytest.raises(ValueError, match="multiples of 32"):
        tiny.encode(torch.zeros(1, 3, 9, 48, 64, dtype=torch.float64))


def diffusers_vae() -> Any:
    """diffusers' class at the 2.3 structure and our tiny width."""
    from diffusers import AutoencoderKLLTX2Video

    return AutoencoderKLLTX2Video(
        latent_channels=8,
        block_out_channels=(16, 32, 64, 64),
        decoder_block_out_channels=(8, 16, 16, 32),
        layers_per_block=(4, 6, 4, 2, 2),
        decoder_layers_per_block=(4, 6, 4, 2, 2),
        spatio_temporal_scaling=(True,) * 4,
        decoder_spatio_temporal_scaling=(True,) * 4,
        decoder_inject_noise=(False,) * 5,
        downsample_type=("spatial", "temporal", "spatiotemporal", "spatiotemporal"),
        upsample_type=("spatiotemporal", "spatiotemporal", "temporal", "spatial"),
        upsample_residual=(False,) * 4,
        upsample_factor=(2, 2, 1, 2),
        encoder_causal=True,
        decoder_causal=False,
        encoder_spatial_padding_mode="zeros",
        decoder_spatial_padding_mode="zeros",
    ).eval()


def test_encoder_and_decoder_match_diffusers(tiny: VideoVae) -> None:
    torch.manual_seed(0)
    ours = copy.deepcopy(tiny).float()
    for parameter in ours.parameters():
        std = 1 / math.sqrt(parameter[0].numel()) if parameter.ndim > 1 else 0.1
        nn.init.normal_(parameter, std=std)
    theirs = diffusers_vae()
    state = {to_diffusers("video_vae", key): value for key, value in ours.state_dict().items()}
    theirs.load_state_dict(state, strict=True)
    with torch.no_grad():
        pixels = torch.randn(1, 3, 17, 64, 64).clamp(-1, 1)
        assert relative_error(ours.encoder(pixels), theirs.encode(pixels).latent_dist.mean) < 1e-4
        latents = torch.randn(1, 8, 3, 2, 2)
        assert relative_error(ours.decoder(latents), theirs.decode(latents).sample) < 1e-4


def relative_error(found: Tensor, wanted: Tensor) -> float:
    assert found.shape == wanted.shape
    return ((found - wanted).norm() / wanted.norm()).item()
