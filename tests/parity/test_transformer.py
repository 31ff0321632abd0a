"""The transformer gives the reference's numbers: printed vectors, and diffusers on the same weights."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from soundstage.conditioning.positions import audio_positions, video_positions
from soundstage.model.config import TransformerConfig, transformer_header
from soundstage.model.modulation import sinusoid
from soundstage.model.rope import frequencies, rope_table
from soundstage.model.transformer import Modality, Perturbation, Transformer

# --- printed vectors --------------------------------------------------------------------------------

TINY = TransformerConfig.from_header(
    {
        "transformer": transformer_header(
            num_layers=2, num_heads=2, head_dim=20, audio_num_heads=2, audio_head_dim=8, channels=8
        )
    }
)


def fill(shape: tuple[int, ...], rank: int, amplitude: float) -> Tensor:
    """The deterministic filling the printed vectors were made with."""
    n = torch.arange(torch.Size(shape).numel(), dtype=torch.int64)
    return (amplitude * (((31 * n * n + 17 * n + 101 * rank + 7) % 997) / 997 - 0.5)).float().view(shape)


@pytest.fixture(scope="module")
def tiny() -> Transformer:
    model = Transformer(TINY)
    state = model.state_dict()
    assert len(state) == 230
    for rank, key in enumerate(sorted(state)):
        state[key] = fill(tuple(state[key].shape), rank, 0.4) + (1.0 if key.endswith("_norm.weight") else 0.0)
    assert sorted(state)[48] == "patchify_proj.weight"
    torch.testing.assert_close(
        state["patchify_proj.weight"].flatten()[:3],
        torch.tensor([0.147844, 0.167101, -0.188766]),
        atol=1e-6,
        rtol=0,
    )
    model.load_state_dict(state)
    return model.eval().requires_grad_(False)


def tiny_video(**changes: Any) -> Modality:
    return dataclasses.replace(
        Modality(
            latents=fill((1, 4, 8), 1001, 4.0),
            sigma=torch.tensor([0.6]),
            timesteps=torch.tensor([[0.0, 0.0, 0.6, 0.6]]),
            positions=video_positions(2, 1, 2, 24.0),
            context=fill((1, 3, 40), 1003, 4.0),
        ),
        **changes,
    )


def tiny_audio(**changes: Any) -> Modality:
    return dataclasses.replace(
        Modality(
            latents=fill((1, 3, 8), 1002, 4.0),
            sigma=torch.tensor([0.4]),
            timesteps=torch.full((1, 3), 0.4),
            positions=audio_positions(3),
            context=fill((1, 3, 16), 1004, 4.0),
        ),
        **changes,
    )


def assert_printed(found: Tensor, printed: list[float], digits: int) -> None:
    """Equal up to one unit of the last printed digit."""
    torch.testing.assert_close(found, torch.tensor(printed), atol=1.01 * 10**-digits, rtol=0)


GOLDEN = {
    "base": (
        [-0.22167, 1.11747, 1.56963, 0.87246], [0.99946, 1.01890, 0.70933, -2.02245], 22.9316,
        [-0.06612, 0.69437, -0.33197, -0.20130], 7.8870,
    ),
    "stg": (
        [-0.01411, 1.06313, 1.73773, 0.78525], [0.91876, 1.06459, 0.50452, -2.00571], 23.2594,
        [-0.07826, 0.71605, -0.27831, -0.17102], 7.8851,
    ),
    "isolated": (
        [-0.40696, 0.57606, 1.20749, 1.35404], [1.00378, 0.86184, 0.59844, -1.73588], 21.1924,
        [-0.06672, 0.72626, -0.20016, -0.11759], 7.9568,
    ),
    "one sigma": (
        [0.49222, 0.99239, 1.86723, 1.09757], [0.94917, 0.95464, 0.58830, -1.91854], 24.0579,
        [0.24444, 1.12738, -0.32577, -0.15079], 8.6441,
    ),
}  # fmt: skip
PERTURBATIONS = {"stg": Perturbation.stg([1]), "isolated": Perturbation.isolated()}


@pytest.mark.parametrize("case", GOLDEN)
def test_tiny_model_gives_the_printed_velocities(tiny: Transformer, case: str) -> None:
    video, audio = tiny_video(), tiny_audio()
    if case == "one sigma":
        video.timesteps = torch.full((1, 4), 0.6)
        audio = tiny_audio(sigma=torch.tensor([0.6]), timesteps=torch.full((1, 3), 0.6))
    v, a = tiny(video, audio, perturbation=PERTURBATIONS.get(case))
    first, last, video_sum, audio_first, audio_sum = GOLDEN[case]
    assert_printed(v[0, 0, :4], first, 5)
    assert_printed(v[0, 3, :4], last, 5)
    assert v.abs().sum().item() == pytest.approx(video_sum, abs=1.01e-4)
    assert_printed(a[0, 0, :4], audio_first, 5)
    assert a.abs().sum().item() == pytest.approx(audio_sum, abs=1.01e-4)
