"""Show a training while it runs: a table of losses with a bar in a terminal, lines elsewhere."""

from __future__ import annotations

from types import TracebackType

from rich.table import Table

from soundstage.rendering.screen import Screen
from soundstage.training.loop import StepDone
from soundstage.training.tuning.config import TrainConfig
from soundstage.training.tuning.session import RunNotice, TuningEvent

DECAY = 0.98  # of the means that are shown


class RunScreen:
    """Show the events of one run."""

    def __init__(self, config: TrainConfig, *, quiet: bool = False) -> None:
        self.config = config
        self.screen = Screen(quiet=quiet)
        self.screen.picture = self._table
        self.means: dict[str, tuple[float, float]] = {}  # by name: last, running mean
        self.last: StepDone | None = None
        self._bar = self.screen.rows.add_task("steps", total=config.steps, start=False)

    def __enter__(self) -> RunScreen:
        self.screen.__enter__()
        self.screen.begin("load the model")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.screen.__exit__(kind, value, trace)

    def show(self, event: TuningEvent) -> None:
        """Show an event."""
        if isinstance(event, StepDone):
            self._step(event)
        elif isinstance(event, RunNotice):
            self.screen.say(event.text)
        else:
            self.screen.say(f"step {event.step}: {event.path}")

    def _step(self, event: StepDone) -> None:
        if self.last is None:
            self.screen.begin("train", row=False)
            self.screen.rows.start_task(self._bar)
        self.last = event
        for name, value in event.losses.items():
            mean = self.means[name][1] if name in self.means else value
            self.means[name] = value, DECAY * mean + (1 - DECAY) * value
        self.screen.rows.update(self._bar, completed=event.step)
        if event.row is not None and not self.screen.is_live:
            told = " ".join(f"{name} {value:.4f}" for name, value in event.row.items() if " " not in name)
            self.screen.say(
                f"step {event.step} of {self.config.steps}: {told}, {event.pace.step_s:.3g} s a step"
            )

    def _table(self) -> Table | None:
        if self.last is None:
            return None
        table = Table("loss", "this step", "mean", title=f"{self.config.mode} on {self.config.model}")
        for name in sorted(self.means):
            last, mean = self.means[name]
            table.add_row(name, f"{last:.4f}", f"{mean:.4f}")
        table.caption = f"{self.last.pace.step_s:.3g} s a step, {self.last.pace.samples} samples"
        return table
