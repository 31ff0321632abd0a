"""Train any module to the end of its schedule, from a state that survives a kill at any instant.

A step's data depend only on its number, so a resumed run sees what an uninterrupted one would. The state is
one file, written under a temporary name and renamed; the table of losses and its picture lie beside it.
Progress and stopping belong to the caller: the trainer yields an event per step and prints nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from soundstage.training.curves import add_row, draw_curves
from soundstage.training.optimizers import Schedule, make_optimizers, set_peak_rates, set_rates

# The number of a step -> its losses by name. "loss" is descended, the others are logged.
LossFn = Callable[[int], dict[str, Tensor]]


@dataclass(frozen=True)
class StepDone:
    """A step that was made."""

    step: int  # how many steps have been made in all
    losses: Mapping[str, float]
    row: Mapping[str, float] | None  # means since the last row of the table, at steps that add one


class Trainer:
    """A module in training. `folder` holds state.pt, loss.csv and loss.png.

    Only parameters that require gradients are trained and averaged.
    """

    def __init__(self, name: str, model: nn.Module, schedule: Schedule, folder: Path) -> None:
        """Resume from the state in `folder` if there is one. name: the title of the curves."""
        self.name, self.model, self.schedule, self.folder = name, model, schedule, folder
        folder.mkdir(parents=True, exist_ok=True)
        self.params = [p for p in model.parameters() if p.requires_grad]
        self.optimizers = make_optimizers(model, schedule)
        self.averaged = [p.detach().clone() for p in self.params]
        self.step = 0
        self._resume()

    @property
    def complete(self) -> bool:
        return self.step >= self.schedule.steps

    def begin(self, weights: Mapping[str, Tensor], step: int) -> None:
        """Take over these weights, by name, as if `step` steps had been made; what is not trained stays."""
        frozen = {name for name, p in self.model.named_parameters() if not p.requires_grad}
        with torch.no_grad():
            for name, value in self.model.state_dict().items():
                if name not in frozen:
                    value.copy_(weights[name])
        self.averaged = [p.detach().clone() for p in self.params]
        self.step = step

    def run(self, loss_fn: LossFn) -> Generator[StepDone, None, None]:
        """Make the steps that are left, and yield an event after each.

        The state is saved every few minutes, at the end, and when the generator is closed. What loss_fn
        raises ends the run with the state as it was last saved.
        """
        saved = time.monotonic()
        seen: dict[str, list[float]] = {}  # since the last row; a step need not have every loss
        try:
            while not self.complete:
                losses = self._step(loss_fn)
                for name, value in losses.items():
                    seen.setdefault(name, []).append(value)
                row = None
                if self.step % self.schedule.log_every == 0:
                    row = {name: sum(values) / len(values) for name, values in seen.items()}
                    seen = {}
                    add_row(self.folder / "loss.csv", self.step, row)
                if time.monotonic() - saved > self.schedule.save_every_s:
                    self.save()
                    saved = time.monotonic()
                yield StepDone(self.step, losses, row)
        except GeneratorExit:
            self.save()
            raise
        self.save()

    def _step(self, loss_fn: LossFn) -> dict[str, float]:
        losses = loss_fn(self.step)
        self._descend(losses["loss"])
        self.step += 1
        return {name: float(value.detach()) for name, value in losses.items()}

    def _descend(self, loss: Tensor) -> None:
        set_rates(self.optimizers, self.schedule.share_at(self.step))
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.params, self.schedule.clip)
        if not norm.isfinite():  # one bad step would spoil the weights for good
            return
        for optimizer in self.optimizers:
            optimizer.step()
        keep = min(self.schedule.average, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(self.averaged, [p.detach() for p in self.params], 1 - keep)

    def averaged_weights(self) -> dict[str, Tensor]:
        """Return a state dict: averaged values of what was trained, present values of the rest."""
        state = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        trained = iter(self.averaged)
        for name, param in self.model.named_parameters():
            if param.requires_grad:
                state[name] = next(trained).clone()
        return state

    def save(self) -> None:
        """Write the state under a temporary name, rename it over the old one, and draw the curves."""
        state: dict[str, Any] = {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "averaged": self.averaged,
        }
        path = self.folder / "state.pt"
        part = path.with_suffix(".part")
        torch.save(state, part)
        os.replace(part, path)
        draw_curves(self.folder / "loss.csv", self.folder / "loss.png", title=self.name)

    def _resume(self) -> None:
        path = self.folder / "state.pt"
        if not path.exists():
            return
        state = torch.load(path, map_location="cpu", weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        set_peak_rates(self.optimizers, self.schedule)  # it may have been changed since
        self.averaged = state["averaged"]
        self.step = state["step"]
