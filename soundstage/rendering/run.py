"""Carry out a plan as a generator of events, of which the last is the clip."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from soundstage.clip import Clip
from soundstage.library.model_files import ModelSet
from soundstage.planning.placement import Choice
from soundstage.planning.plan import Plan
from soundstage.planning.windows import Window
from soundstage.rendering.checkpoints import FORMAT, MANIFEST, Checkpoint
from soundstage.rendering.claims import Claim
from soundstage.rendering.color import ColorMatch
from soundstage.rendering.decode import finished_frames, finished_sound
from soundstage.rendering.encoded_inputs import EncodedInputs
from soundstage.rendering.encoding_cache import EncodingCache
from soundstage.rendering.events import Clock, Done, Event, LoraAttached, Notice, Phase
from soundstage.rendering.parts import DTYPES, ModelParts
from soundstage.rendering.passes import latents_of_passes
from soundstage.rendering.prepare import Latents
from soundstage.rendering.provenance import (
    Placed,
    asked_metadata,
    latents_sha256,
    lora_paths,
    provenance,
    take_metadata,
)
from soundstage.rendering.turns import RunState
from soundstage.rendering.window_store import WindowStore
from soundstage.rendering.windows import Handover, PassLatents, assembled, made_windows
from soundstage.request.take import Take
from soundstage.types import LATENT_CHANNELS, OUTPUT_RATE_HZ


class Renderer:
    """Renders plans with one model, and keeps its parts and encodings for the next run.

    device, number_format: names, such as "cuda" and "bfloat16". choose: returns where the weights will be for
    a plan. given: parts that the caller has built; None builds them as chosen. cache: None is the user's.
    """

    def __init__(
        self,
        model: ModelSet,
        device: str,
        number_format: str,
        choose: Callable[[Plan], Choice],
        *,
        given: ModelParts | None = None,
        cache: EncodingCache | None = None,
    ) -> None:
        self.built: ModelParts | None = None
        self.process_bytes: float | None = None  # the process's memory besides weights, before it had any
        self._model, self._device, self._dtype = model, torch.device(device), DTYPES[number_format]
        self._choose, self._given = choose, given
        self._cache = cache or EncodingCache.open()

    def render(
        self,
        plan: Plan,
        state: RunState,
        *,
        preview_every: int = 0,
        handover: Handover | None = None,
        choice: Choice | None = None,
        given: Latents | None = None,
        decode: bool = True,
        checkpoint: Path | None = None,
        every_s: float = 0.0,
    ) -> Generator[Event, None, None]:
        """Make the clip of a plan; yield an event at each stage and step.

        state: gets the parts that the run uses. preview_every: a Preview after every so many steps, 0 for
        none. handover: what the clip goes on from. choice: where the weights will be; None chooses. given:
        what the first pass starts from, see `Engine.run`. decode: False makes latents alone. checkpoint,
        every_s: where the run is kept, and how often.
        """
        clock = Clock()
        yield clock.phase("load")
        choice = None if self._given is not None else choice or self._choose(plan)
        with ExitStack() as stack:
            kept = stack.enter_context(self._checkpoint(plan, choice, checkpoint, every_s, given))
            store = self._store(plan, choice, kept.windows) if plan.windows else None
            if store is not None:
                stack.enter_context(store)
            parts = self.parts(choice)
            state.begin(parts, self._use)
            parts.renew()
            parts.read_loras(lora_paths(plan))
            parts.load(plan.modalities, clock.at)
            for lora in parts.attach(lora_paths(plan)):
                yield LoraAttached(lora.report)
            if store is None:
                latents = yield from latents_of_passes(
                    plan, parts, self._cache, clock, kept, preview_every, handover, given
                )
            else:
                latents = yield from self._take(plan, parts, store, clock, kept, preview_every)
            done = yield from self._finish(plan, parts, latents, clock, decode)
            if given is not None:
                done.clip.provenance["given_latents_sha256"] = latents_sha256(vars(given))
            try:
                yield done
            finally:  # the clip was handed over, whether or not the caller asks for more
                if store is not None:
                    store.discard()

    def _take(
        self,
        plan: Plan,
        parts: ModelParts,
        store: WindowStore,
        clock: Clock,
        checkpoint: Checkpoint,
        preview_every: int,
    ) -> Generator[Event, None, PassLatents]:
        """Make the windows of a take that the store does not hold yet, and join all of them."""

        def make(window: Window, handover: Handover | None) -> Generator[Event, None, PassLatents]:
            yield Phase(f"window {window.index + 1} of {len(plan.windows)}")
            clip = plan.clips[window.index]
            return (
                yield from latents_of_passes(
                    clip,
                    parts,
                    self._cache,
                    clock,
                    checkpoint,
                    preview_every,
                    handover,
                    window=window.index,
                )
            )

        for event in made_windows(plan.windows, _take_of(plan), store, make):
            yield from _notices(store)
            yield event
        yield from _notices(store)
        names = [_final(plan, kind) for kind in plan.modalities]
        return {name: assembled(plan.windows, store, name).to(parts.device) for name in names}

    def _finish(
        self, plan: Plan, parts: ModelParts, latents: PassLatents, clock: Clock, decode: bool
    ) -> Generator[Event, None, Done]:
        """Decode latents, put given pictures and sounds in their places, and return the clip.

        decode: False leaves the clip empty.
        """
        video, audio = (latents.get(_final(plan, kind)) for kind in ("video", "audio"))
        finished, sound = None, None
        if video is not None and decode:
            yield clock.phase("decode video")
            color = ColorMatch(_take_of(plan).color, plan.windows[0].num_frames) if plan.windows else None
            inputs = EncodedInputs(plan, parts, self._cache)
            finished = finished_frames(plan, parts, inputs, video, color, at=clock.at)
        if audio is not None and decode:
            yield clock.phase("decode audio")
            sound = finished_sound(plan, parts, audio)
        parts.check_files()
        waveform, rate = (None, OUTPUT_RATE_HZ) if sound is None else sound
        made_from = provenance(plan, self._model, parts, video, audio)
        frames, light = (None, None) if finished is None else (finished.frames, finished.light)
        hdr = None if light is None else plan.hdr
        clip = Clip(frames, waveform, plan.fps / plan.thin, made_from, rate, light, hdr)
        return Done(clip, video, audio, clock.stop(), latents)

    # --- the parts in use

    def parts(self, choice: Choice | None) -> ModelParts:
        """Return the parts where a choice has them; those of an earlier choice stay as long as it fits them.

        choice: None where the caller has built the parts.
        """
        if choice is None:
            assert self._given is not None
            return self._given
        wanted = choice.residency, choice.weights
        if self.built is None or not self.built.takes(*wanted):
            if self.built is not None:
                self.built.close()
            self.process_bytes = self.process_bytes or choice.process_bytes
            self.built = ModelParts(self._model, self._device, self._dtype, *wanted)
        return self.built

    def _use(self, parts: ModelParts) -> None:
        """Make a run's parts the ones in use again; those that another run has built make room."""
        if parts is self._given or parts is self.built:
            return
        if self.built is not None:
            self.built.close()
        self.built = parts

    def _placed(self, choice: Choice | None) -> Placed:
        if choice is None:
            assert self._given is not None
            return Placed(self._given.device, self._given.dtype, self._given.storage)
        return Placed(self._device, self._dtype, choice.weights)

    def _store(self, plan: Plan, choice: Choice | None, folder: Path | None) -> WindowStore:
        """Return the store of a take's windows. Raises RequestError for a folder that cannot hold them.

        folder: for a take without one of its own; None is memory.
        """
        place = self._placed(choice)
        tokens = sum(p.video_tokens + p.audio_tokens for clip in plan.clips for p in clip.passes)
        num_bytes = tokens * LATENT_CHANNELS * place.dtype.itemsize
        return WindowStore(
            _take_of(plan).folder or folder,
            take_metadata(plan, self._model, place),
            asked=asked_metadata(plan, self._model),
            num_bytes=num_bytes,
        )

    def _checkpoint(
        self, plan: Plan, choice: Choice | None, folder: Path | None, every_s: float, given: Latents | None
    ) -> Checkpoint:
        """Return the checkpoint of a run, to be entered; without a folder it keeps nothing."""
        what: dict[str, Any] = {}
        if folder is not None:
            place = self._placed(choice)
            what = take_metadata(plan, self._model, place)
            what |= {"device": place.device.type, "torch": torch.__version__}
            what["given"] = None if given is None else latents_sha256(vars(given))
        claim = Claim(
            MANIFEST,
            FORMAT,
            "run",
            "the checkpoint of another run",
            "checkpoint",
            what,
            asked_metadata(plan, self._model) if what else None,
        )
        return Checkpoint(folder, claim, every_s)


def _take_of(plan: Plan) -> Take:
    return plan.request.take or Take()


def _notices(store: WindowStore) -> Iterator[Event]:
    """Yield the sentences that a store has for the user, each once."""
    while store.notices:
        yield Notice(store.notices.pop(0))


def _final(plan: Plan, kind: str) -> str:
    """Return the name of the latents that become the clip."""
    return f"{plan.passes[-1].name}.video" if kind == "video" else f"{plan.audio_pass}.audio"
