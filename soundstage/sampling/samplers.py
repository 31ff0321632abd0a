"""Samplers: from one noise level to the next, given the prediction of the clean latents.

A sampler is a frozen record of settings with one method, `step`. All that a step may use (the prediction, a
second one, fresh noise, earlier steps) comes in a `Moment`, so a sampler keeps no state.

D is the guided, mask-blended prediction, n standard normal noise. Coefficients are Python floats, computed
from the list and not from rounded tensors.
Source: docs/model/sampling.md, "Samplers"; numbers held by tests/unit/test_samplers.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from soundstage.sampling.sampler_info import SAMPLER_INFO, sampler_key
from soundstage.sampling.streams import Pair

ER_SDE_POINTS = 200
# The seed of a sampler's own noise lies this far from the seed of the start.
NOISE_SEED_OFFSET = 10_000


@dataclass(frozen=True)
class Past:
    """Hold an earlier step: its latents at the start and its blended prediction."""

    sigma: float
    x: Pair
    denoised: Pair


@dataclass(frozen=True)
class Moment:
    """Hold the inputs of one step of both streams; a tensor is None for an absent stream.

    x, denoised: (B, N, D). sigma, sigma_next: levels of the list. past: earlier steps, the newest first.
    predict: another blended prediction, of latents at a level. noise: standard normal noise for a purpose
    ("step", "substep"), in the sampler's own form, for one level after the other. blend: kept tokens put
    back. unconditional: the blended prediction of the negative prompt, if the sampler needs it.
    """

    x: Pair
    denoised: Pair
    sigma: float
    sigma_next: float
    predict: Callable[[Pair, float], Pair]
    noise: Callable[[str], Pair]
    blend: Callable[[Pair], Pair]
    past: Sequence[Past] = ()
    unconditional: Pair | None = None


class Sampler(Protocol):
    """Take steps from level to level.

    wide: predictions are blended in float32 and not rounded before the step. needs_unconditional: the
    negative prompt's own prediction is made at every step."""

    wide: ClassVar[bool]
    needs_unconditional: ClassVar[bool]

    def levels(self, sigmas: Sequence[float]) -> tuple[float, ...]:
        """Return the levels that are stepped through, for a list as the caller gave it."""
        ...

    def noise_seed(self, seed: int, purpose: str) -> int:
        """Return the seed of the noise for a purpose, in a run that starts from this seed."""
        ...

    def draw(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """Draw one stream's noise."""
        ...

    def step(self, now: Moment) -> Pair:
        """Return latents at `now.sigma_next`, in the dtype of `now.x`."""
        ...


class _Plain:
    """Give a sampler its defaults: the list as it is, noise as it is drawn."""

    wide: ClassVar[bool] = True
    needs_unconditional: ClassVar[bool] = False

    def levels(self, sigmas: Sequence[float]) -> tuple[float, ...]:
        return tuple(sigmas)

    def noise_seed(self, seed: int, purpose: str) -> int:
        return seed + NOISE_SEED_OFFSET

    def draw(self, like: Tensor, generator: torch.Generator) -> Tensor:
        return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)


def each(function: Callable[..., Tensor], *pairs: Pair) -> Pair:
    """Apply a function of one stream's tensors to both streams; an absent stream stays absent."""
    made = [
        None if any(x is None for x in tensors) else function(*tensors)
        for tensors in zip(*pairs, strict=True)
    ]
    return made[0], made[1]


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _added(x: Pair, factor: float, other: Pair) -> Pair:
    return each(lambda a, b: a + factor * _wide(b), x, other)


def _as(like: Pair, values: Pair) -> Pair:
    """Return values in the dtypes of `like`."""
    return each(lambda a, b: b.to(a.dtype), like, values)


def euler(x: Tensor, denoised: Tensor, sigma: Tensor | float, sigma_next: Tensor | float) -> Tensor:
    """Return x + (x - D) / sigma * (sigma_next - sigma).

    The arithmetic is float32 (or wider), but the slope is rounded to x's dtype before it is used: the
    published trajectories in bfloat16 carry both roundings. Raises ValueError at sigma 0, where the
    slope is not defined.
    """
    if sigma == 0:
        raise ValueError("an Euler step cannot start at sigma 0: the list must end there")
    slope = ((_wide(x) - _wide(denoised)) / sigma).to(x.dtype)
    return (_wide(x) + _wide(slope) * (sigma_next - sigma)).to(x.dtype)


@dataclass(frozen=True)
class Euler(_Plain):
    """Step straight along the slope at the start of a step; the published default."""

    wide: ClassVar[bool] = False

    def step(self, now: Moment) -> Pair:
        def one(x: Tensor, denoised: Tensor) -> Tensor:
            # levels are float32 tensors, as the published loop has them: it shows in the last bit
            wide = torch.promote_types(x.dtype, torch.float32)
            sigma, sigma_next = torch.tensor([now.sigma, now.sigma_next], dtype=wide)
            return euler(x, denoised, sigma, sigma_next)

        return each(one, now.x, now.denoised)


@dataclass(frozen=True)
class EulerAncestral(_Plain):
    """Step below the next level and add fresh noise, in the form for rectified flows.

    eta: 0 (plain Euler) to 1. s_noise: factor of the noise.
    """

    eta: float = 1.0
    s_noise: float = 1.0

    def step(self, now: Moment) -> Pair:
        if now.sigma_next == 0:
            return _as(now.x, now.denoised)
        down = now.sigma_next * (1 + (now.sigma_next / now.sigma - 1) * self.eta)
        ratio = down / now.sigma
        moved = each(lambda x, d: ratio * _wide(x) + (1 - ratio) * _wide(d), now.x, now.denoised)
        if self.eta > 0:
            scale = (1 - now.sigma_next) / (1 - down)
            spread = self.s_noise * math.sqrt(max(0.0, now.sigma_next**2 - (down * scale) ** 2))
            moved = _added(each(lambda x: scale * x, moved), spread, now.noise("step"))
        return _as(now.x, now.blend(moved))


@dataclass(frozen=True)
class GradientEstimation(_Plain):
    """Step as Euler, with the slope carried on by its change since the last step; gamma 1 is Euler."""

    gamma: float = 2.0

    def step(self, now: Moment) -> Pair:
        if now.sigma_next == 0:
            return _as(now.x, now.denoised)
        slope = _slope(now.x, now.denoised, now.sigma)
        if now.past:
            last = now.past[0]
            before = _slope(last.x, last.denoised, last.sigma)
            slope = each(lambda new, old: old + self.gamma * (new - old), slope, before)
        length = now.sigma_next - now.sigma
        return _as(now.x, each(lambda x, v: _wide(x) + v * length, now.x, slope))


def _slope(x: Pair, denoised: Pair, sigma: float) -> Pair:
    return each(lambda a, d: (_wide(a) - _wide(d)) / sigma, x, denoised)


@dataclass(frozen=True)
class ErSde(_Plain):
    """Step by the extended reverse-time SDE solver, in terms of lambda = sigma / (1 - sigma).

    stages: 1 uses this step's prediction, 2 and 3 also the change of predictions over the last one and two
    steps. s_noise: factor of the noise.
    """

    stages: int = 3
    s_noise: float = 1.0

    def levels(self, sigmas: Sequence[float]) -> tuple[float, ...]:
        return SAMPLER_INFO["er-sde"].levels(sigmas)

    def step(self, now: Moment) -> Pair:
        if now.sigma_next == 0:
            return _as(now.x, now.denoised)
        here, there = _lambda(now.sigma), _lambda(now.sigma_next)
        alpha_here, alpha = 1 - now.sigma, 1 - now.sigma_next
        ratio = _er_scale(there) / _er_scale(here)
        keep = alpha / alpha_here * ratio
        x = each(lambda a, d: keep * _wide(a) + alpha * (1 - ratio) * _wide(d), now.x, now.denoised)
        for factor, derivative in self._bends(now, here, there):
            x = _added(x, alpha * factor, derivative)
        spread = alpha * self.s_noise * math.sqrt(max(0.0, there**2 - (here * ratio) ** 2))
        return _as(now.x, now.blend(_added(x, spread, now.noise("step"))))

    def _bends(self, now: Moment, here: float, there: float) -> list[tuple[float, Pair]]:
        """Return (factor, derivative of the prediction) of the second and third stage, if possible."""
        if self.stages < 2 or not now.past:
            return []
        levels = [here, *(_lambda(past.sigma) for past in now.past[:2])]
        predictions = [now.denoised, *(past.denoised for past in now.past[:2])]
        first = [
            _divided(predictions[i], predictions[i + 1], levels[i] - levels[i + 1])
            for i in range(len(levels) - 1)
        ]
        gap = there - here
        points = [there - i * gap / ER_SDE_POINTS for i in range(ER_SDE_POINTS)]
        width, scale = -gap / ER_SDE_POINTS, _er_scale(there)
        flat = sum(width / _er_scale(p) for p in points)
        bends = [(gap + flat * scale, first[0])]
        if self.stages > 2 and len(first) > 1:
            tilted = sum(width * (p - here) / _er_scale(p) for p in points)
            second = _divided(first[0], first[1], (levels[0] - levels[2]) / 2)
            bends.append((gap**2 / 2 + tilted * scale, second))
        return bends


def _lambda(sigma: float) -> float:
    return sigma / (1 - sigma)


def _er_scale(noise: float) -> float:
    """Return the noise scaling function of the solver's authors."""
    return noise * (math.exp(noise**0.3) + 10)


def _divided(new: Pair, old: Pair, gap: float) -> Pair:
    return each(lambda a, b: (_wide(a) - _wide(b)) / gap, new, old)


@dataclass(frozen=True)
class Res2s(_Plain):
    """Take second-order exponential steps with noise, two predictions each, in float64.

    eta: the share of each level that is fresh noise, 0 to 1. seed: seed of that noise. The published value
    is fixed, so that all runs and passes add the same noise; None is the seed of the run.
    The last level is replaced by 0.0011 and 0: one more prediction from there is the result.
    """

    eta: float = 0.5
    seed: int | None = -1

    wide: ClassVar[bool] = False

    def levels(self, sigmas: Sequence[float]) -> tuple[float, ...]:
        return SAMPLER_INFO["res2s"].levels(sigmas)

    def noise_seed(self, seed: int, purpose: str) -> int:
        first = seed + NOISE_SEED_OFFSET if self.seed is None else self.seed
        return first + NOISE_SEED_OFFSET if purpose == "substep" else first

    def draw(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """Draw float64 noise of mean 0 and deviation 1, over all and then over each sample."""
        noise = torch.randn(like.shape, generator=generator, dtype=torch.float64, device=like.device)
        noise = (noise - noise.mean()) / noise.std()
        return (noise - noise.mean(dim=(-2, -1), keepdim=True)) / noise.std(dim=(-2, -1), keepdim=True)

    def step(self, now: Moment) -> Pair:
        if now.sigma_next == 0:
            return _as(now.x, now.denoised)
        h = math.log(now.sigma / now.sigma_next)
        half = 0.5 * _phi1(-h / 2)
        second = 2 * _phi2(-h)
        first = _phi1(-h) - second
        middle = math.sqrt(now.sigma * now.sigma_next)
        anchor = each(Tensor.double, now.x)
        denoised = each(Tensor.double, now.denoised)
        slope = each(torch.sub, denoised, anchor)
        x = each(lambda a, e: a + h * half * e, anchor, slope)
        x = self._noised(now, anchor, x, middle, "substep")
        if h < 0.5 and now.sigma > 0.03:
            # where the published loop, 100 rounds of anchor = x - h * half * (D - anchor), settles
            anchor = each(lambda a, d: (a - h * half * d) / (1 - h * half), x, denoised)
            slope = each(torch.sub, denoised, anchor)
        again = each(Tensor.double, now.predict(_as(now.x, x), middle))
        slope2 = each(torch.sub, again, anchor)
        x = each(lambda a, e1, e2: a + h * (first * e1 + second * e2), anchor, slope, slope2)
        return _as(now.x, self._noised(now, anchor, x, now.sigma_next, "step"))

    def _noised(self, now: Moment, anchor: Pair, x: Pair, level: float, purpose: str) -> Pair:
        """Make a share of the noise fresh in a step from anchor (at now.sigma) to x (at level)."""
        fresh = min(level * self.eta, 0.9999 * level)
        if fresh == 0:
            return x
        kept = math.sqrt(level**2 - fresh**2)
        alpha = 1 - level + kept
        gap, sigma = now.sigma - level, now.sigma

        def one(a: Tensor, y: Tensor, noise: Tensor) -> Tensor:
            slope = (a - y) / gap
            return alpha * (a - sigma * slope + kept / alpha * slope) + fresh * noise.double()

        return now.blend(each(one, anchor, x, now.noise(purpose)))


def _phi1(z: float) -> float:
    return math.expm1(z) / z if abs(z) >= 1e-10 else 1.0


def _phi2(z: float) -> float:
    return (math.expm1(z) - z) / z**2 if abs(z) >= 1e-10 else 0.5


@dataclass(frozen=True)
class EulerCfgPlusPlus(_Plain):
    """Step by CFG++: from the guided prediction and the noise that the negative prompt predicts.

    eta: 0 is deterministic ("euler-cfg-pp"), 1 ancestral. s_noise: factor of the noise. With
    the same prediction for both prompts and eta 0 it is plain Euler.
    """

    eta: float = 0.0
    s_noise: float = 1.0

    needs_unconditional: ClassVar[bool] = True

    def step(self, now: Moment) -> Pair:
        if now.sigma_next == 0:
            return _as(now.x, now.denoised)
        assert now.unconditional is not None
        alpha, alpha_next = (max(1 - level, 2.0**-23) for level in (now.sigma, now.sigma_next))
        noise, noise_next = now.sigma / alpha, now.sigma_next / alpha_next
        up = noise_next * math.sqrt(max(0.0, noise**2 - noise_next**2)) / noise
        up = min(noise_next, self.eta * up)
        down = math.sqrt(noise_next**2 - up**2)

        def one(x: Tensor, denoised: Tensor, negative: Tensor) -> Tensor:
            slope = (_wide(x) - alpha * _wide(negative)) / now.sigma
            return alpha_next * (_wide(denoised) + down * slope)

        moved = each(one, now.x, now.denoised, now.unconditional)
        if up > 0:
            moved = _added(moved, alpha_next * self.s_noise * up, now.noise("step"))
        return _as(now.x, now.blend(moved))


SAMPLERS: dict[str, Sampler] = {
    "euler": Euler(),
    "euler-ancestral": EulerAncestral(),
    "res2s": Res2s(),
    "er-sde": ErSde(),
    "gradient-estimation": GradientEstimation(),
    "euler-cfg-pp": EulerCfgPlusPlus(),
    "euler-ancestral-cfg-pp": EulerCfgPlusPlus(eta=1.0),
}


def sampler_named(name: str) -> Sampler:
    """Return a sampler with its published settings. Raises RequestError listing the samplers."""
    return SAMPLERS[sampler_key(name)]
