"""Run the passes of a plan: from encoded inputs to latents, pass by pass and step by step."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from soundstage.conditioning.pixels import to_uint8
from soundstage.conditioning.relay import directed
from soundstage.planning.plan import MAX_BATCHED_TOKENS, PassPlan, Plan
from soundstage.rendering.checkpoints import Checkpoint, ClipStanding, numbers_of
from soundstage.rendering.encoded_inputs import EncodedInputs
from soundstage.rendering.encoded_prompts import encoded_prompts
from soundstage.rendering.encoding_cache import EncodingCache
from soundstage.rendering.events import Clock, Event, Notice, Phase, Preview, Step
from soundstage.rendering.finite import Watch
from soundstage.rendering.live import LiveTokens
from soundstage.rendering.parts import ModelParts
from soundstage.rendering.prepare import Latents, cropped, streams, upsampled
from soundstage.rendering.windows import Handover
from soundstage.sampling.cache import StepCaches
from soundstage.sampling.denoise import State, denoise
from soundstage.sampling.guidance import Contexts, Guider
from soundstage.sampling.samplers import sampler_named
from soundstage.sampling.streams import Pair, Streams


def latents_of_passes(
    plan: Plan,
    parts: ModelParts,
    cache: EncodingCache,
    clock: Clock,
    checkpoint: Checkpoint,
    preview_every: int = 0,
    handover: Handover | None = None,
    given: Latents | None = None,
    window: int = 0,
) -> Generator[Event, None, dict[str, Tensor]]:
    """Make the latents of one clip; return those of every pass as "<pass>.video" and "<pass>.audio".

    checkpoint: keeps where the passes stand, and has where they stood for this window. handover: what the
    clip goes on from. given: what the first pass starts from, where its start is "previous". A pass without
    steps only upsamples what it starts from. Raises NotFiniteError naming the step after which latents were
    not numbers, at the latest after the last step of the pass.
    """
    found = checkpoint.found(window, parts.device)
    at = found or ClipStanding(window)
    if found is not None:
        yield _resumed(plan, found, clock)
    if at.done == len(plan.passes):
        return dict(at.latents)
    yield clock.phase("encode")
    prompts = [
        encoded_prompts(parts, plan, pass_, cache, clock.at) if pass_.num_steps else None
        for pass_ in plan.passes
    ]
    inputs = EncodedInputs(plan, parts, cache)
    inputs.prepare(clock.at)
    made = Latents() if given is None else given.placed(parts.device, parts.dtype)
    latents = dict(at.latents)
    generator = at.generator(parts.device)
    for index, (pass_, read) in enumerate(zip(plan.passes, prompts, strict=True)):
        if index < at.done:
            made = Latents(*(latents.get(f"{pass_.name}.{kind}") for kind in ("video", "audio")))
            continue
        if pass_.upsample:
            yield clock.phase("upsample")
        start = upsampled(parts, pass_, inputs, made)
        if read is None:
            made = start
            latents.update(made.named(pass_.name))
            continue
        at = replace(at, done=index, latents=latents, step=None if index > at.done else at.step)
        both = streams(parts, pass_, inputs, start)
        both = both if handover is None else handover.continued(pass_.name, both)
        if at.step is None or generator is None:
            generator = _generator(parts, pass_, generator)
        guider = _guider(parts, plan, pass_, both, read)
        yield _denoise_phase(clock, pass_, at)
        events = _denoised(parts, pass_, both, guider, generator, at, checkpoint, clock, preview_every)
        made = cropped(pass_, *(yield from events))
        latents = {**latents, **made.named(pass_.name)}
        if checkpoint.keeps:
            ended = ClipStanding(window, index + 1, latents, numbers_of(generator), seconds=clock.so_far())
            checkpoint.note(ended)
        yield from map(Notice, checkpoint.keep_if_due(end=True))
    return latents


def _denoised(
    parts: ModelParts,
    pass_: PassPlan,
    both: Streams,
    guider: Guider,
    generator: torch.Generator,
    at: ClipStanding,
    checkpoint: Checkpoint,
    clock: Clock,
    preview_every: int,
) -> Generator[Event, None, Pair]:
    """Take the steps of a pass, and return its tokens. at: where it stands before them."""
    watch = Watch(pass_.name, parts)
    watch.see(0, pass_.num_steps, **_given(both))
    if at.step is not None and at.guider is not None:
        guider.remember(at.guider)
    tokens: Pair = (None, None) if at.step is None else at.step.latents
    sampler = sampler_named(pass_.sampler)
    for state in denoise(guider, *both, pass_.sigmas, generator, sampler=sampler, standing=at.step):
        tokens = state.video, state.audio
        watch.see(state.step, state.num_steps, video=state.video, audio=state.audio)
        clock.at(pass_.name, state.step, state.num_steps)
        if checkpoint.keeps:
            now = replace(at, numbers=numbers_of(generator), step=state.standing, guider=guider.memory())
            checkpoint.note(replace(now, seconds=clock.so_far()))
        yield from _step_events(parts, pass_, both, state, preview_every)
        yield from map(Notice, checkpoint.keep_if_due())
    watch.check()
    parts.check_files()
    return tokens


def _resumed(plan: Plan, at: ClipStanding, clock: Clock) -> Phase:
    """Begin the phase that says where an earlier run had come to."""
    clock.add(at.seconds)
    name = plan.passes[at.done].name if at.done < len(plan.passes) else "decode"
    return clock.phase("resume", name if at.step is None else f"{name} after step {at.step.step}")


def _denoise_phase(clock: Clock, pass_: PassPlan, at: ClipStanding) -> Phase:
    """Begin the phase of a pass's steps, some of which may be done."""
    phase = clock.phase("denoise", pass_.name, pass_.num_steps)
    if at.step is not None:
        clock.at(pass_.name, at.step.step, pass_.num_steps)
    return phase


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
    parts: ModelParts,
    plan: Plan,
    pass_: PassPlan,
    both: Streams,
    prompts: tuple[list[Contexts], Contexts | None],
) -> Guider:
    """Put a pass's LoRAs on the model, and return its guided prediction."""
    positive, negative = prompts
    positions = [None if s is None else s.positions for s in both]
    parts.adapt(pass_.loras, positions[0], positions[1])
    tokens = sum(s.clean.shape[1] for s in both if s is not None) * len(pass_.kinds)
    return Guider(
        lambda: parts.transformer,  # parts that are closed between two steps build it anew
        both,
        (pass_.video, pass_.audio),
        directed(positive, plan.timeline, pass_.fps, both),
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
