"""The loop that trains every part: AdamW with warm-up and cosine decay, averaged weights, and a state
that survives a kill at any instant.

The data of a step depends only on its number, so a resumed run sees what an uninterrupted one would.
State is one file written under a temporary name and renamed; the loss history is a CSV beside it and a
picture drawn from it.
"""

from __future__ import annotations

import csv
import math
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from soundstage.nano.training.curves import draw_curves

LossFn = Callable[[int], dict[str, Tensor]]


@dataclass(frozen=True)
class Schedule:
    """How a part is trained. steps: in all; rates are those of AdamW after `warmup` steps.

    floor: share of the rate left at the end. average: decay of the averaged weights, which are what is
    shipped. log_every, save_every_s: steps between log rows, seconds between states.
    """

    steps: int
    rate: float
    warmup: int = 200
    floor: float = 0.02
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    average: float = 0.998
    log_every: int = 20
    save_every_s: float = 120.0

    def rate_at(self, step: int) -> float:
        """Linear warm-up, then a cosine to `floor` of the rate."""
        if step < self.warmup:
            return self.rate * (step + 1) / self.warmup
        share = min(1.0, (step - self.warmup) / max(1, self.steps - self.warmup))
        return self.rate * (self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * share)))


class Trainer:
    """One part in training. `folder` holds state.pt, loss.csv and loss.png."""

    def __init__(self, name: str, model: nn.Module, schedule: Schedule, folder: Path) -> None:
        self.name, self.model, self.schedule, self.folder = name, model, schedule, folder
        folder.mkdir(parents=True, exist_ok=True)
        self.params = [p for p in model.parameters() if p.requires_grad]
        decay = [p for p in self.params if p.ndim > 1]
        plain = [p for p in self.params if p.ndim <= 1]
        groups = [
            {"params": decay, "weight_decay": schedule.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=schedule.rate, betas=schedule.betas, fused=True)
        self.averaged = [p.detach().clone() for p in self.params]
        self.step = 0
        self._stop = False
        self._resume()

    def fit(self, loss_fn: LossFn) -> bool:
        """Run to the end of the schedule. loss_fn(step) gives named losses; "loss" is descended.

        Returns True when the schedule is complete, False when a signal stopped it; the state is saved
        either way.
        """
        console = Console(stderr=True)
        saved = began = time.monotonic()
        first = self.step
        sums: dict[str, float] = {}
        previous = [signal.signal(s, self._on_signal) for s in (signal.SIGINT, signal.SIGTERM)]
        while self.step < self.schedule.steps and not self._stop:
            losses = loss_fn(self.step)
            self._descend(losses["loss"])
            for key, value in losses.items():
                sums[key] = sums.get(key, 0.0) + float(value)
            self.step += 1
            if self.step % self.schedule.log_every == 0:
                means = {k: v / self.schedule.log_every for k, v in sums.items()}
                sums = {}
                self._log(means)
                pace = (time.monotonic() - began) / (self.step - first)
                left = pace * (self.schedule.steps - self.step)
                shown = " ".join(f"{k} {v:.4f}" for k, v in means.items())
                console.print(
                    f"{self.name} {self.step}/{self.schedule.steps} {shown} | {pace:.2f} s/step, "
                    f"{left / 60:.0f} min left"
                )
            if time.monotonic() - saved > self.schedule.save_every_s:
                self.save()
                saved = time.monotonic()
        self.save()
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), previous, strict=True):
            signal.signal(number, handler)
        return self.step >= self.schedule.steps

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._stop = True  # finish the step in hand, save, leave

    def _descend(self, loss: Tensor) -> None:
        rate = self.schedule.rate_at(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.params, self.schedule.clip)
        self.optimizer.step()
        keep = min(self.schedule.average, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(self.averaged, [p.detach() for p in self.params], 1 - keep)

    def averaged_weights(self) -> dict[str, Tensor]:
        """State dict with the averaged values of what was trained and the present ones of the rest."""
        state = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        trained = iter(self.averaged)
        for name, param in self.model.named_parameters():
            if param.requires_grad:
                state[name] = next(trained).clone()
        return state

    def save(self) -> None:
        """Write the state under a temporary name, then rename it over the old one."""
        state: dict[str, Any] = {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
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
        self.optimizer.load_state_dict(state["optimizer"])
        self.averaged = state["averaged"]
        self.step = state["step"]

    def _log(self, means: dict[str, float]) -> None:
        path = self.folder / "loss.csv"
        row = {"step": str(self.step), "time": f"{time.time():.0f}"} | {k: f"{v:.6f}" for k, v in means.items()}
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)
