"""Steppers against the published vectors and the rounding rules."""

import itertools

import pytest
import torch

from soundstage.sampling.samplers import euler
from soundstage.sampling.schedules import DISTILLED, REFINE


def toy(x: torch.Tensor, sigma: float) -> torch.Tensor:
    return torch.tanh(0.7 * x) * (1 - 0.3 * sigma) + 0.1


@pytest.mark.parametrize(("sigmas", "golden"), [(DISTILLED, 0.447776075), (REFINE, 0.458391712)])
def test_euler_reaches_the_published_value(sigmas: tuple[float, ...], golden: float) -> None:
    x = torch.tensor(0.8, dtype=torch.float64)
    for sigma, sigma_next in itertools.pairwise(sigmas):
        x = euler(x, toy(x, sigma), sigma, sigma_next)
    assert x.item() == pytest.approx(golden, abs=5e-10)


def test_one_euler_step() -> None:
    x = euler(torch.tensor([0.8, -1.2]), torch.tensor([0.3, 0.1]), 0.725, 0.421875)
    assert x.tolist() == pytest.approx([0.5909, -0.6565], abs=5e-5)


def test_bfloat16_rounds_the_slope_and_the_result() -> None:
    torch.manual_seed(0)
    x, clean = torch.randn(2, 4096).bfloat16()
    sigma, sigma_next = torch.tensor(0.725), torch.tensor(0.421875)
    slope = ((x.float() - clean.float()) / sigma).bfloat16()
    expected = (x.float() + slope.float() * (sigma_next - sigma)).bfloat16()
    got = euler(x, clean, sigma, sigma_next)
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, expected)
    once = (x.float() + (x.float() - clean.float()) / sigma * (sigma_next - sigma)).bfloat16()
    assert not torch.equal(got, once)  # the slope's own rounding shows


def test_the_last_step_gives_the_prediction() -> None:
    clean = torch.randn(64, dtype=torch.float64)
    assert torch.allclose(euler(torch.randn(64, dtype=torch.float64), clean, 0.4, 0.0), clean, atol=1e-14)


def test_sigma_zero_is_an_error() -> None:
    with pytest.raises(ValueError, match="sigma 0"):
        euler(torch.zeros(1), torch.zeros(1), 0.0, 0.0)
