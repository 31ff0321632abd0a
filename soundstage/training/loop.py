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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from soundstage.training.curves import draw_curves
from soundstage.training.muon import Muon

LossFn = Callable[[int], dict[str, Tensor]]


@dataclass(frozen=True)
class Schedule:
    """How a part is trained. steps: in all; rates are those of AdamW after `warmup` steps.

    muon: rate of Muon for matrices and kernels of hidden layers (0: AdamW for all).
    floor: share of the rate left at the end. average: decay of the averaged weights, which are what is
    shipped. log_every, save_every_s: steps between log rows, seconds between states.
    """

    steps: int
    rate: float
    muon: float = 0.0
    warmup: int = 200
    floor: float = 0.02
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    average: float = 0.998
    log_every: int = 20
    save_every_s: float = 240.0

    def share_at(self, step: int) -> float:
        """Share of the rate: linear warm-up, then a cosine to `floor`."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        share = min(1.0, (step - self.warmup) / max(1, self.steps - self.warmup))
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * share))


class Trainer:
    """One part in training. `folder` holds state.pt, loss.csv and loss.png."""

    def __init__(self, name: str, model: nn.Module, schedule: Schedule, folder: Path) -> None:
        self.name, self.model, self.schedule, self.folder = name, model, schedule, folder
        folder.mkdir(parents=True, exist_ok=True)
        self.params = [p for p in model.parameters() if p.requires_grad]
        self.optimizers = _optimizers(model, schedule)
        self.averaged = [p.detach().clone() for p in self.params]
        self.step = 0
        self._stop = False
        self._resume()

    def begin(self, weights: Mapping[str, Tensor], step: int) -> None:
        """Begin with these weights, by name, as if `step` steps had been made. What is not trained stays."""
        with torch.no_grad():
            for name, value in self.model.state_dict().items():
                if name not in self._frozen:
                    value.copy_(weights[name])
        self.averaged = [p.detach().clone() for p in self.params]
        self.step = step

    @property
    def _frozen(self) -> frozenset[str]:
        return frozenset(name for name, p in self.model.named_parameters() if not p.requires_grad)

    def fit(self, loss_fn: LossFn) -> bool:
        """Run to the end of the schedule. loss_fn(step) gives named losses; "loss" is descended.

        Returns True when the schedule is complete, False when a signal stopped it; the state is saved
        either way.
        """
        console = Console(stderr=True)
        saved = began = time.monotonic()
        first = self.step
        seen: dict[str, list[float]] = {}  # since the last row; a step need not have every loss
        previous = [signal.signal(s, self._on_signal) for s in (signal.SIGINT, signal.SIGTERM)]
        while self.step < self.schedule.steps and not self._stop:
            losses = loss_fn(self.step)
            self._descend(losses["loss"])
            for key, value in losses.items():
                seen.setdefault(key, []).append(float(value.detach()))
            self.step += 1
            if self.step % self.schedule.log_every == 0:
                means = {k: sum(v) / len(v) for k, v in seen.items()}
                seen = {}
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
        share = self.schedule.share_at(self.step)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = share * group["peak_rate"]
            optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.params, self.schedule.clip)
        if not norm.isfinite():  # one bad step would be in the weights for good
            return
        for optimizer in self.optimizers:
            optimizer.step()
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
            for group in optimizer.param_groups:  # the schedule may have been changed since
                group["peak_rate"] = self._peak(optimizer)
        self.averaged = state["averaged"]
        self.step = state["step"]

    def _peak(self, optimizer: torch.optim.Optimizer) -> float:
        return self.schedule.muon if isinstance(optimizer, Muon) else self.schedule.rate

    def _log(self, means: dict[str, float]) -> None:
        """Add a row to loss.csv; a loss that comes up for the first time gets a column."""
        path = self.folder / "loss.csv"
        row = {"step": str(self.step), "time": f"{time.time():.0f}"}
        row |= {k: f"{v:.6f}" for k, v in means.items()}
        rows: list[dict[str, str]] = []
        columns: list[str] = []
        if path.exists():
            with path.open(newline="") as file:
                reader = csv.DictReader(file)
                rows, columns = list(reader), list(reader.fieldnames or ())
        new = [name for name in row if name not in columns]
        with path.open("w" if new else "a", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=columns + new, restval="")
            if new:
                writer.writeheader()
                writer.writerows(rows)
            writer.writerow(row)


def _optimizers(model: nn.Module, schedule: Schedule) -> list[torch.optim.Optimizer]:
    """AdamW, and Muon for the weights inside a ModuleList if the schedule gives it a rate.

    Not for the gates of attention heads: Muon's steps are equally long whether or not the gradient says
    anything, and a gate that has wandered far below zero passes none.
    """
    gates = {id(p) for name, p in model.named_parameters() if name.endswith("to_gate_logits.weight")}
    hidden = {
        id(p)
        for module in model.modules()
        if isinstance(module, nn.ModuleList)
        for p in module.parameters()
        if p.ndim > 1 and min(p.flatten(1).shape) >= 8 and p.requires_grad and schedule.muon
    } - gates
    params = [p for p in model.parameters() if p.requires_grad]
    rest = [p for p in params if id(p) not in hidden]
    groups = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": schedule.weight_decay},
        {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, lr=schedule.rate, betas=schedule.betas, fused=True)
    ]
    if hidden:
        matrices = [p for p in params if id(p) in hidden]
        optimizers.append(Muon(matrices, lr=schedule.muon, weight_decay=schedule.weight_decay))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_rate"] = group["lr"]
    return optimizers
