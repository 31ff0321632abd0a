"""Show the progress of a server's job on standard error, as that of an engine is shown."""

from __future__ import annotations

import time

from soundstage.jobs.views import Job, JobEvent, JobProgress
from soundstage.rendering.bars import PassBars
from soundstage.rendering.events import Detail
from soundstage.rendering.progress import names_phase
from soundstage.rendering.screen import Screen

LOSSES_S = 30.0  # between two lines of losses on a pipe
WAITING = ("queued", "interrupted", "paused")  # states in which nothing is made


class RemoteBars(PassBars):
    """Show the events of one job: a line per phase, a bar per pass. display: None is one of its own."""

    def __init__(self, job: Job, display: Screen | None = None) -> None:
        passes = [] if job.plan is None else job.plan.passes
        super().__init__({item.name: item.steps for item in passes}, display)
        self._begun = ""
        self._trains = job.kind == "train"
        self._told_s = 0.0
        self._detail = Detail()

    def show(self, event: JobEvent) -> None:
        """Print or draw what an event says."""
        if event.message is not None:
            self._message(event.message, "notice" if event.type == "warning" else event.level or "log")
        elif event.type == "state" and event.state in WAITING:
            self._begin(event.state)
        elif event.progress is not None:
            self._progress(event.progress)

    def _message(self, text: str, kind: str) -> None:
        """Print a message. One that names a phase begins it: progress may pass over short ones."""
        phase, _, part = text.partition(": ")
        if kind != "info" or not names_phase(phase):
            self._display.say(text if self._trains and kind == "info" else f"{kind}: {text}")
        elif phase == "resume":
            self._display.say(f"goes on with {part}")
        else:
            self._begin(phase)

    def _begin(self, phase: str) -> None:
        if phase != self._begun:
            self._begun, self._detail = phase, Detail()
            self._display.begin(phase, self._detail, row=phase not in ("denoise", "training"))

    def _progress(self, now: JobProgress) -> None:
        self._begin(now.phase)
        self._detail.done, self._detail.total = now.step, now.num_steps
        task = self._tasks.get(now.pass_ or "")
        if task is not None:
            self._bars.start_task(task)
            if now.losses:
                self._losses(now.pass_ or "", now)
            self._stepped(now.pass_ or "", now.step, now.num_steps)

    def _losses(self, name: str, now: JobProgress) -> None:
        """Tell the losses of a training: beside its bar, or now and then on a pipe."""
        told = " ".join(f"{loss} {value:.4f}" for loss, value in (now.losses or {}).items())
        if self._display.is_live:
            self._bars.update(self._tasks[name], description=f"{name}, {told}")
        elif time.monotonic() - self._told_s >= LOSSES_S or now.step == now.num_steps:
            self._told_s = time.monotonic()
            self._display.say(f"step {now.step} of {now.num_steps}: {told}")
