"""The latent upsamplers give the reference's numbers: printed vectors, and diffusers on the same weights."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from diffusers.pipelines.ltx2.latent_upsampler import LTX2LatentUpsamplerModel

from soundstage.errors import ConfigError
from soundstage.model.config import UpsamplerConfig
from soundstage.model.published import upsampler_header
from soundstage.model.statistics import ChannelStatistics
from soundstage.model.upsampler import LatentUpsampler, upsample_latents

Kind = Literal["x2", "x1.5", "time"]
KINDS: tuple[Kind, ...] = ("x2", "x1.5", "time")


def build(kind: Kind, **sizes: int) -> LatentUpsampler:
    config = UpsamplerConfig.from_header(upsampler_header(kind, **sizes))
    return LatentUpsampler(config).eval().requires_grad_(False)


def printed_weights(model: LatentUpsampler) -> None:
    """Fill by the rule of the printed vectors: a sine over each tensor, its phase the key's rank."""
    parameters = dict(model.named_parameters())
    for rank, key in enumerate(sorted(parameters)):
        tensor = parameters[key]
        wave = torch.sin(0.37 * torch.arange(tensor.numel(), dtype=torch.float64) + rank).view(tensor.shape)
        amplitude = 0.1 if tensor.ndim == 1 else 1.5 / tensor[0].numel() ** 0.5
        is_scale = "norm" in key and key.endswith("weight")
        tensor.copy_(amplitude * wave + (1 if is_scale else 0))


@pytest.mark.parametrize(
    ("kind", "shape", "total", "energy", "values"),
    [
        (
            "x2",
            (1, 8, 3, 6, 10),
            94.059997479,
            978.772170405,
            {0: -0.074808638, 1: -0.079818163, 7: 0.595421797, 100: 0.241218158, 1439: 0.022094614},
        ),
        (
            "x1.5",
            (1, 8, 3, 5, 8),
            62.978066505,
            26.154961411,
            {0: -0.005716257, 1: -0.029367755, 7: 0.003741241, 100: -0.151882959, 959: 0.033457147},
        ),
        (
            "time",
            (1, 8, 5, 3, 5),
            38.999964563,
            10.777410973,
            {0: -0.021964165, 1: -0.045643649, 7: -0.127454657, 100: 0.004049916, 599: 0.088484341},
        ),
    ],
)
def test_printed_vectors(
    kind: Kind, shape: tuple[int, ...], total: float, energy: float, values: dict[int, float]
) -> None:
    model = build(kind, latent_channels=8, mid_channels=64, blocks_per_stage=1).double()
    printed_weights(model)
    latents = torch.sin(0.23 * torch.arange(8 * 3 * 3 * 5, dtype=torch.float64)).view(1, 8, 3, 3, 5)
    out = model(latents)
    assert out.shape == shape
    assert out.sum().item() == pytest.approx(total, abs=1e-8)
    assert out.square().sum().item() == pytest.approx(energy, abs=1e-8)
    for index, value in values.items():
        assert out.flatten()[index].item() == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_agrees_with_diffusers_on_the_same_weights(kind: Kind) -> None:
    torch.manual_seed(0)
    sizes = {"latent_channels": 16, "mid_channels": 64, "blocks_per_stage": 2}
    ours = build(kind, **sizes)
    theirs = LTX2LatentUpsamplerModel(
        in_channels=16,
        mid_channels=64,
        num_blocks_per_stage=2,
        spatial_upsample=kind != "time",
        temporal_upsample=kind == "time",
        rational_spatial_scale=1.5 if kind == "x1.5" else 2.0,
        use_rational_resampler=kind == "x1.5",
    )
    theirs.load_state_dict(ours.state_dict(), strict=True)
    latents = torch.randn(2, 16, 4, 5, 7)
    with torch.no_grad():
        wanted = theirs.eval()(latents)
    found = ours(latents)
    assert found.shape == wanted.shape
    assert ((found - wanted).norm() / wanted.norm()).item() <= 1e-4


@pytest.mark.parametrize(
    ("kind", "parameters", "tensors"),
    [("x2", 497_867_904, 72), ("x1.5", 545_058_944, 73), ("time", 130_968_192, 72)],
)
def test_published_size_has_the_published_counts(kind: Kind, parameters: int, tensors: int) -> None:
    with torch.device("meta"):
        model = build(kind)
    state = model.state_dict()
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert len(state) == tensors
    key = "upsampler.conv.weight" if kind == "x1.5" else "upsampler.0.weight"
    rows = {"x2": 4096, "x1.5": 9216, "time": 1024}[kind]
    assert state[key].shape[0] == rows
    assert ("upsampler.blur_down.kernel" in state) == (kind == "x1.5")


def test_one_frame_stays_one_frame_in_time() -> None:
    model = build("time", latent_channels=8, mid_channels=32, blocks_per_stage=1)
    assert model(torch.randn(1, 8, 1, 2, 2)).shape == (1, 8, 1, 2, 2)


def test_latents_pass_through_the_space_of_the_vae() -> None:
    model = build("x2", latent_channels=8, mid_channels=32, blocks_per_stage=1)
    statistics = ChannelStatistics(8)
    mean, std = torch.randn(8), torch.rand(8) + 0.5
    statistics.load_state_dict({"mean-of-means": mean, "std-of-means": std})
    latents = torch.randn(1, 8, 2, 3, 3)
    shape = (1, 8, 1, 1, 1)
    wanted = (model(latents * std.view(shape) + mean.view(shape)) - mean.view(shape)) / std.view(shape)
    torch.testing.assert_close(upsample_latents(latents, model, statistics), wanted)


def test_headers_we_do_not_build_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="spatial_scale"):
        UpsamplerConfig.from_header(upsampler_header("x1.5") | {"spatial_scale": 1.7})
    with pytest.raises(ConfigError, match="temporal_upsample"):
        UpsamplerConfig.from_header(upsampler_header("x2") | {"temporal_upsample": True})
    with pytest.raises(ConfigError, match="rational_resampler"):
        UpsamplerConfig.from_header(upsampler_header("x2") | {"spatial_scale": 1.5})
    incomplete = {k: v for k, v in upsampler_header("x2").items() if k != "mid_channels"}
    with pytest.raises(ConfigError, match="mid_channels"):
        UpsamplerConfig.from_header(incomplete)
