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

from soundstage.training.precision import half_products

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NUM_ITERATIONS = 5
MAX_ROWS = 96  # of a block


def orthogonalise(matrix: Tensor) -> Tensor:
    """Return about the nearest semi-orthogonal matrix of (..., m, n): singular values in 0.7 to 1.2."""
    a, b, c = NEWTON_SCHULZ
    x = matrix.bfloat16() if half_products(matrix.device) else matrix.float()
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
            trained = [param for param in group["params"] if param.grad is not None]
            for param in trained:
                if not self.state[param]:
                    self.state[param]["momentum"] = torch.zeros_like(param)
            if trained:
                self._update(group, trained)

    def _update(self, group: dict[str, Any], params: list[nn.Parameter]) -> None:
        """Move the parameters; those whose blocks have one shape are orthogonalised together."""
        grads = [param.grad for param in params if param.grad is not None]
        momenta = [self.state[param]["momentum"] for param in params]
        torch._foreach_lerp_(momenta, grads, 1 - group["momentum"])
        values: list[Tensor] = list(params)
        torch._foreach_mul_(values, 1 - group["lr"] * group["weight_decay"])
        directions = torch._foreach_lerp(grads, momenta, group["momentum"])
        shapes: dict[tuple[int, ...], list[int]] = {}
        for index, param in enumerate(params):
            shapes.setdefault(_blocks(param), []).append(index)
        for shape, members in shapes.items():
            blocks = torch.cat([directions[i].reshape(shape) for i in members])
            updates = orthogonalise(blocks).float().mul_(0.2 * max(shape[1:]) ** 0.5).chunk(len(members))
            moved = [values[i] for i in members]
            moves = [update.view_as(param) for update, param in zip(updates, moved, strict=True)]
            torch._foreach_add_(moved, moves, alpha=-group["lr"])


def _blocks(param: Tensor) -> tuple[int, int, int]:
    """Return number, rows and columns of the blocks that a parameter is cut into."""
    rows, columns = param.flatten(1).shape
    if rows > MAX_ROWS and columns > MAX_ROWS:
        number = next(n for n in range(-(-rows // MAX_ROWS), rows + 1) if rows % n == 0)
        return number, rows // number, columns
    return 1, rows, columns
