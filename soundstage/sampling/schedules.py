"""Sigma lists: noise levels falling from 1 (pure noise) to 0, one more value than there are steps.

Plain floats, so that a plan can show its sigmas without torch. Numbers are held by
tests/unit/test_schedules.py and, against diffusers' scheduler, by tests/parity/test_schedules.py.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

from soundstage.errors import RequestError, listed

Sigmas = tuple[float, ...]

DISTILLED: Sigmas = (1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875, 0.0)
REFINE: Sigmas = (0.909375, 0.725, 0.421875, 0.0)

# The token-shift line: the logit shift of the LTX2 schedule at two sequence lengths.
BASE_TOKENS, BASE_SHIFT = 1024, 0.95
MAX_TOKENS, MAX_SHIFT = 4096, 2.05
TERMINAL = 0.1

# The logit shift of the table that "beta" picks from, and how finely the table is cut.
BETA_SHIFT, BETA_LEVELS = 2.37, 10_000
# Both parameters of the distribution "beta" follows: more steps near both ends.
BETA = 0.6

NAMES = ("ltx2", "distilled", "linear-quadratic", "linear", "cosine", "beta", "scope-beta")
MAX_LEVELS = 100_000  # of the whole list that a part is taken from


def ltx2(steps: int, num_tokens: int = MAX_TOKENS, *, terminal: float | None = TERMINAL) -> Sigmas:
    """Return the schedule of the dev models: uniform times shifted toward noise for long sequences.

    num_tokens: video tokens. The published one-stage recipes pass none and get 4096 at every size; the
    line is not clamped at either end. terminal: the last value before 0, reached by stretching 1 - sigma
    (None: no stretch).
    Returns steps + 1 values. Source: docs/model/sampling.md, "Schedules".
    """
    _check_steps(steps)
    if steps == 1:  # the stretch would divide 0 by 0
        return (1.0, 0.0)
    slope = (MAX_SHIFT - BASE_SHIFT) / (MAX_TOKENS - BASE_TOKENS)
    shift = math.exp(BASE_SHIFT + (num_tokens - BASE_TOKENS) * slope)
    sigmas = [shift / (shift + (1 / (1 - i / steps) - 1)) for i in range(steps)]
    if terminal is not None:
        stretch = (1 - sigmas[-1]) / (1 - terminal)
        sigmas = [1 - (1 - sigma) / stretch for sigma in sigmas]
    return (*sigmas, 0.0)


def linear_quadratic(steps: int, *, threshold: float = 0.025) -> Sigmas:
    """Fall linearly from 1 to 1 - threshold over half the steps, then quadratically to 0.

    Returns steps + 1 values; 8 steps give `DISTILLED`. Source: the Movie Gen schedule as LTX-2 uses it.
    """
    _check_steps(steps)
    if steps == 1:
        return (1.0, 0.0)
    linear = steps // 2
    quadratic = steps - linear
    bend = linear - threshold * steps
    sigmas = []
    for i in range(steps):
        sigma = 1 - threshold * i / linear
        if i >= linear:
            sigma -= bend * (i - linear) ** 2 / (linear * quadratic**2)
        sigmas.append(sigma)
    return (*sigmas, 0.0)


def linear(steps: int) -> Sigmas:
    """Return equal steps from 1 to 0: steps + 1 values."""
    _check_steps(steps)
    return (*(1 - i / steps for i in range(steps)), 0.0)


def cosine(steps: int) -> Sigmas:
    """Return a quarter of a cosine, slow at first: steps + 1 values."""
    _check_steps(steps)
    return (*(math.cos(math.pi * i / (2 * steps)) for i in range(steps)), 0.0)


def shifted(time: float, shift: float = BETA_SHIFT) -> float:
    """Move a uniform time in (0, 1] toward noise by a logit shift."""
    return math.exp(shift) / (math.exp(shift) + 1 / time - 1)


def beta(steps: int) -> Sigmas:
    """Return times dense near both ends, quantiles of a beta distribution, shifted toward noise.

    Quantiles are rounded to a table of 10000 levels, and a level that comes twice is kept once, so that
    1000 steps give 998 levels. Source: the beta schedule of LTX-2.
    """
    _check_steps(steps)
    quantiles = (beta_quantile(1 - i / steps, BETA, BETA) for i in range(steps))
    chosen = dict.fromkeys(round(quantile * (BETA_LEVELS - 1)) for quantile in quantiles)
    return (*(shifted((index + 1) / BETA_LEVELS) for index in chosen), 0.0)


def scope_beta(steps: int) -> Sigmas:
    """Return the list that Scope calls beta: steps + 1 values, lower than those of `beta`, not shifted.

    Its function is no distribution (it reaches 1 near 0.7), so that half the steps lie under 0.4. It is
    here to repeat Scope's clips; choose `beta` for the published one.
    """
    _check_steps(steps)
    return (*(_bisect(_scope_distribution, 1 - i / steps) for i in range(steps)), 0.0)


def beta_quantile(share: float, a: float, b: float) -> float:
    """Return the x in [0, 1] below which a beta distribution has this share, to 1e-12."""
    return _bisect(lambda x: beta_distribution(x, a, b), share)


def beta_distribution(x: float, a: float, b: float) -> float:
    """Return the share of a beta distribution below x: the regularised incomplete beta function.

    By the power series about 0, which converges like 2^-k up to the middle; beyond it by symmetry.
    Source: DLMF 8.17.7 and 8.17.4.
    """
    if x > 0.5:
        return 1 - beta_distribution(1 - x, b, a)
    scale = math.gamma(a + b) / (math.gamma(a) * math.gamma(b))
    return scale * math.pow(x, a) * (1 / a + _beta_series(x, a, b))


def _scope_distribution(x: float) -> float:
    """Return Scope's series, clamped: it has a factor (1 - x)^(b - 1) more, and 1 in place of 1 / a."""
    if not 0 < x < 1:
        return min(max(x, 0.0), 1.0)
    scale = math.gamma(2 * BETA) / math.gamma(BETA) ** 2
    power = math.pow(x, BETA) * math.pow(1 - x, BETA - 1) / BETA
    value = scale * power * (1 + _beta_series(x, BETA, BETA))
    return min(max(value, 0.0), 1.0)


def _beta_series(x: float, a: float, b: float) -> float:
    """Sum (1 - b)(2 - b)...(k - b) / k! * x^k / (a + k) over k >= 1, to 1e-12 or 199 terms."""
    total, product = 0.0, 1.0
    for k in range(1, 200):
        product *= (k - b) / k * x
        term = product / (a + k)
        total += term
        if abs(term) < 1e-12:
            break
    return total


def _bisect(rising: Callable[[float], float], target: float) -> float:
    """Return the x at which a rising function on [0, 1] reaches a value."""
    if target <= 0 or target >= 1:
        return min(max(target, 0.0), 1.0)
    low, high = 0.0, 1.0
    for _ in range(64):
        middle = (low + high) / 2
        if rising(middle) < target:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def named(name: str, steps: int, *, num_tokens: int = MAX_TOKENS, denoise: float = 1.0) -> Sigmas:
    """Return the list called `name`, one of NAMES (underscores are read as dashes).

    num_tokens: used by "ltx2" only. denoise: below 1, the last `steps` steps of a longer list of
    floor(steps / denoise), which starts from a partly noised clip at full step density; 1 is the whole
    list. Raises RequestError for an unknown name, for a denoise outside (0, 1], or for a step count other
    than 8 with "distilled", which is one fixed list: shorten that by `partial`.
    """
    key = name.replace("_", "-")
    if not 0 < denoise <= 1:
        raise RequestError(
            f"denoise is {denoise:g}; give more than 0 and at most 1, which starts from noise alone",
            field="denoise",
        )
    if key == "distilled":
        return _distilled(steps, denoise)
    makers: dict[str, Callable[[int], Sigmas]] = {
        "ltx2": lambda count: ltx2(count, num_tokens),
        "linear-quadratic": linear_quadratic,
        "linear": linear,
        "cosine": cosine,
        "beta": beta,
        "scope-beta": scope_beta,
    }
    if key not in makers:
        raise RequestError(f"schedule is '{name}'; the schedules are {listed(name, NAMES)}", field="schedule")
    _check_steps(steps)
    if steps > MAX_LEVELS * denoise:
        raise RequestError(
            f"denoise is {denoise:g}, which is too little for {steps} steps; give 0.01 or more",
            field="source",
        )
    full = makers[key](math.floor(steps / denoise + 1e-9))
    return full if denoise == 1 else partial(full, steps)


def _distilled(steps: int, denoise: float) -> Sigmas:
    if steps != len(DISTILLED) - 1:
        raise RequestError(
            f"steps is {steps}, but the distilled schedule has exactly {len(DISTILLED) - 1}; "
            "leave steps out, or choose the schedule 'linear-quadratic'",
            field="steps",
        )
    return DISTILLED if denoise == 1 else partial(DISTILLED, strength=denoise)


def check(sigmas: Sequence[float]) -> Sigmas:
    """Check a caller's own list: at least two values, falling, within (0, 1], and 0 at the end.

    Raises RequestError naming the first rule broken.
    """
    values = tuple(float(sigma) for sigma in sigmas)
    if len(values) < 2:
        raise RequestError(
            f"sigmas has {len(values) or 'no'} value; give at least two, such as 1, 0.5, 0", field="sigmas"
        )
    if not all(a > b for a, b in itertools.pairwise(values)):
        raise RequestError("sigmas must fall from each value to the next; sort them downward", field="sigmas")
    if values[0] > 1 or values[-1] != 0:
        raise RequestError(
            f"sigmas runs from {values[0]:g} to {values[-1]:g}; start at 1 or below and end at 0",
            field="sigmas",
        )
    return values


def partial(full: Sigmas, steps: int | None = None, *, strength: float | None = None) -> Sigmas:
    """Return the end of a list, to denoise a latent that is only partly noised.

    Either the last `steps` steps, or by `strength` in (0, 1] that share of the steps, at least one.
    Raises RequestError for a value outside these, ValueError unless exactly one is given.
    """
    if (steps is None) == (strength is None):
        raise ValueError("give partial either steps or strength")
    count = len(full) - 1
    if strength is not None:
        if not 0 < strength <= 1:
            raise RequestError(
                f"denoise strength is {strength:g}; give more than 0 and at most 1", field="denoise"
            )
        steps = max(1, round(strength * count))
    assert steps is not None
    if not 1 <= steps <= count:
        raise RequestError(
            f"steps is {steps}, but the schedule has {count}; choose between 1 and that",
            field="steps",
        )
    return full[-(steps + 1) :]


def _check_steps(steps: int) -> None:
    if steps < 1:
        raise RequestError(f"steps is {steps}; give at least 1", field="steps")
