"""Show the progress of a run on standard error: a line per phase, a bar per pass, one for all windows."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars

from soundstage.planning.plan import Plan
from soundstage.rendering.events import Event, LoraAttached, Notice, Phase, Step
from soundstage.rendering.progress import made_until, window_of

TAKE = "all windows"


class ProgressBars:
    """Show the events of one plan. On a pipe, print a line per phase and no bars. quiet: print nothing.

    Of a take the time left is worked out from the forwards of its windows that are made in this run.
    """

    def __init__(self, plan: Plan, *, quiet: bool = False) -> None:
        self._plan = plan
        self._console = Console(stderr=True, quiet=quiet)
        self._bars = Bars(
            TextColumn("{task.description:14}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(elapsed_when_finished=False),
            console=self._console,
            transient=True,
            disable=quiet or not self._console.is_terminal,
        )
        self._take: TaskID | None = None
        self._window: int | None = None
        self._began = time.monotonic()
        self._before = 0  # forwards of windows that an earlier run has made
        self._made = 0  # forwards of windows before this one
        if plan.windows:
            self._take = self._bars.add_task(TAKE, total=plan.num_forwards, start=False)
        self._tasks = {
            pass_.name: self._bars.add_task(pass_.name, total=pass_.num_steps, start=False)
            for pass_ in plan.passes
        }

    def __enter__(self) -> ProgressBars:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def show(self, event: Event) -> None:
        """Print or draw what an event says."""
        if isinstance(event, Phase):
            self._phase(event)
        elif isinstance(event, Notice):
            self._print(f"notice: {event.text}")
        elif isinstance(event, LoraAttached):
            self._print(f"lora {event.report.line}")
        elif isinstance(event, Step):
            self._step(event)

    def _phase(self, event: Phase) -> None:
        window = window_of(event)
        if window is not None:
            self._begin(window)
        left = self._left() if window is not None else ""
        self._print(f"{event.name} ...{left}")
        if event.name == "denoise":
            for task in self._tasks.values():
                self._bars.start_task(task)

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
        self._bars.update(self._tasks[event.name], completed=event.step)
        if self._take is not None:
            self._bars.update(self._take, completed=self._forwards(event) - self._before)
        if not self._console.is_terminal and event.step == event.num_steps:
            self._print(f"{event.name} {event.step}/{event.num_steps}")

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
        return f" ({_clock(spent)} so far, about {_clock(left)} left)"

    def _print(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


def _clock(seconds: float) -> str:
    """Return minutes and seconds, 3:05, or with hours, 1:03:05."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
