"""Sigma lists: noise levels falling from 1 (pure noise) to 0, one more value than there are steps.

Plain floats, so that a plan can show its sigmas without torch. Numbers are held by
tests/unit/test_schedules.py and, against diffusers' scheduler, by tests/parity/test_schedules.py.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from soundstage.errors import RequestError

Sigmas = tuple[float, ...]

DISTILLED: Sigmas = (1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875, 0.0)
REFINE: Sigmas = (0.909375, 0.725, 0.421875, 0.0)

# The token-shift line: the logit shift of the LTX2 schedule at two sequence lengths.
BASE_TOKENS, BASE_SHIFT = 1024, 0.95
MAX_TOKENS, MAX_SHIFT = 4096, 2.05
TERMINAL = 0.1

NAMES = ("ltx2", "distilled", "linear-quadratic")


def ltx2(steps: int, num_tokens: int = MAX_TOKENS, *, terminal: float | None = TERMINAL) -> Sigmas:
    """The schedule of the dev models: uniform times shifted toward noise for long sequences.

    num_tokens: video tokens. The published one-stage recipes pass none and get 4096 at every size; the
    line is not clamped at either end. terminal: the last value before 0, reached by stretching 1 - sigma
    (None: no stretch).
    Returns steps + 1 values. Source: LTX-2 token-shift scheduler.
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
    """Half the steps fall linearly from 1 to 1 - threshold, the rest quadratically to 0.

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


def named(name: str, steps: int, *, num_tokens: int = MAX_TOKENS) -> Sigmas:
    """The list called `name`, one of NAMES. Raises RequestError for an unknown name, or for a step count
    other than 8 with "distilled", which is one fixed list."""
    if name == "ltx2":
        return ltx2(steps, num_tokens)
    if name == "linear-quadratic":
        return linear_quadratic(steps)
    if name == "distilled":
        if steps != len(DISTILLED) - 1:
            raise RequestError(
                f"steps is {steps}, but the distilled schedule has exactly {len(DISTILLED) - 1}; "
                "leave steps out, or choose the schedule 'linear-quadratic'",
                field="steps",
            )
        return DISTILLED
    raise RequestError(f"schedule is '{name}'; the schedules are {', '.join(NAMES)}", field="schedule")


def check(sigmas: Sequence[float]) -> Sigmas:
    """A caller's own list, checked: at least two values, falling, within (0, 1], and 0 at the end.

    Raises RequestError naming the first rule broken.
    """
    values = tuple(float(sigma) for sigma in sigmas)
    if len(values) < 2:
        raise RequestError(
            f"sigmas has {len(values)} value(s); give at least two, such as 1.0, 0.5, 0.0", field="sigmas"
        )
    if not all(a > b for a, b in itertools.pairwise(values)):
        raise RequestError("sigmas must fall from each value to the next; sort them downward", field="sigmas")
    if values[0] > 1 or values[-1] != 0:
        raise RequestError(
            f"sigmas runs from {values[0]:g} to {values[-1]:g}; start at 1 or below and end at 0",
            field="sigmas",
        )
    return values


def partial(full: Sigmas, steps: int) -> Sigmas:
    """The last `steps` steps of a list, for denoising a latent that is only partly noised."""
    if not 1 <= steps < len(full):
        raise RequestError(
            f"steps is {steps}, but the schedule has {len(full) - 1}; choose between 1 and that",
            field="steps",
        )
    return full[-(steps + 1) :]


def _check_steps(steps: int) -> None:
    if steps < 1:
        raise RequestError(f"steps is {steps}; give at least 1", field="steps")
