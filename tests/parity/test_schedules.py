"""The LTX2 schedule equals diffusers' flow-match scheduler with the published settings."""

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
