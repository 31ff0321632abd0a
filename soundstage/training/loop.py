"""Train any module to the end of its schedule, from a state that survives a kill at any instant.

The clock or a number of steps decides how far a training is. By the clock its rates fall to their end when
its minutes are over, however many steps that was. Batches are numbered, so that a resumed run takes those
that come next. The state is one file, written under a temporary name and renamed; the table of losses and its
picture lie beside it.
Progress and stopping belong to the caller: the trainer yields an event per step and prints nothing.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from soundstage.errors import RequestError
from soundstage.files import whole_file
from soundstage.training.batches import Batch
from soundstage.training.curves import add_row, cut_rows, draw_curves
from soundstage.training.optimizers import Schedule, make_optimizers, set_peak_rates, set_rates
from soundstage.training.steps import GradientSteps

STATE = "state.pt"
# What reading a file that is no state raises, or one whose numbers are of other shapes or names.
UNREADABLE = (RuntimeError, ValueError, LookupError, TypeError, AttributeError, EOFError, UnpicklingError)


@dataclass(frozen=True)
class StepDone:
    """A step that was made."""

    step: int  # how many steps have been made in all
    losses: Mapping[str, float]
    row: Mapping[str, float] | None  # means since the last row of the table, at steps that add one
    pace: Pace


@dataclass(frozen=True)
class Pace:
    """Hold the pace of a training since the last row of its table."""

    step_s: float  # seconds per step, waiting included
    waiting: float  # share of the time in which the trainer waited for data
    samples: int  # seen in all runs


class Trainer:
    """A module in training. `folder` holds state.pt, loss.csv and loss.png.

    Only parameters that require gradients are trained and averaged.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        schedule: Schedule,
        folder: Path,
        *,
        device: torch.device | None = None,
    ) -> None:
        """Resume from the state in `folder` if there is one. name: the title of the curves."""
        self.name, self.schedule, self.folder = name, schedule, folder
        self.device = device or torch.device("cpu")
        self.model = model.to(self.device)
        folder.mkdir(parents=True, exist_ok=True)
        self.params = [p for p in model.parameters() if p.requires_grad]
        self.optimizers = make_optimizers(model, schedule)
        self.averaged = [p.detach().clone() for p in self.params]
        self.step = self.samples = 0
        self.start = self.seconds = 0.0  # progress at the first step; time spent on steps so far
        self.complete = False  # the schedule is over; it has one step at least
        self.notes: dict[str, Any] = {}  # numbers of the caller's, kept in the state
        self._rows = _Rows(self)
        self._resume()

    @property
    def progress(self) -> float:
        """Return how much of the schedule is done, from 0 to 1."""
        if self.schedule.steps is not None:
            done = self.step / self.schedule.steps
        else:
            done = self.seconds / max(60 * self.schedule.minutes, 1e-9)
        return min(1.0, self.start + (1 - self.start) * done)

    def begin(self, weights: Mapping[str, Tensor], start: float) -> None:
        """Take over these weights, by name, at the rates of this progress; what is not trained stays."""
        frozen = {name for name, p in self.model.named_parameters() if not p.requires_grad}
        with torch.no_grad():
            for name, value in self.model.state_dict().items():
                if name not in frozen:
                    value.copy_(weights[name])
        self.averaged = [p.detach().clone() for p in self.params]
        self.start = start

    def run(
        self, batches: Iterator[Batch], steps: GradientSteps, saved: Callable[[], None] = lambda: None
    ) -> Generator[StepDone, None, None]:
        """Make the steps that are left, and yield an event after each.

        The state is saved every minute, at the end, and when the generator is closed. saved: called after
        every save but the last. What a step raises ends the run with the state as it was last saved.
        """
        if self.complete:
            return
        batch = next(batches)  # the first takes as long as the data need to begin; the clock starts behind it
        began = last_save = time.monotonic()
        waited = 0.0
        try:
            while True:
                losses = self._step(steps, batch)
                self.samples += batch.samples
                now = time.monotonic()
                self.seconds += now - began
                self.complete = self.progress >= 1
                row, pace = self._rows.add(losses, now - began, waited)
                began = now
                if now - last_save > self.schedule.save_every_s and not self.complete:
                    self.save()
                    saved()
                    last_save = time.monotonic()
                yield StepDone(self.step, losses, row, pace)
                if self.complete:
                    break
                asked = time.monotonic()
                batch = next(batches)
                waited = time.monotonic() - asked
        except GeneratorExit:
            self.save()
            raise
        self.save()

    def _step(self, steps: GradientSteps, batch: Batch) -> dict[str, float]:
        losses = steps(batch, self.step)
        self._descend()
        self.step += 1
        values = torch.stack([value.float() for value in losses.values()]).tolist()  # one copy for all
        return dict(zip(losses, values, strict=True))

    def _descend(self) -> None:
        set_rates(self.optimizers, self.schedule.share_at(self.step, self.progress))
        norm = nn.utils.clip_grad_norm_(self.params, self.schedule.clip)
        if not norm.isfinite():  # one bad step would spoil the weights for good
            return
        for optimizer in self.optimizers:
            optimizer.step()
        keep = min(self.schedule.average, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(self.averaged, [p.detach() for p in self.params], 1 - keep)

    def averaged_weights(self) -> dict[str, Tensor]:
        """Return a state dict on the CPU: averages of what was trained, present values of the rest."""
        state = {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}
        trained = iter(self.averaged)
        for name, param in self.model.named_parameters():
            if param.requires_grad:
                state[name] = next(trained).cpu().clone()
        return state

    def save(self) -> None:
        """Write the state under a temporary name, rename it over the old one, and draw the curves.

        Raises MediaError where it cannot be written; the old one stays.
        """
        state: dict[str, Any] = {
            "step": self.step,
            "samples": self.samples,
            "start": self.start,
            "seconds": self.seconds,
            "complete": self.complete,
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "averaged": self.averaged,
            "notes": self.notes,
            "rows": self._rows.standing(),
        }
        with whole_file(self.folder / STATE) as part, part.open("wb") as file:
            try:
                torch.save(state, file)
            except RuntimeError as error:  # torch's own words for a full disk hide the system's
                raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None
        draw_curves(self.folder / "loss.csv", self.folder / "loss.png", title=self.name)

    def _resume(self) -> None:
        path = self.folder / STATE
        if not path.exists():
            return
        try:
            self._go_on(torch.load(path, map_location=self.device, weights_only=True))
        except (*UNREADABLE, OSError) as error:
            if isinstance(error, OSError) and error.errno != errno.EINVAL:  # EINVAL: torch, of a cut file
                raise
            told = str(error).strip().partition("\n")[0][:200]
            raise RequestError(
                f"{path} is damaged, or of another version of soundstage ({type(error).__name__}: {told}); "
                "remove it to begin again at step 0, or give another folder",
                field="output",
            ) from error
        cut_rows(self.folder / "loss.csv", self.step)

    def _go_on(self, state: dict[str, Any]) -> None:
        """Take over a state."""
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        set_peak_rates(self.optimizers, self.schedule)  # it may have been changed since
        self.averaged = state["averaged"]
        self.step, self.samples = state["step"], state["samples"]
        self.start, self.seconds, self.complete = state["start"], state["seconds"], state["complete"]
        if self.schedule.steps is not None:  # there may be more of them now, or fewer
            self.complete = self.step >= self.schedule.steps
        self.notes = state.get("notes", {})
        self._rows.go_on(state.get("rows"))


class _Rows:
    """Collect losses, and add their means to the table every few steps and at the last."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self._begin()

    def _begin(self) -> None:
        self.seen: dict[str, list[float]] = {}  # a step need not have every loss
        self.count, self.spent, self.waited = 0, 0.0, 0.0

    def standing(self) -> dict[str, Any]:
        """Return what has been collected for the next row, for a state."""
        return {"seen": self.seen, "count": self.count, "spent": self.spent, "waited": self.waited}

    def go_on(self, standing: dict[str, Any] | None) -> None:
        """Go on from what a state has kept."""
        self.__dict__.update(standing or {})

    def add(
        self, losses: Mapping[str, float], spent: float, waited: float
    ) -> tuple[dict[str, float] | None, Pace]:
        """Return the row that a step completes, if any, and the pace up to it."""
        trainer = self.trainer
        for name, value in losses.items():
            self.seen.setdefault(name, []).append(value)
        self.count, self.spent, self.waited = self.count + 1, self.spent + spent, self.waited + waited
        pace = Pace(self.spent / self.count, self.waited / max(self.spent, 1e-9), trainer.samples)
        if trainer.step % trainer.schedule.log_every and not trainer.complete:
            return None, pace
        row = {name: sum(values) / len(values) for name, values in self.seen.items()}
        add_row(trainer.folder / "loss.csv", trainer.step, row, pace.__dict__)
        self._begin()
        return row, pace
