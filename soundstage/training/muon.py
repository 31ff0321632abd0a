"""Optimize matrices and convolutions by Muon: momentum, orthogonalised.

torch.optim.Muon takes matrices only. A convolution is a matrix of (out, in * kernel). A matrix with many
rows is cut into blocks of rows, and each is orthogonalised by itself: the cost grows with the square of the
smaller side.

Source: K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024); the factor
0.2 sqrt(max side), which gives steps the size of AdamW's, from Liu et al., "Muon is scalable" (2025).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NUM_ITERATIONS = 5
MAX_ROWS = 96  # of a block


def orthogonalise(matrix: Tensor) -> Tensor:
    """Return about the nearest semi-orthogonal matrix of (..., m, n): singular values in 0.7 to 1.2."""
    a, b, c = NEWTON_SCHULZ
    x = matrix.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(NUM_ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = x.mT if tall else x
    return result


class Muon(torch.optim.Optimizer):
    """The optimizer. lr is on AdamW's scale; weight decay is decoupled."""

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is None:
                    continue
                state = self.state[param]
                if not state:
                    state["momentum"] = torch.zeros_like(param)
                momentum: Tensor = state["momentum"]
                momentum.lerp_(param.grad, 1 - group["momentum"])
                update = _step_of(param.grad.lerp(momentum, group["momentum"]))
                param.mul_(1 - group["lr"] * group["weight_decay"])
                param.add_(update.view_as(param), alpha=-group["lr"])


def _step_of(direction: Tensor) -> Tensor:
    """Return the update that a gradient with momentum gives."""
    matrix = direction.flatten(1)
    rows = matrix.shape[0]
    blocks = next((n for n in range(-(-rows // MAX_ROWS), rows + 1) if rows % n == 0), 1)
    if rows > MAX_ROWS and matrix.shape[1] > MAX_ROWS:
        matrix = matrix.view(blocks, rows // blocks, -1)
    update: Tensor = orthogonalise(matrix).float()
    return update.mul_(0.2 * max(matrix.shape[-2:]) ** 0.5)
