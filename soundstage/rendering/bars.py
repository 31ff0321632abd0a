"""Show the progress of a run on standard error: a line per phase, a bar per pass, one for all windows."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from soundstage.planning.plan import Plan
from soundstage.rendering.events import Event, LoraAttached, Notice, Phase, Step
from soundstage.rendering.progress import made_until, window_of
from soundstage.rendering.screen import Screen, clock

TAKE = "all windows"


class PassBars:
    """A bar for each pass of a clip. On a pipe there are lines and no bars.

    take: forwards of all windows, 0 for a clip made at once. steps: those of each pass. display: None is one
    of its own.
    """

    def __init__(self, steps: Mapping[str, int], display: Screen | None, *, take: int = 0) -> None:
        self._stack = ExitStack()
        self._display = display or Screen()
        self._own = display is None
        self._bars = self._display.rows
        self._take = self._bars.add_task(TAKE, total=take, start=False) if take else None
        self._tasks = {
            name: self._bars.add_task(name, total=count, start=False) for name, count in steps.items()
        }

    def __enter__(self) -> Self:
        if self._own:
            self._stack.enter_context(self._display)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _stepped(self, name: str, step: int, num_steps: int) -> None:
        """Draw a step of a pass; on a pipe, print a line when the pass is done."""
        self._bars.update(self._tasks[name], completed=step)
        if not self._display.is_live and step == num_steps:
            self._display.say(f"{name} {step}/{num_steps}")


class ProgressBars(PassBars):
    """Show the events of one plan. display: None is one of its own.

    Of a take the time left is worked out from the forwards of its windows that are made in this run.
    """

    def __init__(self, plan: Plan, display: Screen | None = None) -> None:
        steps = {pass_.name: pass_.num_steps for pass_ in plan.passes}
        super().__init__(steps, display, take=plan.num_forwards if plan.windows else 0)
        self._plan = plan
        self._window: int | None = None
        self._began = time.monotonic()
        self._before = 0  # forwards of windows that an earlier run has made
        self._made = 0  # forwards of windows before this one

    def show(self, event: Event) -> None:
        """Print or draw what an event says."""
        if isinstance(event, Phase):
            self._phase(event)
        elif isinstance(event, Notice):
            self._display.say(f"notice: {event.text}")
        elif isinstance(event, LoraAttached):
            self._display.say(f"lora {event.report.line}")
        elif isinstance(event, Step):
            self._step(event)

    def _phase(self, event: Phase) -> None:
        window = window_of(event)
        if window is not None:
            self._begin(window)
            self._display.say(f"{event.name} ...{self._left()}")
            return
        self._display.begin(event.name, event.detail, row=event.name != "denoise")
        if event.name == "denoise":
            part = event.detail.part
            for name in [part] if part in self._tasks else self._tasks:
                self._bars.start_task(self._tasks[name])

    def _begin(self, window: int) -> None:
        """Begin a window. Those before it are made, by this run or by an earlier one."""
        made = sum(clip.num_forwards for clip in self._plan.clips[:window])
        if self._window is None:
            self._before, self._began = made, time.monotonic()
        self._window, self._made = window, made
        for pass_ in self._plan.clips[window].passes:
            self._bars.reset(self._tasks[pass_.name], start=False, total=pass_.num_steps)
        if self._take is not None:
            if made == self._before:
                self._bars.update(self._take, total=self._plan.num_forwards - made)
                self._bars.start_task(self._take)
            self._bars.update(self._take, completed=made - self._before)

    def _step(self, event: Step) -> None:
        if self._take is not None:
            self._bars.update(self._take, completed=self._forwards(event) - self._before)
        self._stepped(event.name, event.step, event.num_steps)

    def _forwards(self, event: Step) -> int:
        """Return the forwards of the take up to a step of the current window."""
        clip = self._plan.clips[self._window or 0]
        return self._made + round(made_until(clip, event, lambda pass_: pass_.num_forwards))

    def _left(self) -> str:
        """ ", 1:20 so far, about 3:40 left" where something was made to count from."""
        made = self._made - self._before
        if made <= 0:
            return ""
        spent = time.monotonic() - self._began
        left = spent / made * (self._plan.num_forwards - self._made)
        return f" ({clock(spent)} so far, about {clock(left)} left)"
