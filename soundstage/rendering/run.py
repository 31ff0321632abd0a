"""One pass of a plan on the parts of a model: its random numbers, its steps, its result."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from soundstage.conditioning.pixels import to_uint8
from soundstage.rendering.causes import likely_cause
from soundstage.rendering.finite import Watch
from soundstage.rendering.prepare import Latents, cropped
from soundstage.sampling.cache import StepCaches
from soundstage.sampling.denoise import State, denoise
from soundstage.sampling.guidance import Contexts, Guider
from soundstage.sampling.samplers import sampler_named

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from soundstage.planning.plan import PassPlan
    from soundstage.rendering.parts import Parts
    from soundstage.sampling.streams import Stream

# Passes of a step run as one batch up to this many tokens, one after the other beyond it.
MAX_BATCHED_TOKENS = 16_384

Streams = tuple["Stream | None", "Stream | None"]


def generator_of(parts: Parts, pass_: PassPlan, last: torch.Generator | None) -> torch.Generator:
    """Return the random numbers of a pass: its own seed's, or those that follow the pass before."""
    if pass_.seed is None and last is not None:
        return last
    return torch.Generator(parts.device).manual_seed(pass_.seed or 0)


def denoised(
    parts: Parts,
    pass_: PassPlan,
    both: Streams,
    positive: Contexts,
    negative: Contexts | None,
    generator: torch.Generator,
) -> Iterator[State]:
    """Hand over the state after each step of a pass.

    Raises NotFiniteError naming the step at which latents stopped being numbers, at the latest after the
    last.
    """
    watch = Watch(pass_.name, lambda: likely_cause(parts))
    watch.see(0, pass_.num_steps, **_clean(both))
    for state in _states(parts, pass_, both, positive, negative, generator):
        watch.see(state.step, state.num_steps, video=state.video, audio=state.audio)
        yield state
    watch.check()
    parts.check_files()


def _states(
    parts: Parts,
    pass_: PassPlan,
    both: Streams,
    positive: Contexts,
    negative: Contexts | None,
    generator: torch.Generator,
) -> Iterator[State]:
    sampler = sampler_named(pass_.sampler)
    positions = [None if s is None else s.positions for s in both]
    parts.adapt(pass_.loras, positions[0], positions[1])
    tokens = sum(s.clean.shape[1] for s in both if s is not None) * len(pass_.kinds)
    guider = Guider(
        lambda: parts.transformer,  # parts that are closed between two steps build it anew
        both,
        (pass_.video, pass_.audio),
        positive,
        negative,
        batched=tokens <= MAX_BATCHED_TOKENS,
        unconditional=sampler.needs_unconditional,
        cache=None if pass_.cache is None else StepCaches(pass_.cache, pass_.sigmas),
    )
    return denoise(guider, *both, pass_.sigmas, generator, sampler=sampler)


def _clean(both: Streams) -> dict[str, torch.Tensor | None]:
    """What a pass is given: kept tokens, and what it starts from."""
    found = [None if s is None else s.clean if s.initial is None else s.clean + s.initial for s in both]
    return {"video": found[0], "audio": found[1]}


def result_of(pass_: PassPlan, state: State | None) -> Latents:
    """Return the clip's own latents after a pass; a given modality is what was given."""
    assert state is not None, "a pass has at least one step"
    return cropped(pass_, state.video, state.audio)


def preview(parts: Parts, pass_: PassPlan, state: State) -> NDArray[np.uint8]:
    """Return what the picture would be after a step, (F, H, W, 3)."""
    latents = cropped(pass_, state.clean_video, None).video
    assert latents is not None
    with torch.no_grad():
        return to_uint8(parts.preview_video(latents))
