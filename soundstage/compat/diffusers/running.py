"""Carry out one clip of a call: its events become progress, notices and callbacks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from soundstage.compat.diffusers.telling import Notices, entries
from soundstage.engine import Engine
from soundstage.errors import RequestError, listed, shown
from soundstage.planning.plan import Plan
from soundstage.rendering.events import Done, Event, Notice, Step
from soundstage.rendering.progress import reporting

if TYPE_CHECKING:
    from soundstage.rendering.prepare import Latents

TENSORS = {"latents": "video", "audio_latents": "audio"}  # of a callback, by the names of LiveTokens


# The call whose callback runs in this thread.
CALLING: ContextVar[CallWatch | None] = ContextVar("CALLING", default=None)


@dataclass
class CallWatch:
    """Watch the runs of one call of a pipeline. interrupted: set by a callback, ends the steps of a clip.

    progress: bars on stderr; None shows them on a terminal. owner: the pipeline.
    """

    notices: Notices
    owner: Any
    progress: bool | None = None
    interrupted: bool = False
    timestep: Any = None
    num_steps: int | None = None
    callback: Callable[[Any, int, Any, dict[str, Any]], Any] | None = None
    tensors: Sequence[str] = ("latents",)

    def watch(self, callback: Any, tensors: Any) -> None:
        """Call a function of the user's after each step. Raises RequestError for what is none."""
        own = getattr(callback, "tensor_inputs", None)  # of a callback object
        wanted = own or tensors or ("latents",)
        names = [wanted] if isinstance(wanted, str) else entries(wanted, "callback_on_step_end_tensor_inputs")
        unknown = [name for name in names if name not in TENSORS]
        if unknown:
            raise RequestError(
                f"callback_on_step_end_tensor_inputs has {shown(unknown[0])}; a callback gets "
                f"{listed(str(unknown[0]), TENSORS)}",
                field="callback_on_step_end_tensor_inputs",
            )
        if callback is None:
            return
        if not callable(callback):
            raise RequestError(f"callback_on_step_end is {shown(callback)}; give a function")
        self.tensors = names
        self.callback = callback

    def run(self, engine: Engine, plan: Plan, given: Latents | None, *, decode: bool) -> Done:
        """Make the clip of a plan; where it is interrupted, decode the latents that are there."""
        shows = sys.stderr.isatty() if self.progress is None else self.progress
        self.num_steps = plan.passes[0].num_steps
        self._levels = iter([sigma for pass_ in plan.passes for sigma in pass_.sigmas[:-1]])
        run = engine.run(plan, given=given, decode=decode)
        with reporting(shows, plan) as report, closing(run):
            for event in run:
                report(event)
                left = self._see(event)
                if left is not None:
                    break
                if isinstance(event, Done):
                    return event
        assert left is not None
        return self._rest(engine, plan, left, decode)

    def _see(self, event: Event) -> Latents | None:
        """Tell an event on; return the latents that are there if the callback has ended the steps."""
        if isinstance(event, Notice):
            self.notices.tell(event.text)
        if isinstance(event, Step):
            self._step(event)
            if self.interrupted and event.tokens is not None and event.step < event.num_steps:
                return _latents(event)
        return None

    def _step(self, event: Step) -> None:
        import torch

        self.timestep = torch.tensor(next(self._levels, event.sigma) * 1000)
        tokens = event.tokens
        if self.callback is None or tokens is None:
            return
        given = {name: getattr(tokens, TENSORS[name]) for name in self.tensors}
        tokens.put(**_changes(self._called_back(event.step - 1, given)))

    def _called_back(self, step: int, given: dict[str, Any]) -> Any:
        """Return what the callback returns. Raises RequestError where it has changed the pipeline."""
        assert self.callback is not None
        before, token = self.owner.kept_state(), CALLING.set(self)
        try:
            changed = self.callback(self.owner, step, self.timestep, given)
        finally:
            CALLING.reset(token)
        if self.owner.kept_state() != before:
            raise RequestError(
                "callback_on_step_end changed the LoRAs, the scheduler or the place of the model; a clip "
                "keeps those it began with: change them between two calls",
                field="callback_on_step_end",
            )
        return changed

    def _rest(self, engine: Engine, plan: Plan, left: Latents, decode: bool) -> Done:
        """Return the clip of the latents that an interrupted run has left."""
        last = plan.passes[-1]
        if len(plan.passes) > 1 or plan.windows:
            raise RequestError("the clip was interrupted before its last pass, so there is nothing to show")
        from soundstage.rendering.prepare import cropped

        done = replace(plan, passes=(replace(last, start="previous", sigmas=(0.0,), source=None),))
        return self.run(engine, done, cropped(last, left.video, left.audio), decode=decode)


def _changes(returned: Any) -> dict[str, Any]:
    """Return the tensors of a callback's dict by the names of LiveTokens.

    Raises RequestError for what is neither a dict of tensors nor nothing.
    """
    import numpy as np
    import torch

    if returned is None:
        return {}
    if not isinstance(returned, Mapping):
        raise RequestError(
            f"callback_on_step_end returned {shown(returned)}; return its dict of tensors, or nothing",
            field="callback_on_step_end",
        )
    tensors = {TENSORS[name]: value for name, value in returned.items() if name in TENSORS}
    for name, value in tensors.items():
        tensors[name] = torch.from_numpy(value) if isinstance(value, np.ndarray) else value
        if value is not None and not isinstance(tensors[name], torch.Tensor):
            raise RequestError(
                f"callback_on_step_end returned {shown(value)} as latents of {name}; return a tensor",
                field="callback_on_step_end",
            )
    return tensors


def _latents(event: Step) -> Latents:
    """Return the tokens of a step, copied, as they are."""
    from soundstage.rendering.prepare import Latents

    assert event.tokens is not None
    both = [None if x is None else x.clone() for x in (event.tokens.video, event.tokens.audio)]
    return Latents(*both)
