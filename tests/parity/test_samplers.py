"""Samplers and guidance give the numbers of diffusers, which has its own schedulers and guiders for LTX-2."""

import itertools

import pytest
import torch
from torch import Tensor

from soundstage.sampling.combine import RunningPull, combine
from soundstage.sampling.denoise import denoise
from soundstage.sampling.samplers import Euler, EulerAncestral, Sampler
from soundstage.sampling.scales import Scales
from soundstage.sampling.schedules import DISTILLED, REFINE
from soundstage.sampling.streams import Stream

torch.manual_seed(0)
C, U, T, M = torch.randn(4, 3, 20, 8)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def run(sampler: Sampler, sigmas: tuple[float, ...], noise_seed: int) -> Tensor:
    """A run of one stream whose prediction is a fixed function of its latents."""

    def denoiser(video, audio, sigma, step):  # type: ignore[no-untyped-def]
        return torch.tanh(video) * (1 - 0.3 * sigma), None

    stream = Stream.fresh(torch.zeros(1, 1, 6, 2), width=4, dtype=torch.float32)
    *_, last = denoise(denoiser, stream, None, sigmas, generator(5), sampler=sampler, noise_seed=noise_seed)
    assert last.video is not None
    return last.video


def reference_run(scheduler, sigmas: tuple[float, ...], step_noise: torch.Generator) -> Tensor:  # type: ignore[no-untyped-def]
    appends_zero = type(scheduler).__name__.startswith("FlowMatch")
    scheduler.set_timesteps(sigmas=list(sigmas[:-1] if appends_zero else sigmas))
    assert scheduler.sigmas.tolist() == pytest.approx(sigmas, abs=1e-7)
    x = sigmas[0] * torch.randn(1, 6, 4, generator=generator(5))
    for t, (sigma, _) in zip(scheduler.timesteps, itertools.pairwise(sigmas), strict=False):
        velocity = (x - torch.tanh(x) * (1 - 0.3 * sigma)) / sigma
        x = scheduler.step(velocity, t, x, generator=step_noise, return_dict=False)[0]
    return x


@pytest.mark.parametrize("sigmas", [DISTILLED, REFINE])
def test_euler_equals_diffusers(sigmas: tuple[float, ...]) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=False, shift_terminal=None)
    torch.testing.assert_close(
        run(Euler(), sigmas, 0), reference_run(scheduler, sigmas, generator(0)), atol=2e-6, rtol=1e-5
    )


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("sigmas", [DISTILLED, REFINE])
def test_euler_ancestral_equals_diffusers(sigmas: tuple[float, ...], eta: float) -> None:
    """The noise of the steps comes from a generator of its own, 10000 past the seed of the noise."""
    from diffusers import LTXEulerAncestralRFScheduler

    scheduler = LTXEulerAncestralRFScheduler(eta=eta)
    found = run(EulerAncestral(eta=eta), sigmas, 7)
    torch.testing.assert_close(
        found, reference_run(scheduler, sigmas, generator(10_007)), atol=1e-5, rtol=1e-4
    )


def test_projected_guidance_equals_diffusers_over_several_steps() -> None:
    """Their scale in the original formulation is our cfg - 1."""
    from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer, normalized_guidance

    scales = Scales(cfg=4, apg_eta=0.3, apg_norm=15.0, apg_momentum=-0.5)
    running, buffer = RunningPull(), MomentumBuffer(-0.5)
    for step in range(3):
        c, u = C * (1 + step), U - step
        theirs = normalized_guidance(
            c,
            u,
            guidance_scale=3.0,
            momentum_buffer=buffer,
            eta=0.3,
            norm_threshold=15.0,
            use_original_formulation=True,
        )
        torch.testing.assert_close(
            combine(scales, c, uncond=u, running=running), theirs, atol=1e-5, rtol=1e-5
        )


def test_zero_star_equals_diffusers() -> None:
    from diffusers import ClassifierFreeZeroStarGuidance

    guider = ClassifierFreeZeroStarGuidance(guidance_scale=3.0, zero_init_steps=0)
    guider._step = 1
    guider._num_inference_steps = 8
    theirs = guider.forward(C, U).pred
    torch.testing.assert_close(
        combine(Scales(cfg=3, cfg_star=True), C, uncond=U), theirs, atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("rescale", [0.0, 0.7])
def test_the_multi_modal_combination_equals_diffusers(rescale: float) -> None:
    ltx2 = pytest.importorskip("diffusers.guiders.ltx2_guidance", reason="a diffusers without LTX-2 guidance")
    guider = ltx2.LTX2Guidance(
        guidance_scale=3.0, stg_scale=1.0, modality_scale=2.5, guidance_rescale=rescale
    )
    theirs = guider.forward(C, U, T, M).pred
    scales = Scales(cfg=3, stg=1, modality=2.5, rescale=rescale)
    ours = combine(scales, C, uncond=U, perturbed=T, isolated=M)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
