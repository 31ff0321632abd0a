"""The LTX2 schedule equals diffusers' flow-match scheduler, and beta quantiles equal scipy's."""

import numpy as np
import pytest

from soundstage.sampling import schedules


@pytest.mark.parametrize("steps", [2, 8, 15, 30, 40])
@pytest.mark.parametrize("tokens", [24, 1024, 2640, 4096, 8160])
def test_ltx2_equals_diffusers(steps: int, tokens: int) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, shift_terminal=schedules.TERMINAL, time_shift_type="exponential"
    )
    shift = 0.95 + (tokens - 1024) * (2.05 - 0.95) / (4096 - 1024)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=shift)
    assert schedules.ltx2(steps, tokens) == pytest.approx(scheduler.sigmas.tolist(), abs=5e-7)


def test_distilled_list_passes_diffusers_unwarped() -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=False, shift_terminal=None)
    scheduler.set_timesteps(sigmas=list(schedules.DISTILLED[:-1]))
    assert scheduler.sigmas.tolist() == pytest.approx(schedules.DISTILLED, abs=1e-7)


@pytest.mark.parametrize(("a", "b"), [(0.6, 0.6), (2.0, 5.0), (0.3, 1.7)])
def test_beta_quantiles_equal_scipy(a: float, b: float) -> None:
    from scipy.stats import beta

    shares = np.linspace(0, 1, 41)
    found = [schedules.beta_quantile(float(share), a, b) for share in shares]
    assert found == pytest.approx(beta.ppf(shares, a, b).tolist(), abs=1e-11)


@pytest.mark.parametrize("steps", [3, 8, 20, 30])
def test_beta_picks_the_levels_scipy_picks(steps: int) -> None:
    from scipy.stats import beta

    quantiles = beta.ppf(1 - np.arange(steps) / steps, 0.6, 0.6)
    times = (np.rint(quantiles * 9999) + 1) / 10000
    shift = np.exp(2.37)
    assert schedules.beta(steps)[:-1] == pytest.approx((shift / (shift + 1 / times - 1)).tolist(), abs=1e-12)
