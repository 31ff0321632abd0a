"""The engine: a request becomes a plan, a plan a stream of events, the last event a clip.

    stage = ss.load("nano")
    for event in stage.run(stage.plan(request)):   # Phase, Step, Preview, ..., Done
        ...

An engine keeps its model, and the prompts and inputs it has encoded, so a second request reads nothing
from disk; encodings are kept for the next process too. torch is loaded by the first run, not by planning.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soundstage import __version__
from soundstage.clip import Clip
from soundstage.errors import RequestError
from soundstage.long_take.windows import Take, Window
from soundstage.model_set import ModelSet, find_model
from soundstage.plan import PassPlan, Plan, plan_facts
from soundstage.request import Request
from soundstage.speed.formats import NumberFormat, asked_format, choose_format
from soundstage.takes import plan_request
from soundstage.weights.budget import Choice, policy_named
from soundstage.weights.storage import storage_named

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from soundstage.long_take.folder import WindowStore
    from soundstage.long_take.run import Handover
    from soundstage.materials import Materials
    from soundstage.parts import LoadedParts, Parts
    from soundstage.sampling.denoise import State
    from soundstage.sampling.guidance import Contexts
    from soundstage.sampling.streams import Stream
    from soundstage.staging import Latents
    from soundstage.weights.cache import EncodingCache
    from soundstage.weights.lora import AdapterReport

# Passes of a step run as one batch up to this many tokens, one after the other beyond it.
MAX_BATCHED_TOKENS = 16_384


@dataclass(frozen=True)
class Phase:
    """A stage of the work begins: "load", "encode", "denoise", "upsample", "decode video", "decode audio"."""

    name: str


@dataclass(frozen=True)
class LoraAttached:
    """A LoRA was read for the first time. report: what it matches and how much it changes."""

    report: AdapterReport


@dataclass(frozen=True)
class Step:
    """A denoising step is done. step counts from 1 to num_steps; sigma is the level it ended at."""

    name: str
    step: int
    num_steps: int
    sigma: float


@dataclass(frozen=True)
class Preview:
    """What the picture would be after a step. frames: (F, H, W, 3) uint8, small, fewer than the clip's where
    the model has no preview VAE."""

    name: str
    step: int
    frames: NDArray[np.uint8]


@dataclass(frozen=True)
class Done:
    """The clip, and what it was decoded from.

    video_latents: (1, 128, T, h, w), audio_latents: (1, 8, T, 16); None for a modality not made. seconds:
    by phase. latents: of every pass, "<pass>.video" and "<pass>.audio"; of a take in windows, of the last.
    """

    clip: Clip
    video_latents: Tensor | None
    audio_latents: Tensor | None
    seconds: dict[str, float]
    latents: dict[str, Tensor] = field(default_factory=dict)


Event = Phase | LoraAttached | Step | Preview | Done


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
    """One model and all that is kept between requests. Not for use from two threads at once.

    parts: given by tests and by programs that build the model themselves; None loads them from `model`.
    cache: of encodings; None is the user's, see weights/cache.py.
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
        if memory_gb is not None and memory_gb <= 0:
            raise RequestError(f"memory is {memory_gb:g} GB; give more than 0", field="memory_gb")
        self._limit_bytes = math.inf if memory_gb is None else memory_gb * 1e9
        self._policy = policy_named(residency)
        self._storage = storage_named(weights)
        self._built: LoadedParts | None = None
        self._process_bytes: float | None = None
        self.model = model
        self._device = device
        self._dtype = asked_format(dtype)
        self._parts = parts
        self._given_cache = cache

    @property
    def number_format(self) -> NumberFormat:
        """The format this engine computes in, and why."""
        from soundstage.parts import pick_device

        return choose_format(self._dtype, self.model.defaults.dtype, pick_device(self._device).type)

    def plan(self, request: Request) -> Plan:
        """What `run` would do. Raises RequestError with all problems of the request."""
        return plan_request(request, self.model)

    def generate(self, prompt: str | Request, **fields: Any) -> Clip:
        """Make a clip from a prompt and other fields of a Request, or from a Request."""
        request = prompt if isinstance(prompt, Request) else Request(prompt=prompt, **fields)
        for event in self.run(request):
            if isinstance(event, Done):
                return event.clip
        raise AssertionError("a run ends with Done")

    def run(
        self, plan: Plan | Request, *, preview_every: int = 0, handover: Handover | None = None
    ) -> Iterator[Event]:
        """Do the work, handing over an event at each stage and step; closing the generator stops it.

        preview_every: a Preview after every so many steps, 0 for none. handover: what a clip goes on from, of
        `continuous`. A take in windows comes as a Phase "window 1 of 12" and the events of that window, and
        so on.
        """
        plan = self.plan(plan) if isinstance(plan, Request) else plan
        clock = _Clock()
        yield clock.phase("load")
        parts = self._loaded(plan)
        for lora in parts.attach(_lora_paths(plan)):
            yield LoraAttached(lora.report)
        if plan.windows:
            from soundstage.long_take.folder import WindowStore
            from soundstage.long_take.run import assembled

            store = WindowStore(self._take(plan).folder, self._take_facts(plan, parts))
            yield from self._windows(plan, parts, store, clock, preview_every)
            names = [_final(plan, kind) for kind in plan.modalities]
            latents = {name: assembled(plan.windows, store, name).to(parts.device) for name in names}
        else:
            latents = yield from self._passes(plan, parts, clock, preview_every, handover)
        yield from self._finish(plan, parts, latents, clock)

    def _passes(
        self,
        plan: Plan,
        parts: Parts,
        clock: _Clock,
        preview_every: int = 0,
        handover: Handover | None = None,
    ) -> Generator[Event, None, dict[str, Tensor]]:
        """Make one clip's latents, "<pass>.video" and "<pass>.audio". handover: what it goes on from."""
        from soundstage.conditioning.relay import directed
        from soundstage.staging import Latents, streams, upsampled

        yield clock.phase("encode")
        prompts = [self._encode(parts, plan, step) for step in plan.passes]
        materials = self._materials(parts, plan)
        made = Latents()
        latents: dict[str, Tensor] = {}
        generator: torch.Generator | None = None
        for step, (positive, negative) in zip(plan.passes, prompts, strict=True):
            if step.upsample:
                yield clock.phase("upsample")
            start = upsampled(parts, step, materials, made)
            yield clock.phase("denoise")
            both = streams(parts, step, materials, start)
            both = both if handover is None else handover.continued(step.name, both)
            generator = _generator(parts, step, generator)
            state: State | None = None
            prompt = directed(positive, plan.timeline, step.fps, both)
            for state in _denoise(parts, step, both, prompt, negative, generator):
                yield Step(step.name, state.step, state.num_steps, state.sigma_next)
                if preview_every and state.step % preview_every == 0 and state.clean_video is not None:
                    yield Preview(step.name, state.step, _preview(parts, step, state))
            made = _result(step, both, state)
            named = ((f"{step.name}.video", made.video), (f"{step.name}.audio", made.audio))
            latents.update({name: x for name, x in named if x is not None})
        return latents

    def _windows(
        self, plan: Plan, parts: Parts, store: WindowStore, clock: _Clock, preview_every: int
    ) -> Iterator[Event]:
        """Make the windows of a take that the store does not hold yet."""
        from soundstage.long_take.run import made_windows

        def make(window: Window, handover: Handover | None) -> Generator[Event, None, dict[str, Tensor]]:
            yield Phase(f"window {window.index + 1} of {len(plan.windows)}")
            clip = plan.clips[window.index]
            return (yield from self._passes(clip, parts, clock, preview_every, handover))

        return made_windows(plan.windows, self._take(plan), store, make)

    def _take(self, plan: Plan) -> Take:
        return plan.request.take or Take()

    def _take_facts(self, plan: Plan, parts: Parts) -> dict[str, Any]:
        """All that decides the numbers of a take's windows, JSON-ready."""
        facts = self._facts(plan, parts)
        request = dict(facts["request"])
        if request["take"] is not None:
            request["take"] = {**request["take"], "folder": None}
        return {**facts, "request": request}

    def _finish(self, plan: Plan, parts: Parts, latents: dict[str, Tensor], clock: _Clock) -> Iterator[Event]:
        """Decode what was made, put given pictures and sounds in their places, hand over the clip."""
        from soundstage.long_take.color import ColorMatch
        from soundstage.materials import Materials
        from soundstage.output import finished_frames, finished_sound

        video, audio = (latents.get(_final(plan, kind)) for kind in ("video", "audio"))
        frames = sound = None
        if video is not None:
            yield clock.phase("decode video")
            color = ColorMatch(self._take(plan).color, plan.windows[0].num_frames) if plan.windows else None
            frames = finished_frames(plan, parts, Materials(plan, parts, self._cache), video, color)
        if audio is not None:
            yield clock.phase("decode audio")
            sound = finished_sound(plan, parts, audio)
        waveform, rate = (None, 0) if sound is None else sound
        provenance = self._provenance(plan, parts, video, audio)
        clip = Clip(
            frames, waveform, plan.fps / plan.thin, provenance, **({"sample_rate_hz": rate} if rate else {})
        )
        yield Done(clip, video, audio, clock.stop(), latents)

    def choose(self, plan: Plan) -> Choice:
        """Where the weights will be for a plan, what that takes, and why; reads headers only.

        Raises RequestError, with the nearest sizes that fit, if the plan does not fit this machine.
        """
        from soundstage.parts import DTYPES, choose_residency, pick_device

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

    def _loaded(self, plan: Plan) -> Parts:
        """The parts, where the plan has them; those of a plan before are used as long as this one fits."""
        parts = self._parts or self._house(self.choose(plan))
        parts.load(plan.modalities)
        return parts

    def _house(self, choice: Choice) -> Parts:
        from soundstage.parts import DTYPES, LoadedParts, pick_device

        wanted = choice.residency, choice.weights
        if self._built is None or (self._built.residency, self._built.storage) != wanted:
            if self._built is not None:
                self._built.close()
            self._process_bytes = self._process_bytes or choice.process_bytes
            device, dtype = pick_device(self._device), DTYPES[self.number_format.name]
            self._built = LoadedParts(self.model, device, dtype, *wanted)
        return self._built

    def _materials(self, parts: Parts, plan: Plan) -> Materials:
        """The plan's inputs, encoded."""
        from soundstage.materials import Materials

        materials = Materials(plan, parts, self._cache)
        materials.prepare()
        return materials

    @cached_property
    def _cache(self) -> EncodingCache:
        from soundstage.weights.cache import EncodingCache

        return self._given_cache or EncodingCache.open()

    def _encode(self, parts: Parts, plan: Plan, step: PassPlan) -> tuple[list[Contexts], Contexts | None]:
        """Contexts of the prompt's segments and, if a pass needs them, of the negative prompts, as a pass
        reads them: its LoRAs may change the connectors."""
        parts.adapt(step.loras, None, None)
        negatives = [text for text in (plan.video_negative, plan.audio_negative) if text is not None]
        contexts = self._encoded(parts, [*plan.timeline.texts, *negatives])
        negative = _negative(contexts, plan.video_negative, plan.audio_negative) if negatives else None
        return [contexts[text] for text in plan.timeline.texts], negative

    def _encoded(self, parts: Parts, prompts: Sequence[str]) -> Mapping[str, Contexts]:
        """Contexts by prompt. Nothing that reads prompts is built if all of them were encoded before."""
        import torch

        from soundstage.sampling.guidance import Contexts
        from soundstage.weights.cache import content_key

        reader = parts.identity("text")
        keys = {prompt: content_key("prompt", prompt.strip(), *reader) for prompt in prompts}
        kept = {prompt: self._cache.get(key, parts.device) for prompt, key in keys.items()}
        found = {prompt: Contexts(**tensors) for prompt, tensors in kept.items() if tensors is not None}
        new = [prompt for prompt in keys if prompt not in found]
        if new:
            with torch.no_grad():
                found.update(zip(new, parts.encode(new), strict=True))
        for prompt in new:
            video, audio = found[prompt].video, found[prompt].audio
            assert video is not None
            assert audio is not None
            self._cache.put(keys[prompt], {"video": video, "audio": audio})
        return found

    def _provenance(
        self, plan: Plan, parts: Parts, video: Tensor | None, audio: Tensor | None
    ) -> dict[str, Any]:
        """JSON-ready: what was asked, what was done, with which weights."""
        latents = {"video": video, "audio": audio}
        hashes = {name: _sha256(x) for name, x in latents.items() if x is not None}
        loras = [
            {"path": path, "sha256": lora.digest, **lora.report.facts_dict()}
            for path in _lora_paths(plan)
            if (lora := parts.attached.get(path)) is not None
        ]
        return {**self._facts(plan, parts), "loras": loras, "latents_sha256": hashes}

    def _facts(self, plan: Plan, parts: Parts) -> dict[str, Any]:
        """All that decides the numbers of a clip, JSON-ready."""
        return {
            "soundstage": __version__,
            "request": plan.request.describe(),
            "model": plan.model,
            "files": self.model.hashes,
            "device": str(parts.device),
            "dtype": str(parts.dtype).removeprefix("torch."),
            "weights": parts.storage,
            **plan_facts(plan),
        }


class _Clock:
    """Seconds by phase; a phase that comes again adds to its own."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._name: str | None = None
        self._since = 0.0

    def phase(self, name: str) -> Phase:
        self.stop()
        self._name, self._since = name, time.perf_counter()
        return Phase(name)

    def stop(self) -> dict[str, float]:
        if self._name is not None:
            spent = time.perf_counter() - self._since
            self.seconds[self._name] = self.seconds.get(self._name, 0.0) + spent
            self._name = None
        return self.seconds


def _lora_paths(plan: Plan) -> list[str]:
    """Files of all LoRAs of a plan, each once."""
    clips = (plan, *plan.clips)
    return list(dict.fromkeys(use.path for clip in clips for step in clip.passes for use in step.loras))


def _negative(contexts: Mapping[str, Contexts], video: str | None, audio: str | None) -> Contexts:
    """One pair of contexts, each modality with its own text."""
    from soundstage.sampling.guidance import Contexts

    return Contexts(
        None if video is None else contexts[video].video, None if audio is None else contexts[audio].audio
    )


def _generator(parts: Parts, step: PassPlan, last: torch.Generator | None) -> torch.Generator:
    """The random numbers of a pass: its own seed's, or those that follow the pass before."""
    import torch

    if step.seed is None and last is not None:
        return last
    return torch.Generator(parts.device).manual_seed(step.seed or 0)


def _denoise(
    parts: Parts,
    step: PassPlan,
    both: tuple[Stream | None, Stream | None],
    positive: Contexts,
    negative: Contexts | None,
    generator: torch.Generator,
) -> Iterator[State]:
    """States of one pass."""
    from soundstage.sampling.cache import StepCaches
    from soundstage.sampling.denoise import denoise
    from soundstage.sampling.guidance import Guider
    from soundstage.sampling.samplers import sampler_named

    sampler = sampler_named(step.sampler)
    positions = [None if s is None else s.positions for s in both]
    parts.adapt(step.loras, positions[0], positions[1])
    tokens = sum(s.clean.shape[1] for s in both if s is not None) * len(step.kinds)
    guider = Guider(
        parts.transformer,
        both,
        (step.video, step.audio),
        positive,
        negative,
        batched=tokens <= MAX_BATCHED_TOKENS,
        unconditional=sampler.needs_unconditional,
        cache=None if step.cache is None else StepCaches(step.cache, step.sigmas),
    )
    return denoise(guider, *both, step.sigmas, generator, sampler=sampler)


def _result(step: PassPlan, both: tuple[Stream | None, Stream | None], state: State | None) -> Latents:
    """The clip's own latents after a pass; a given modality is what was given."""
    from soundstage.staging import cropped

    assert state is not None, "a pass has at least one step"
    return cropped(step, state.video, state.audio)


def _final(plan: Plan, kind: str) -> str:
    """The name of the latents that become the clip."""
    return f"{plan.passes[-1].name}.video" if kind == "video" else f"{plan.audio_pass}.audio"


def _preview(parts: Parts, step: PassPlan, state: State) -> NDArray[np.uint8]:
    import torch

    from soundstage.conditioning.pixels import to_uint8
    from soundstage.staging import cropped

    latents = cropped(step, state.clean_video, None).video
    assert latents is not None
    with torch.no_grad():
        return to_uint8(parts.preview_video(latents))


def _sha256(latents: Tensor) -> str:
    """Of the values as float32, little-endian, in row-major order."""
    return hashlib.sha256(latents.float().contiguous().cpu().numpy().astype("<f4").tobytes()).hexdigest()
