"""The samplers and their costs: plain data for plans, help and documents, without torch.

The samplers themselves are in `samplers`; a test holds the two lists and the counts together.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from soundstage.errors import RequestError, listed
from soundstage.sampling.schedules import shifted

# res2s ends a little above 0, where a last prediction takes over.
RES2S_END = 0.0011
# er-sde cannot start at 1, where noise is infinitely louder than the picture.
ER_SDE_START = shifted(0.9999)


def _res2s_levels(sigmas: Sequence[float]) -> tuple[float, ...]:
    if sigmas[-1] != 0 or sigmas[-2] <= RES2S_END:
        return tuple(sigmas)
    return (*sigmas[:-1], RES2S_END, 0.0)


def _er_sde_levels(sigmas: Sequence[float]) -> tuple[float, ...]:
    return (min(sigmas[0], ER_SDE_START), *sigmas[1:])


@dataclass(frozen=True)
class SamplerInfo:
    """Describe a sampler for plans, help and documents.

    summary: its use in a few words. levels: makes the levels that are stepped through from a caller's list.
    twice: each step but the one to 0 makes a second prediction, halfway in log sigma. A prediction is one
    forward per guidance pass. stochastic: it adds noise of its own, drawn from a second seed.
    needs_negative: the negative prompt's pass is made at every step, whatever the guidance. source: the
    origin of its formula.
    """

    summary: str
    levels: Callable[[Sequence[float]], tuple[float, ...]] = tuple
    twice: bool = False
    stochastic: bool = False
    needs_negative: bool = False
    source: str = ""


SAMPLER_INFO: dict[str, SamplerInfo] = {
    "euler": SamplerInfo("straight steps; the published default", source="LTX-2"),
    "euler-ancestral": SamplerInfo(
        "each step takes away more noise than it should and adds fresh noise back",
        stochastic=True,
        source="the form for rectified flows; LTX-2, ComfyUI",
    ),
    "res2s": SamplerInfo(
        "two predictions a step and fresh noise; fewer, better steps (the HQ recipe)",
        levels=_res2s_levels,
        twice=True,
        stochastic=True,
        source="second-order exponential integrator; LTX-2 HQ",
    ),
    "er-sde": SamplerInfo(
        "fresh noise, and up to two earlier predictions to bend the step",
        levels=_er_sde_levels,
        stochastic=True,
        source="extended reverse-time SDE solver, Cui et al. 2023; ComfyUI",
    ),
    "gradient-estimation": SamplerInfo(
        "Euler, with each slope carried on by its change since the step before",
        source="Permenter and Yuan 2023; LTX-2",
    ),
    "euler-cfg-pp": SamplerInfo(
        "keeps the noise of the negative prompt's prediction; for guidance near 1",
        needs_negative=True,
        source="CFG++, Chung et al. 2024; LTX-2, ComfyUI",
    ),
    "euler-ancestral-cfg-pp": SamplerInfo(
        "the same with fresh noise", stochastic=True, needs_negative=True, source="CFG++; LTX-2, ComfyUI"
    ),
}

_ALIASES = {"res-2s": "res2s"}


def sampler_key(name: str) -> str:
    """Return a sampler's own name for a name as other tools write it (euler_ancestral, res_2s).

    Raises RequestError listing the samplers.
    """
    key = name.strip().lower().replace("_", "-").replace("cfg++", "cfg-pp")
    key = _ALIASES.get(key, key)
    if key not in SAMPLER_INFO:
        raise RequestError(
            f"sampler is '{name}'; the samplers are {listed(name, SAMPLER_INFO)}", field="sampler"
        )
    return key


def predictions(name: str, sigmas: Sequence[float]) -> tuple[tuple[float, int], ...]:
    """Return (noise level, step) of every prediction a sampler asks for on a list, in order.

    A second prediction within a step says step 0, as the published loop does.
    """
    info = SAMPLER_INFO[sampler_key(name)]
    made = []
    for i, (sigma, sigma_next) in enumerate(itertools.pairwise(info.levels(sigmas))):
        made.append((sigma, i))
        if info.twice and sigma_next > 0:
            made.append((math.sqrt(sigma * sigma_next), 0))
    return tuple(made)
