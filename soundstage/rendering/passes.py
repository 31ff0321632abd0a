"""Run the passes of a plan: from encoded inputs to latents, pass by pass and step by step."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from soundstage.conditioning.pixels import to_uint8
from soundstage.conditioning.relay import directed
from soundstage.planning.plan import MAX_BATCHED_TOKENS, PassPlan, Plan
from soundstage.rendering.encoded_inputs import EncodedInputs
from soundstage.rendering.encoded_prompts import encoded_prompts
from soundstage.rendering.encoding_cache import EncodingCache
from soundstage.rendering.events import Clock, Event, Preview, Step
from soundstage.rendering.finite import Watch
from soundstage.rendering.live import LiveTokens
from soundstage.rendering.parts import ModelParts
from soundstage.rendering.prepare import Latents, cropped, streams, upsampled
from soundstage.rendering.windows import Handover
from soundstage.sampling.cache import StepCaches
from soundstage.sampling.denoise import State, denoise
from soundstage.sampling.guidance import Contexts, Guider
from soundstage.sampling.samplers import sampler_named
from soundstage.sampling.streams import Streams


def latents_of_passes(
    plan: Plan,
    parts: ModelParts,
    cache: EncodingCache,
    clock: Clock,
    preview_every: int = 0,
    handover: Handover | None = None,
    given: Latents | None = None,
) -> Generator[Event, None, dict[str, Tensor]]:
    """Make the latents of one clip; return those of every pass as "<pass>.video" and "<pass>.audio".

    handover: what the clip goes on from. given: what the first pass starts from, where its start is
    "previous". A pass without steps only upsamples what it starts from. Raises NotFiniteError naming the step
    after which latents were not numbers, at the latest after the last step of the pass.
    """
    yield clock.phase("encode")
    prompts = [
        encoded_prompts(parts, plan, pass_, cache, clock.at) if pass_.num_steps else None
        for pass_ in plan.passes
    ]
    inputs = EncodedInputs(plan, parts, cache)
    inputs.prepare(clock.at)
    made = Latents() if given is None else given.placed(parts.device, parts.dtype)
    latents: dict[str, Tensor] = {}
    generator: torch.Generator | None = None
    for pass_, read in zip(plan.passes, prompts, strict=True):
        if pass_.upsample:
            yield clock.phase("upsample")
        start = upsampled(parts, pass_, inputs, made)
        if read is None:
            made = start
            latents.update(made.named(pass_.name))
            continue
        positive, negative = read
        yield clock.phase("denoise", pass_.name, pass_.num_steps)
        both = streams(parts, pass_, inputs, start)
        both = both if handover is None else handover.continued(pass_.name, both)
        generator = _generator(parts, pass_, generator)
        watch = Watch(pass_.name, parts)
        watch.see(0, pass_.num_steps, **_given(both))
        guider = _guider(parts, pass_, both, directed(positive, plan.timeline, pass_.fps, both), negative)
        sampler = sampler_named(pass_.sampler)
        for state in denoise(guider, *both, pass_.sigmas, generator, sampler=sampler):
            watch.see(state.step, state.num_steps, video=state.video, audio=state.audio)
            clock.at(pass_.name, state.step, state.num_steps)
            yield from _step_events(parts, pass_, both, state, preview_every)
        watch.check()
        parts.check_files()
        made = cropped(pass_, state.video, state.audio)
        latents.update(made.named(pass_.name))
    return latents


def _step_events(
    parts: ModelParts, pass_: PassPlan, both: Streams, state: State, preview_every: int
) -> Iterator[Event]:
    """Yield the events of a step. Its tokens may be changed until the event after it is asked for."""
    live = LiveTokens(pass_, both, state)
    yield Step(pass_.name, state.step, state.num_steps, state.sigma_next, live)
    live.end()
    if preview_every and state.step % preview_every == 0 and state.clean_video is not None:
        yield Preview(pass_.name, state.step, _preview(parts, pass_, state))


def _guider(
    parts: ModelParts, pass_: PassPlan, both: Streams, positive: Contexts, negative: Contexts | None
) -> Guider:
    """Put a pass's LoRAs on the model, and return its guided prediction."""
    positions = [None if s is None else s.positions for s in both]
    parts.adapt(pass_.loras, positions[0], positions[1])
    tokens = sum(s.clean.shape[1] for s in both if s is not None) * len(pass_.kinds)
    return Guider(
        lambda: parts.transformer,  # parts that are closed between two steps build it anew
        both,
        (pass_.video, pass_.audio),
        positive,
        negative,
        batched=tokens <= MAX_BATCHED_TOKENS,
        unconditional=sampler_named(pass_.sampler).needs_unconditional,
        cache=None if pass_.cache is None else StepCaches(pass_.cache, pass_.sigmas),
    )


def _generator(parts: ModelParts, pass_: PassPlan, last: torch.Generator | None) -> torch.Generator:
    """Return the random numbers of a pass: from its own seed, or those that follow the pass before."""
    if pass_.seed is None and last is not None:
        return last
    return torch.Generator(parts.device).manual_seed(pass_.seed or 0)


def _given(both: Streams) -> dict[str, Tensor | None]:
    """Return the values a pass begins with: kept tokens, and the latents it starts from."""
    found = [None if s is None else s.clean if s.initial is None else s.clean + s.initial for s in both]
    return {"video": found[0], "audio": found[1]}


def _preview(parts: ModelParts, pass_: PassPlan, state: State) -> NDArray[np.uint8]:
    """Return the predicted picture after a step, (F, H, W, 3)."""
    latents = cropped(pass_, state.clean_video, None).video
    assert latents is not None
    with torch.no_grad():
        return to_uint8(parts.preview_video(latents))
