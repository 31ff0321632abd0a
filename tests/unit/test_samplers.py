"""Samplers against the published vectors and the rounding rules, and what all of them have in common."""

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor

from soundstage.errors import RequestError
from soundstage.fields.describe import field_help, field_names
from soundstage.sampling import sampler_info, schedules
from soundstage.sampling.denoise import denoise
from soundstage.sampling.samplers import (
    SAMPLERS,
    ErSde,
    Euler,
    EulerAncestral,
    EulerCfgPlusPlus,
    GradientEstimation,
    Moment,
    Past,
    Res2s,
    Sampler,
    euler,
    sampler_named,
)
from soundstage.sampling.scales import Scales
from soundstage.sampling.schedules import DISTILLED, REFINE
from soundstage.sampling.streams import Stream

# --- published vectors -----------------------------------------------------------------------------


def toy(x: Tensor, sigma: float) -> Tensor:
    return torch.tanh(0.7 * x) * (1 - 0.3 * sigma) + 0.1


def toy_negative(x: Tensor) -> Tensor:
    return 0.5 * torch.tanh(0.7 * x)


def walked(sampler: Sampler, sigmas: tuple[float, ...], noise: float = 0.0) -> float:
    """The published scalar run: one value from 0.8 down the list, every draw the same constant."""
    x = torch.full((1, 1, 1), 0.8, dtype=torch.float64)
    past: list[Past] = []
    for sigma, sigma_next in itertools.pairwise(sampler.levels(sigmas)):
        denoised = (toy(x, sigma), None)
        moment = Moment(
            x=(x, None),
            denoised=denoised,
            sigma=sigma,
            sigma_next=sigma_next,
            predict=lambda pair, level: (toy(pair[0], level), None),
            noise=lambda purpose: (torch.full((1, 1, 1), noise, dtype=torch.float64), None),
            blend=lambda pair: pair,
            past=tuple(past),
            unconditional=(toy_negative(x), None),
        )
        past.insert(0, Past(sigma, (x, None), denoised))
        x = sampler.step(moment)[0]
    return x.item()


@pytest.mark.parametrize(
    ("sampler", "noise", "eight", "refine"),
    [
        (Euler(), 0.0, 0.447776075, 0.458391712),
        (EulerAncestral(), 0.0, 0.155685490, 0.271799081),
        (EulerAncestral(), 0.5, 0.482554472, 0.460112619),
        (EulerAncestral(eta=0.5), 0.5, 0.566816773, 0.503237870),
        (GradientEstimation(), 0.0, 0.447937807, 0.458436742),
        (EulerCfgPlusPlus(), 0.0, 0.476659893, 0.483221128),
        (EulerCfgPlusPlus(eta=1.0), 0.5, 0.411800485, 0.417966978),
        (Res2s(), 0.0, 0.280353290, 0.334553888),
        (Res2s(), 0.5, 0.415664919, 0.389367618),
        (ErSde(stages=1), 0.0, 0.139940995, None),
        (ErSde(stages=2), 0.0, 0.140541292, None),
        (ErSde(stages=3), 0.0, 0.140573434, 0.391627266),
    ],
    ids=str,
)
def test_every_sampler_reaches_the_published_value(
    sampler: Sampler, noise: float, eight: float, refine: float | None
) -> None:
    assert walked(sampler, DISTILLED, noise) == pytest.approx(eight, abs=2e-9)
    if refine is not None:
        assert walked(sampler, REFINE, noise) == pytest.approx(refine, abs=2e-9)


@pytest.mark.parametrize(
    ("sampler", "golden"),
    [
        (Euler(), [0.5909, -0.6565]),
        (EulerAncestral(), [0.5484, -0.3551]),
        (EulerAncestral(eta=0.5), [0.6134, -0.5091]),
        (EulerCfgPlusPlus(eta=1.0), [0.4961, -0.2501]),
        (EulerCfgPlusPlus(), [0.6070, -0.6885]),
    ],
    ids=str,
)
def test_one_step_gives_the_published_numbers(sampler: Sampler, golden: list[float]) -> None:
    def pair(*values: float) -> tuple[Tensor, None]:
        return torch.tensor(values, dtype=torch.float64).view(1, 2, 1), None

    moment = Moment(
        x=pair(0.8, -1.2),
        denoised=pair(0.3, 0.1),
        sigma=0.725,
        sigma_next=0.421875,
        predict=lambda *_: pytest.fail("one prediction is enough"),
        noise=lambda _: pair(0.5, -0.25),
        blend=lambda values: values,
        unconditional=pair(0.2, 0.3),
    )
    video, audio = sampler.step(moment)
    assert audio is None
    assert video.flatten().tolist() == pytest.approx(golden, abs=5e-5)


def test_without_fresh_noise_ancestral_and_cfg_plus_plus_are_euler() -> None:
    assert walked(EulerAncestral(eta=0), DISTILLED, 9.0) == pytest.approx(
        walked(Euler(), DISTILLED), abs=1e-12
    )
    assert walked(GradientEstimation(gamma=1), REFINE) == pytest.approx(walked(Euler(), REFINE), abs=1e-12)


# --- Euler's rounding ------------------------------------------------------------------------------


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


# --- in the loop -----------------------------------------------------------------------------------


class Halving:
    """A denoiser that halves what it sees and counts its calls; it shows a third as the negative's."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, int]] = []
        self.unconditional: tuple[Tensor | None, Tensor | None] = (None, None)

    def __call__(self, video, audio, sigma, step):  # type: ignore[no-untyped-def]
        self.calls.append((float(sigma), step))
        self.unconditional = tuple(None if x is None else x / 3 for x in (video, audio))
        return tuple(None if x is None else x / 2 for x in (video, audio))


def generator(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def stream(tokens: int, *, dtype: torch.dtype = torch.float32, **options: object) -> Stream:
    fresh = Stream.fresh(torch.zeros(1, 1, tokens, 2), width=4, batch=2, dtype=dtype)
    return Stream(**{**vars(fresh), **options})  # type: ignore[arg-type]


def kept_stream(dtype: torch.dtype) -> Stream:
    """Six tokens: two kept, one half kept, three made."""
    clean = torch.randn(2, 6, 4, generator=generator(1)).to(dtype)
    mask = torch.tensor([0.0, 0.0, 0.5, 1.0, 1.0, 1.0]).view(1, 6, 1).expand(2, 6, 1)
    return stream(6, dtype=dtype, clean=clean, mask=mask)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kept_tokens_stay_bit_for_bit_with_every_sampler(name: str, dtype: torch.dtype) -> None:
    video = kept_stream(dtype)
    frozen = stream(3, dtype=dtype, clean=torch.full((2, 3, 4), 0.3).to(dtype), frozen=True)
    for state in denoise(Halving(), video, frozen, DISTILLED, generator(), sampler=SAMPLERS[name]):
        assert state.video is not None
        assert state.video.dtype == state.clean_video.dtype == dtype
        assert torch.equal(state.video[:, :2], video.clean[:, :2])
        assert torch.equal(state.audio, frozen.clean)
        assert torch.isfinite(state.video).all()
    assert state.sigma_next == 0
    assert not torch.equal(state.video[:, 3:], video.clean[:, 3:])


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_same_seed_gives_the_same_bits_and_another_noise_seed_does_not(name: str) -> None:
    def run(**options: int) -> tuple[Tensor, Tensor]:
        options.setdefault("noise_seed", 3)
        states = denoise(
            Halving(), stream(6), stream(3), DISTILLED, generator(), sampler=SAMPLERS[name], **options
        )
        *_, last = states
        return last.video, last.audio

    for a, b in zip(run(), run(), strict=True):
        assert torch.equal(a, b)
    if sampler_info.SAMPLER_INFO[name].stochastic and name != "res2s":
        assert not torch.equal(run()[0], run(noise_seed=4)[0])
    else:  # nothing drawn, or the published fixed seed
        assert torch.equal(run()[0], run(noise_seed=4)[0])


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("sigmas", [DISTILLED, REFINE])
def test_the_facts_say_which_predictions_a_sampler_makes(name: str, sigmas: tuple[float, ...]) -> None:
    counting = Halving()
    list(denoise(counting, stream(6), None, sigmas, generator(), sampler=SAMPLERS[name]))
    said = sampler_info.predictions(name, sigmas)
    assert counting.calls == [(torch.tensor(sigma).item(), step) for sigma, step in said]


def test_facts_and_samplers_have_the_same_names() -> None:
    assert list(sampler_info.SAMPLER_INFO) == list(SAMPLERS)
    for name, sampler in SAMPLERS.items():
        assert sampler_info.SAMPLER_INFO[name].needs_negative == sampler.needs_unconditional


def test_ancestral_noise_is_drawn_video_first_from_its_own_seed() -> None:
    """The slow, obvious version of the first step."""
    states = denoise(Halving(), stream(6), stream(3), DISTILLED, generator(), sampler=EulerAncestral())
    first = next(states)
    start, own = generator(), generator(3 + 10_000)
    x = [torch.randn(2, n, 4, generator=start) for n in (6, 3)]
    noise = [torch.randn(2, n, 4, generator=own) for n in (6, 3)]
    down, alpha, spread = 0.987539, 0.501567, 0.861510  # the published coefficients of this step
    for found, a, n in zip((first.video, first.audio), x, noise, strict=True):
        expected = alpha * (down * a + (1 - down) * a / 2) + spread * n
        assert torch.allclose(found, expected, atol=1e-5)


def test_res2s_predicts_twice_a_step_between_the_levels() -> None:
    counting = Halving()
    list(denoise(counting, stream(6), None, REFINE, generator(), sampler=Res2s()))
    middle = [(0.909375 * 0.725) ** 0.5, (0.725 * 0.421875) ** 0.5, (0.421875 * 0.0011) ** 0.5]
    expected = [0.909375, middle[0], 0.725, middle[1], 0.421875, middle[2], 0.0011]
    assert [sigma for sigma, _ in counting.calls] == pytest.approx(expected, abs=1e-6)
    assert [step for _, step in counting.calls] == [0, 0, 1, 0, 2, 0, 3]


def test_res2s_noise_has_no_mean_and_unit_deviation_in_each_sample() -> None:
    noise = Res2s().draw(torch.zeros(2, 40, 8), generator())
    assert noise.dtype == torch.float64
    assert noise.mean(dim=(-2, -1)).abs().max() < 1e-12
    assert noise.std(dim=(-2, -1)).tolist() == pytest.approx([1, 1], abs=1e-12)


def test_res2s_adds_the_published_noise_whatever_the_seed_of_the_run() -> None:
    fixed, following = Res2s(), Res2s(seed=None)
    assert [fixed.noise_seed(7, purpose) for purpose in ("step", "substep")] == [-1, 9999]
    assert [following.noise_seed(7, purpose) for purpose in ("step", "substep")] == [10_007, 20_007]


def test_er_sde_starts_just_below_pure_noise() -> None:
    assert ErSde().levels(DISTILLED)[0] == pytest.approx(0.99999065, abs=1e-8)
    assert ErSde().levels(REFINE) == REFINE


def test_cfg_plus_plus_refuses_a_denoiser_without_a_negative_prediction() -> None:
    def plain(video, audio, sigma, step):  # type: ignore[no-untyped-def]
        return video, audio

    with pytest.raises(ValueError, match="negative prompt's own prediction"):
        next(denoise(plain, stream(2), None, REFINE, generator(), sampler=EulerCfgPlusPlus()))


def test_names_of_other_tools_are_understood() -> None:
    assert sampler_named("res_2s") is SAMPLERS["res2s"]
    assert sampler_named("euler_ancestral_cfg_pp") is SAMPLERS["euler-ancestral-cfg-pp"]
    assert sampler_named("ER_SDE") is SAMPLERS["er-sde"]
    with pytest.raises(RequestError, match="the samplers are euler, euler-ancestral") as caught:
        sampler_named("dpmpp_2m")
    assert caught.value.field == "sampler"


def test_the_page_on_sampling_lists_every_sampler_schedule_and_scale_with_its_range() -> None:
    page = (Path(__file__).parents[2] / "docs" / "sampling.md").read_text()
    rows = {line.split("|")[1].strip(): line for line in page.splitlines() if line.startswith("|")}
    for name in (*SAMPLERS, *schedules.NAMES):
        assert f"`{name}`" in rows, name
    for name in field_names(Scales):
        row = next(line for first, line in rows.items() if f"`{name}`" in first)
        assert f"| {field_help(Scales, name).range.removeprefix('from ')}" in row, name
