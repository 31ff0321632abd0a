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
from collections.abc import Generator, Sequence
from dataclasses import replace
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from soundstage.clip import Clip
from soundstage.errors import RequestError, shown
from soundstage.library.model_files import ModelSet, find_model
from soundstage.memory.machine import (
    NumberFormat,
    asked_format,
    checked_device,
    choose_format,
    kind_of,
    pick_device,
)
from soundstage.memory.policy import policy_named
from soundstage.planning.long_take import plan_request
from soundstage.planning.placement import Choice, choose_placement
from soundstage.planning.plan import Plan
from soundstage.planning.seeds import seeded, with_seed
from soundstage.rendering.events import Event, Notice
from soundstage.rendering.handle import Handle, RunQueue, clip_of
from soundstage.rendering.progress import Report, check_report, reporting
from soundstage.rendering.turns import Run, RunState, Turns
from soundstage.request.request import Request
from soundstage.weights.storage import storage_named

if TYPE_CHECKING:
    import torch

    from soundstage.rendering.encoding_cache import EncodingCache
    from soundstage.rendering.parts import ModelParts
    from soundstage.rendering.prepare import Latents
    from soundstage.rendering.run import Renderer
    from soundstage.rendering.windows import Handover
    from soundstage.review.policy import SoundPolicy
    from soundstage.review.record import Asked
    from soundstage.review.retry import ResultWishes

MOST_GB = 1e9  # what is more is no limit; whole numbers have no end


def load(
    model: str | Path | Sequence[str | Path] = "nano",
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype | None = None,
    residency: str = "auto",
    memory_gb: float | None = None,
    weights: str = "auto",
) -> Engine:
    """Return an engine for a model: a shipped name, or a folder, a file or several files (docs/files.md).

    device: "auto", "cpu", "cuda", "cuda:1". dtype: "bfloat16" or "float32"; None and "auto" are
    $SOUNDSTAGE_DTYPE, else the model's wish where the device is fast at it (docs/processors.md). Both may be
    PyTorch's own objects.
    residency: where weights are while they are not used, one of memory.policy.POLICIES; "auto" is the fastest
    that fits. memory_gb: how much of the device's memory may be used; None is what is free. weights: how the
    transformer's are held, one of weights.storage.STORAGES; "auto" is as the file has them (docs/memory.md).

    Reads headers only. Raises RequestError, which names what is right, for an unknown model or word and for a
    device that is not there, WeightsError for missing or damaged files.
    """
    found = find_model(model)
    words = [model] if isinstance(model, str | Path) else model
    return Engine(
        replace(found, asked=tuple(map(str, words))),
        device=device,
        dtype=dtype,
        residency=residency,
        memory_gb=memory_gb,
        weights=weights,
    )


class Engine:
    """One model, and what is kept of it between requests. Threads may share it: runs take turns.

    parts: given by tests and by programs that build the model themselves; None loads them from `model`.
    cache: keeps encodings; None is the user's own, see rendering/encoding_cache.py. options: the other words
    as they were given, to make an engine like this one.
    """

    def __init__(
        self,
        model: ModelSet,
        *,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype | None = None,
        residency: str = "auto",
        memory_gb: float | None = None,
        weights: str = "auto",
        parts: ModelParts | None = None,
        cache: EncodingCache | None = None,
    ) -> None:
        self.model = model
        self.options: dict[str, Any] = {
            "device": device,
            "dtype": dtype,
            "residency": residency,
            "memory_gb": memory_gb,
            "weights": weights,
        }
        self._limit_bytes = _limit_bytes(memory_gb)
        self._policy = policy_named(residency)
        self._storage = storage_named(weights)
        self._device = checked_device(device)
        self._dtype = asked_format(dtype)
        self._parts = parts
        self._cache = cache
        self._turns = Turns()
        self._queue = RunQueue(self._turns)
        self._renderer: Renderer | None = None  # made by the first run

    def __reduce__(self) -> NoReturn:
        raise RequestError(
            "an engine can be neither copied nor sent to another process; call ss.load where it is needed"
        )

    @property
    def number_format(self) -> NumberFormat:
        """Return the number format that this engine computes in, and why."""
        return choose_format(self._dtype, self.model.defaults.dtype, kind_of(pick_device(self._device)))

    def plan(self, request: Request) -> Plan:
        """Return what `run` would do. Raises RequestError with all problems of the request."""
        if not isinstance(request, Request):
            raise RequestError(
                f"a {type(request).__name__} was given where a Request is needed; give ss.Request(prompt=...)"
            )
        return plan_request(request, self.model)

    def choose(self, plan: Plan) -> Choice:
        """Return where the weights will be for a plan, what that takes, and why; reads headers only.

        Raises RequestError, with the nearest sizes that fit, if the plan does not fit this machine.
        """
        built = None if self._renderer is None else self._renderer.built
        return choose_placement(
            plan,
            self.model,
            pick_device(self._device),
            self.number_format.item_bytes,
            self._policy,
            storage=self._storage,
            limit_bytes=self._limit_bytes,
            process_bytes=None if self._renderer is None else self._renderer.process_bytes,
            kept=None if built is None else (built.storage, built.residency),
        )

    def generate(
        self,
        prompt: str | Request,
        *,
        progress: Report = None,
        sound: SoundPolicy | None = None,
        retries: int = 0,
        asked: Asked | None = None,
        **fields: Any,
    ) -> Clip:
        """Make a clip from a prompt and other fields of a Request, or from a Request.

        progress: True shows bars on stderr, lines where it is no terminal; a function gets a Progress at each
        event. Other threads wait until the clip is done, in the order in which they came.
        sound: a policy, whose words and NAG are added to the request; that is a warning. retries: how often
        it is made again with another seed while a check of the result fails; the best is returned, and
        "review" of its provenance says why. asked: what the checks expect; None is what the request says.
        """
        if sound is not None or retries or asked is not None:
            from soundstage.review.retry import ResultWishes

            return self._reviewed(prompt, fields, progress, ResultWishes(sound, retries, asked))
        plan = self._checked(prompt, fields, progress)

        def warn(event: Event) -> None:
            if isinstance(event, Notice) and progress is not True:  # the bars print it
                warnings.warn(event.text, stacklevel=4)

        with reporting(progress, plan) as report:
            return clip_of(self._turns, self.run(plan), warn, report)

    def _reviewed(
        self, prompt: str | Request, fields: dict[str, Any], progress: Report, wishes: ResultWishes
    ) -> Clip:
        """Return the best take of a request. Its takes differ in their seeds alone."""
        request = prompt if isinstance(prompt, Request) else Request(prompt=prompt, **fields)
        if wishes.sound is not None:
            for notice in wishes.sound.notices(request):
                warnings.warn(notice, stacklevel=3)
        request = seeded(wishes.request(request))
        return wishes.best(lambda seed: self.generate(with_seed(request, seed), progress=progress), request)

    def submit(
        self, prompt: str | Request, *, progress: Report = None, preview_every: int = 0, **fields: Any
    ) -> Handle:
        """Queue a clip, from what `generate` takes, and return its handle at once.

        Queued clips are made one after the other in a thread of the engine. Raises RequestError for a request
        that cannot be made. preview_every: a Preview after every so many steps, 0 for none.
        """
        plan = self._checked(prompt, fields, progress)
        run = self.run(plan, preview_every=preview_every)
        return self._queue.submit(plan, run, progress)

    def _checked(self, prompt: str | Request, fields: dict[str, Any], progress: Report) -> Plan:
        check_report(progress)
        self._turns.check_process()
        return self.plan(prompt if isinstance(prompt, Request) else Request(prompt=prompt, **fields))

    def run(
        self,
        plan: Plan | Request,
        *,
        preview_every: int = 0,
        handover: Handover | None = None,
        choice: Choice | None = None,
        given: Latents | None = None,
        decode: bool = True,
        checkpoint: str | Path | None = None,
        every_s: float = 30.0,
    ) -> Run[Event]:
        """Return the events of a run, one for each stage and step; the work is done as they are taken.

        Closing the run stops the work. Another thread may close it too, and waits until the event that is
        being made is done. preview_every: a Preview after every so many steps, 0 for none. handover: what a
        clip goes on from, see `continuous`. choice: what `choose` has found for the plan; None asks it.
        given: latents that the first pass starts from, where the plan has its start as "previous". decode:
        False makes the latents of Done alone; its clip then holds neither picture nor sound.
        checkpoint: a folder where the run keeps where it stands, every `every_s` seconds and when it is
        stopped; a run of the same plan that is given it goes on from there, with the same bits. Delete it
        when the clip is saved (docs/resume.md).

        A take in windows comes as a Phase "window 1 of 12" and the events of that window, and so on. Between
        two events other runs of the engine may go on; each makes the film it makes alone.
        """
        if not isinstance(preview_every, Integral) or preview_every < 0:
            raise RequestError(
                f"preview_every is {preview_every!r}; give a whole number, 0 for no previews",
                field="preview_every",
            )

        folder, pause_s = None if checkpoint is None else Path(checkpoint), _pause_s(every_s)
        if folder is not None and handover is not None:
            raise RequestError(
                "a clip that is handed over keeps no checkpoint; leave it out", field="checkpoint"
            )

        def begin(state: RunState) -> Generator[Event, None, None]:
            made = plan if isinstance(plan, Plan) else self.plan(plan)
            return self._rendering().render(
                made,
                state,
                preview_every=preview_every,
                handover=handover,
                choice=choice,
                given=given,
                decode=decode,
                checkpoint=folder,
                every_s=pause_s,
            )

        return Run(self._turns, begin)

    def _rendering(self) -> Renderer:
        """Return what renders plans; making it loads torch. Called within a turn."""
        if self._renderer is None:
            from soundstage.rendering.run import Renderer

            device, number_format = pick_device(self._device), self.number_format.name
            self._renderer = Renderer(
                self.model, device, number_format, self.choose, given=self._parts, cache=self._cache
            )
        return self._renderer


def _pause_s(every_s: object) -> float:
    """Return the seconds between two states of a checkpoint. Raises RequestError for what is none."""
    if isinstance(every_s, bool) or not isinstance(every_s, int | float) or not every_s >= 0:
        raise RequestError(f"every_s is {shown(every_s)}; give seconds from 0 on", field="every_s")
    return float(every_s)


def _limit_bytes(memory_gb: float | None) -> float:
    """Return how many bytes of memory may be used. Raises RequestError for what is no number above 0."""
    if memory_gb is None:
        return math.inf
    if isinstance(memory_gb, bool) or not isinstance(memory_gb, Real):
        raise RequestError(f"memory is {shown(memory_gb)}; give a number of GB", field="memory_gb")
    if not memory_gb > 0:
        raise RequestError(f"memory is {memory_gb:g} GB; give more than 0", field="memory_gb")
    return float(min(memory_gb, MOST_GB)) * 1e9
