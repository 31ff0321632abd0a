"""Set up the optimizers of a module, and their rates over a schedule."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer

from soundstage.errors import MissingExtraError
from soundstage.training.muon import Muon
from soundstage.weights.four_bit import bitsandbytes_for

OptimizerName = Literal["adamw", "adamw8bit", "prodigy"]
Decline = Literal["constant", "linear", "cosine"]
MIN_SIDE = 8  # of a matrix that Muon trains; a smaller one has too few directions to orthogonalise


@dataclass(frozen=True)
class Schedule:
    """Length, rates and averages of a training.

    It is as long as a clock says, so that it ends with usable weights on any machine.
    """

    minutes: float  # from the first batch to the last, over all runs
    rate: float  # of AdamW, after the warm-up
    muon: float = 0.0  # rate of Muon for the matrices and kernels of hidden layers; 0: AdamW for all
    warmup: int = 200  # steps over which the rates rise
    floor: float = 0.02  # share of the rates left at the end
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.95)  # of AdamW
    clip: float = 1.0  # largest norm of the gradients
    average: float = 0.998  # decay of the averaged weights, which are those that are exported
    log_every: int = 20  # steps between rows of the table of losses
    save_every_s: float = 60.0  # seconds between states, and between exports
    steps: int | None = None  # end after so many steps instead, whatever the clock says
    decline: Decline = "cosine"  # form of the rates after the warm-up
    optimizer: OptimizerName = "adamw"  # of what Muon does not train

    def share_at(self, step: int, progress: float) -> float:
        """Return the share of the rates: linear over the first steps, then `decline` to `floor`."""
        progress = min(1.0, progress)
        left = {
            "constant": 1.0,
            "linear": 1 - progress,
            "cosine": 0.5 * (1 + math.cos(math.pi * progress)),
        }[self.decline]
        floor = 1.0 if self.decline == "constant" else self.floor
        return min(1.0, (step + 1) / max(1, self.warmup)) * (floor + (1 - floor) * left)


def make_optimizers(model: nn.Module, schedule: Schedule) -> list[Optimizer]:
    """Return the schedule's optimizer and, where it has a rate for it, Muon for the module's hidden weights.

    Raises MissingExtraError where its package is missing.
    """
    hidden = _hidden_weights(model) if schedule.muon else set()
    params = [p for p in model.parameters() if p.requires_grad]
    rest = [p for p in params if id(p) not in hidden]
    groups = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": schedule.weight_decay},
        {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizers = [_optimizer([group for group in groups if group["params"]] or groups, schedule)]
    if hidden:
        matrices = [p for p in params if id(p) in hidden]
        optimizers.append(Muon(matrices, lr=schedule.muon, weight_decay=schedule.weight_decay))
    set_peak_rates(optimizers, schedule)
    return optimizers


def _optimizer(groups: list[dict[str, Any]], schedule: Schedule) -> Optimizer:
    if schedule.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=schedule.rate, betas=schedule.betas, fused=True)
    make = optimizer_class(schedule.optimizer)
    made: Optimizer = make(groups, lr=schedule.rate, betas=schedule.betas)
    return made


def optimizer_class(name: OptimizerName) -> Any:
    """Return the class of an optimizer by name. Raises MissingExtraError where its package is missing."""
    if name == "adamw":
        return torch.optim.AdamW
    if name == "adamw8bit":
        return bitsandbytes_for(f"the optimizer {name}").optim.AdamW8bit
    try:
        from prodigyopt import Prodigy
    except ImportError as error:
        raise MissingExtraError("train", f"the optimizer {name}") from error
    return Prodigy


def set_peak_rates(optimizers: Sequence[Optimizer], schedule: Schedule) -> None:
    """Store in each parameter group the rate that the schedule gives it after the warm-up."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_rate"] = schedule.muon if isinstance(optimizer, Muon) else schedule.rate


def set_rates(optimizers: Sequence[Optimizer], share: float) -> None:
    """Set the rate of each parameter group to a share of its peak."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = share * group["peak_rate"]


def _hidden_weights(model: nn.Module) -> set[int]:
    """Return the ids of the trained matrices and kernels inside a ModuleList.

    Gates of attention heads are left out: Muon's steps are equally long whether or not the gradient says
    anything, and a gate that has wandered far below zero passes nothing.
    """
    gates = {id(p) for name, p in model.named_parameters() if name.endswith("to_gate_logits.weight")}
    return {
        id(p)
        for module in model.modules()
        if isinstance(module, nn.ModuleList)
        for p in module.parameters()
        if p.ndim > 1 and min(p.flatten(1).shape) >= MIN_SIDE and p.requires_grad
    } - gates
