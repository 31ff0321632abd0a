"""Progress of a run on stderr: a line per phase, a bar per pass."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from soundstage.engine import Event, LoraAttached, Phase, Step
from soundstage.plan import Plan


class Progress:
    """Shows events of one plan; on a pipe it prints a line per phase and no bars."""

    def __init__(self, plan: Plan) -> None:
        self._console = Console(stderr=True)
        self._steps = {step.name: step.num_steps for step in plan.passes}
        self._bars = Bars(
            TextColumn("{task.description:14}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._tasks = {
            name: self._bars.add_task(name, total=count, start=False) for name, count in self._steps.items()
        }

    def __enter__(self) -> Progress:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def show(self, event: Event) -> None:
        if isinstance(event, Phase):
            self._console.print(f"{event.name} ...", highlight=False)
            if event.name == "denoise":
                for task in self._tasks.values():
                    self._bars.start_task(task)
        elif isinstance(event, LoraAttached):
            self._console.print(f"lora {event.report.line}", highlight=False, markup=False, soft_wrap=True)
        elif isinstance(event, Step):
            self._bars.update(self._tasks[event.name], completed=event.step)
            if not self._console.is_terminal and event.step == event.num_steps:
                self._console.print(f"{event.name} {event.step}/{event.num_steps}", highlight=False)
