"""Show the progress of a server's job on standard error, as that of an engine is shown."""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType

from rich.progress import TaskID

from soundstage.jobs.views import Job, JobEvent, JobProgress
from soundstage.rendering.screen import Screen

ALL = "all windows"


class RemoteBars:
    """Show the events of one job: a line per phase, a bar per pass. display: None is one of its own."""

    def __init__(self, job: Job, display: Screen | None = None) -> None:
        self._stack = ExitStack()
        self._display = display or Screen()
        self._own = display is None
        self._bars = self._display.rows
        self._told = ""
        passes = [] if job.plan is None else job.plan.passes
        self._tasks: dict[str, TaskID] = {
            item.name: self._bars.add_task(item.name, total=item.steps, start=False) for item in passes
        }

    def __enter__(self) -> RemoteBars:
        if self._own:
            self._stack.enter_context(self._display)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def show(self, event: JobEvent) -> None:
        """Print or draw what an event says."""
        if event.message is not None:
            kind = "notice" if event.type == "warning" else event.level or "log"
            self._display.say(f"{kind}: {event.message}")
        elif event.type == "state" and event.state in ("queued", "interrupted", "paused"):
            self._begin(event.state)
        elif event.progress is not None:
            self._progress(event.progress)

    def _begin(self, phase: str) -> None:
        if phase != self._told:
            self._told = phase
            self._display.begin(phase, row=phase != "denoise")

    def _progress(self, now: JobProgress) -> None:
        windows = f"window {now.window} of {now.num_windows}" if now.num_windows > 1 else ""
        self._begin(f"{windows} {now.phase}".strip() if now.phase != "denoise" or not windows else windows)
        task = self._tasks.get(now.pass_ or "")
        if task is None:
            return
        self._bars.start_task(task)
        self._bars.update(task, completed=now.step)
        if not self._display.is_live and now.num_steps and now.step == now.num_steps:
            self._display.say(f"{now.pass_} {now.step}/{now.num_steps}")
