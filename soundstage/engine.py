"""The engine: a request becomes a plan, a plan a stream of events, the last event a clip.

    stage = ss.load("nano")
    for event in stage.run(stage.plan(request)):   # Phase, Step, Preview, ..., Done
        ...

An engine keeps its model, and the prompts and inputs it has encoded, so a second request reads nothing
from disk; encodings are kept for the next process too. torch is loaded by the first run, not by planning.
Runs may be made from several threads, or be advanced by turns in one: see rendering/turns.py.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from functools import cached_property
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from soundstage.clip import Clip
from soundstage.errors import RequestError, shown
from soundstage.library.model_files import ModelSet, find_model
from soundstage.memory.machine import NumberFormat, asked_format, choose_format
from soundstage.memory.policy import Choice, policy_named
from soundstage.planning.long_take import plan_request
from soundstage.planning.plan import PassPlan, Plan
from soundstage.planning.windows import Window
from soundstage.rendering.events import Clock, Done, Event, LoraAttached, Notice, Phase, Preview, Step
from soundstage.rendering.turns import Seat, Turns
from soundstage.request.request import Request
from soundstage.request.take import Take
from soundstage.types import LATENT_CHANNELS
from soundstage.weights.storage import storage_named

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from soundstage.rendering.encoded_inputs import EncodedInputs
    from soundstage.rendering.encoding_cache import EncodingCache
    from soundstage.rendering.parts import LoadedParts, Parts
    from soundstage.rendering.provenance import Place
    from soundstage.rendering.window_store import WindowStore
    from soundstage.rendering.windows import Handover
    from soundstage.sampling.denoise import State
    from soundstage.sampling.guidance import Contexts

MOST_GB = 1e9  # what is more is no limit; whole numbers have no end

__all__ = ["Done", "Engine", "Event", "LoraAttached", "Notice", "Phase", "Preview", "Step", "load"]


def load(
    model: str | Path | Sequence[str | Path] = "nano",
    *,
    device: str = "auto",
    dtype: str | None = None,
    residency: str = "auto",
    memory_gb: float | None = None,
    weights: str = "auto",
) -> Engine:
    """An engine for a model: a shipped name, a folder or file in any layout, or several (docs/files.md).

    device: "auto", "cpu", "cuda", "cuda:1". dtype: "bfloat16" or "float32"; None and "auto" are
    $SOUNDSTAGE_DTYPE, else the model's wish where the device is fast at it (docs/processors.md).
    residency: where weights are while they are not used, of weights.budget.POLICIES; "auto" is the fastest
    that fits. memory_gb: of the device's memory that may be used; None is what is free. weights: how the
    transformer's are held, of weights.storage.STORAGES; "auto" is as the file has them (docs/memory.md).

    Reads headers only. Raises RequestError for an unknown model, WeightsError for missing or damaged files.
    """
    return Engine(
        find_model(model),
        device=device,
        dtype=dtype,
        residency=residency,
        memory_gb=memory_gb,
        weights=weights,
    )


class Engine:
    """One model and all that is kept between requests. Threads may share it: runs take turns.

    parts: given by tests and by programs that build the model themselves; None loads them from `model`.
    cache: of encodings; None is the user's, see rendering/encoding_cache.py.
    """

    def __init__(
        self,
        model: ModelSet,
        *,
        device: str = "auto",
        dtype: str | None = None,
        residency: str = "auto",
        memory_gb: float | None = None,
        weights: str = "auto",
        parts: Parts | None = None,
        cache: EncodingCache | None = None,
    ) -> None:
        self._limit_bytes = _limit_bytes(memory_gb)
        self._policy = policy_named(residency)
        self._storage = storage_named(weights)
        self._built: LoadedParts | None = None
        self._process_bytes: float | None = None
        self.model = model
        self._device = device
        self._dtype = asked_format(dtype)
        self._parts = parts
        self._given_cache = cache
        self._turns = Turns(self._seated)

    def __reduce__(self) -> NoReturn:
        raise RequestError(
            "an engine can be neither copied nor sent to another process; call ss.load where it is needed"
        )

    @property
    def number_format(self) -> NumberFormat:
        """The format this engine computes in, and why."""
        from soundstage.rendering.parts import pick_device

        return choose_format(self._dtype, self.model.defaults.dtype, pick_device(self._device).type)

    def plan(self, request: Request) -> Plan:
        """What `run` would do. Raises RequestError with all problems of the request."""
        if not isinstance(request, Request):
            raise RequestError(
                f"a {type(request).__name__} was given where a Request is needed; give ss.Request(prompt=...)"
            )
        return plan_request(request, self.model)

    def generate(self, prompt: str | Request, **fields: Any) -> Clip:
        """Make a clip from a prompt and other fields of a Request, or from a Request.

        Other threads wait until it is done, in the order in which they came.
        """
        request = prompt if isinstance(prompt, Request) else Request(prompt=prompt, **fields)
        self._turns.check_process()
        with self._turns.lock:
            for event in self.run(request):
                if isinstance(event, Notice):
                    warnings.warn(event.text, stacklevel=2)
                if isinstance(event, Done):
                    return event.clip
        raise AssertionError("a run ends with Done")

    def run(
        self, plan: Plan | Request, *, preview_every: int = 0, handover: Handover | None = None
    ) -> Generator[Event, None, None]:
        """Do the work, handing over an event at each stage and step; closing the generator stops it.

        It may be closed by another thread, which then waits until the event at work is done.

        preview_every: a Preview after every so many steps, 0 for none. handover: what a clip goes on from, of
        `continuous`. A take in windows comes as a Phase "window 1 of 12" and the events of that window, and
        so on. Between two events other runs of the engine may go on; each makes the film it makes alone.
        """
        if not isinstance(preview_every, Integral) or preview_every < 0:
            raise RequestError(
                f"preview_every is {preview_every!r}; give a whole number, 0 for no previews",
                field="preview_every",
            )
        seat = Seat()
        return self._turns.events(seat, self._work(plan, seat, preview_every, handover))

    def _work(
        self, plan: Plan | Request, seat: Seat, preview_every: int, handover: Handover | None
    ) -> Generator[Event, None, None]:
        """All events of a run, as if it had the engine alone."""
        plan = plan if isinstance(plan, Plan) else self.plan(plan)
        clock = Clock()
        yield clock.phase("load")
        choice = None if self._parts is not None else self.choose(plan)
        store = self._store(plan, self._place(choice)) if plan.windows else None
        try:
            parts = seat.parts = self._loaded(plan, choice)
            yield from self._attached(plan, parts)
            if store is None:
                latents = yield from self._passes(plan, parts, clock, preview_every, handover)
            else:
                latents = yield from self._take(plan, parts, store, clock, preview_every)
            yield from self._finish(plan, parts, latents, clock, store)
        except BaseException as error:
            kept = None if store is None else store.kept()
            if kept is not None:
                error.add_note(kept)
            raise
        finally:
            if store is not None:
                store.close()

    def _attached(self, plan: Plan, parts: Parts) -> Iterator[Event]:
        """Make the plan's LoRAs known, and report those whose file was not read before."""
        from soundstage.rendering.provenance import lora_paths

        for lora in parts.attach(lora_paths(plan)):
            yield LoraAttached(lora.report)

    def _passes(
        self,
        plan: Plan,
        parts: Parts,
        clock: Clock,
        preview_every: int = 0,
        handover: Handover | None = None,
    ) -> Generator[Event, None, dict[str, Tensor]]:
        """Make one clip's latents, "<pass>.video" and "<pass>.audio". handover: what it goes on from."""
        from soundstage.conditioning.relay import directed
        from soundstage.rendering.prepare import Latents, streams, upsampled
        from soundstage.rendering.run import denoised, generator_of, preview, result_of

        yield clock.phase("encode")
        prompts = [self._encode(parts, plan, pass_) for pass_ in plan.passes]
        inputs = self._inputs(parts, plan)
        made = Latents()
        latents: dict[str, Tensor] = {}
        generator: torch.Generator | None = None
        for pass_, (positive, negative) in zip(plan.passes, prompts, strict=True):
            if pass_.upsample:
                yield clock.phase("upsample")
            start = upsampled(parts, pass_, inputs, made)
            yield clock.phase("denoise")
            both = streams(parts, pass_, inputs, start)
            both = both if handover is None else handover.continued(pass_.name, both)
            generator = generator_of(parts, pass_, generator)
            state: State | None = None
            prompt = directed(positive, plan.timeline, pass_.fps, both)
            for state in denoised(parts, pass_, both, prompt, negative, generator):
                yield Step(pass_.name, state.step, state.num_steps, state.sigma_next)
                if preview_every and state.step % preview_every == 0 and state.clean_video is not None:
                    yield Preview(pass_.name, state.step, preview(parts, pass_, state))
            made = result_of(pass_, state)
            named = ((f"{pass_.name}.video", made.video), (f"{pass_.name}.audio", made.audio))
            latents.update({name: x for name, x in named if x is not None})
        return latents

    # --- takes in windows

    def _store(self, plan: Plan, place: Place) -> WindowStore:
        """Where finished windows of a take are kept. Raises RequestError for a folder that will not do."""
        from soundstage.rendering.provenance import take_facts
        from soundstage.rendering.window_store import WindowStore

        folder = (plan.request.take or Take()).folder
        return WindowStore(folder, take_facts(plan, self.model, place), num_bytes=_window_bytes(plan, place))

    def _take(
        self, plan: Plan, parts: Parts, store: WindowStore, clock: Clock, preview_every: int
    ) -> Generator[Event, None, dict[str, Tensor]]:
        """Make the windows of a take that the store does not hold yet, and join all of them."""
        from soundstage.rendering.windows import assembled, made_windows

        def make(window: Window, handover: Handover | None) -> Generator[Event, None, dict[str, Tensor]]:
            yield Phase(f"window {window.index + 1} of {len(plan.windows)}")
            clip = plan.clips[window.index]
            return (yield from self._passes(clip, parts, clock, preview_every, handover))

        take = plan.request.take or Take()
        for event in made_windows(plan.windows, take, store, make):
            yield from _notices(store)
            yield event
        yield from _notices(store)
        names = [_final(plan, kind) for kind in plan.modalities]
        return {name: assembled(plan.windows, store, name).to(parts.device) for name in names}

    # --- the end

    def _finish(
        self,
        plan: Plan,
        parts: Parts,
        latents: dict[str, Tensor],
        clock: Clock,
        store: WindowStore | None,
    ) -> Iterator[Event]:
        """Decode what was made, put given pictures and sounds in their places, hand over the clip."""
        from soundstage.rendering.color import ColorMatch
        from soundstage.rendering.decode import finished_frames, finished_sound
        from soundstage.rendering.encoded_inputs import EncodedInputs
        from soundstage.rendering.provenance import provenance

        video, audio = (latents.get(_final(plan, kind)) for kind in ("video", "audio"))
        frames = sound = None
        if video is not None:
            yield clock.phase("decode video")
            take = plan.request.take or Take()
            color = ColorMatch(take.color, plan.windows[0].num_frames) if plan.windows else None
            frames = finished_frames(plan, parts, EncodedInputs(plan, parts, self._cache), video, color)
        if audio is not None:
            yield clock.phase("decode audio")
            sound = finished_sound(plan, parts, audio)
        parts.check_files()
        waveform, rate = (None, 0) if sound is None else sound
        told = provenance(plan, self.model, parts, video, audio)
        clip = Clip(
            frames, waveform, plan.fps / plan.thin, told, **({"sample_rate_hz": rate} if rate else {})
        )
        try:
            yield Done(clip, video, audio, clock.stop(), latents)
        finally:  # it was handed over, whether or not the caller asks for more
            if store is not None:
                store.discard()

    # --- where the model is

    def choose(self, plan: Plan) -> Choice:
        """Where the weights will be for a plan, what that takes, and why; reads headers only.

        Raises RequestError, with the nearest sizes that fit, if the plan does not fit this machine.
        """
        from soundstage.rendering.parts import DTYPES, choose_residency, pick_device

        return choose_residency(
            plan,
            self.model,
            pick_device(self._device),
            DTYPES[self.number_format.name],
            self._policy,
            storage=self._storage,
            limit_bytes=self._limit_bytes,
            process_bytes=self._process_bytes,
            kept=None if self._built is None else (self._built.storage, self._built.residency),
        )

    def _place(self, choice: Choice | None) -> Place:
        """Where and in which numbers a run will compute."""
        from soundstage.rendering.parts import DTYPES, pick_device
        from soundstage.rendering.provenance import Place

        if choice is None:
            assert self._parts is not None
            return Place(self._parts.device, self._parts.dtype, self._parts.storage)
        return Place(pick_device(self._device), DTYPES[self.number_format.name], choice.weights)

    def _loaded(self, plan: Plan, choice: Choice | None) -> Parts:
        """The parts, where the plan has them; those of a plan before are used as long as this one fits."""
        if choice is None:
            assert self._parts is not None
            parts = self._parts
        else:
            parts = self._house(choice)
        parts.renew()
        parts.load(plan.modalities)
        return parts

    def _house(self, choice: Choice) -> Parts:
        from soundstage.rendering.parts import DTYPES, LoadedParts, pick_device

        wanted = choice.residency, choice.weights
        if self._built is None or not self._built.takes(*wanted):
            if self._built is not None:
                self._built.close()
            self._process_bytes = self._process_bytes or choice.process_bytes
            device, dtype = pick_device(self._device), DTYPES[self.number_format.name]
            self._built = LoadedParts(self.model, device, dtype, *wanted)
        return self._built

    def _seated(self, seat: Seat) -> None:
        """Give a run its parts back, as it left them; those of another residency make room."""
        parts: Any = seat.parts
        if parts is not None and self._parts is None and parts is not self._built:
            if self._built is not None:
                self._built.close()
            self._built = parts
        seat.restore()

    # --- what is encoded

    def _inputs(self, parts: Parts, plan: Plan) -> EncodedInputs:
        """The plan's inputs, encoded."""
        from soundstage.rendering.encoded_inputs import EncodedInputs

        inputs = EncodedInputs(plan, parts, self._cache)
        inputs.prepare()
        return inputs

    @cached_property
    def _cache(self) -> EncodingCache:
        from soundstage.rendering.encoding_cache import EncodingCache

        return self._given_cache or EncodingCache.open()

    def _encode(self, parts: Parts, plan: Plan, pass_: PassPlan) -> tuple[list[Contexts], Contexts | None]:
        """Contexts of the prompt's segments and, if a pass needs them, of the negative prompts, as a pass
        reads them: its LoRAs may change the connectors."""
        parts.adapt(pass_.loras, None, None)
        negatives = [text for text in (plan.video_negative, plan.audio_negative) if text is not None]
        contexts = self._encoded(parts, [*plan.timeline.texts, *negatives])
        negative = _negative(contexts, plan.video_negative, plan.audio_negative) if negatives else None
        return [contexts[text] for text in plan.timeline.texts], negative

    def _encoded(self, parts: Parts, prompts: Sequence[str]) -> Mapping[str, Contexts]:
        """Contexts by prompt. Nothing that reads prompts is built if all of them were encoded before."""
        import torch

        from soundstage.rendering.encoding_cache import content_key
        from soundstage.sampling.guidance import Contexts

        reader = parts.identity("text")
        keys = {prompt: content_key("prompt", prompt.strip(), *reader) for prompt in prompts}
        kept = {prompt: self._cache.get(key, parts.device) for prompt, key in keys.items()}
        found = {prompt: Contexts(**tensors) for prompt, tensors in kept.items() if tensors is not None}
        new = [prompt for prompt in keys if prompt not in found]
        if new:
            with torch.no_grad():
                found.update(zip(new, parts.encode(new), strict=True))
        for prompt in new:
            tensors = {"video": found[prompt].video, "audio": found[prompt].audio}
            self._cache.put(keys[prompt], {name: _read(x, parts) for name, x in tensors.items()})
        return found


def _limit_bytes(memory_gb: float | None) -> float:
    """Bytes of a device's memory that may be used. Raises RequestError for what is no number above 0."""
    if memory_gb is None:
        return math.inf
    if isinstance(memory_gb, bool) or not isinstance(memory_gb, Real):
        raise RequestError(f"memory is {shown(memory_gb)}; give a number of GB", field="memory_gb")
    if not memory_gb > 0:
        raise RequestError(f"memory is {memory_gb:g} GB; give more than 0", field="memory_gb")
    return float(min(memory_gb, MOST_GB)) * 1e9


def _notices(store: WindowStore) -> Iterator[Event]:
    """What a store has to say since the last time."""
    while store.notices:
        yield Notice(store.notices.pop(0))


def _read(context: Tensor | None, parts: Parts) -> Tensor:
    """A context as the text encoder gave it. Raises NotFiniteError if it holds what is not a number."""
    from soundstage.rendering.causes import likely_cause
    from soundstage.rendering.finite import checked

    assert context is not None
    return checked(context, "the prompt, as the text encoder reads it,", lambda: likely_cause(parts))


def _window_bytes(plan: Plan, place: Place) -> int:
    """Bytes of a take's windows as they are kept: the latents of every pass."""
    count = sum(p.video_tokens + p.audio_tokens for clip in plan.clips for p in clip.passes)
    return count * LATENT_CHANNELS * place.dtype.itemsize


def _negative(contexts: Mapping[str, Contexts], video: str | None, audio: str | None) -> Contexts:
    """One pair of contexts, each modality with its own text."""
    from soundstage.sampling.guidance import Contexts

    return Contexts(
        None if video is None else contexts[video].video, None if audio is None else contexts[audio].audio
    )


def _final(plan: Plan, kind: str) -> str:
    """The name of the latents that become the clip."""
    return f"{plan.passes[-1].name}.video" if kind == "video" else f"{plan.audio_pass}.audio"
