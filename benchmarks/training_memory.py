"""Count the bytes that a training step's tensors take at full width, beside diffusers and PEFT.

    python -m benchmarks.training_memory

Four blocks of the width of LTX-2.3, 512x512x49 with sound, bfloat16, rank 32 on every attention. On PyTorch's
meta device: shapes and no values, so that it takes no memory itself. Weights are not counted, nor the
gradients that are left behind. Attention keeps what a flash kernel keeps, for both.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import training
from soundstage.lora.files import LoraFile
from soundstage.model.attention import Attention
from soundstage.model.modulation import TokenGroups
from soundstage.speed import onednn
from soundstage.training.tuning import objective as objectives
from tests.live_bytes import LiveBytes

ROWS = training.ROWS[:4]
SIZES = ["--layers", "4", "--heads", "32", "--head-dim", "128", "--size", "512x512x49", "--dtype", "bfloat16"]
META = torch.device("meta")


class Flash(torch.autograd.Function):
    """Keep what a flash kernel keeps; compute nothing."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        out = torch.empty_like(queries)
        ctx.save_for_backward(queries, keys, values, out, queries.new_empty(queries.shape[:3]))
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        return tuple(torch.empty_like(x) for x in ctx.saved_tensors[:3])


def attention(query: Tensor, key: Tensor, value: Tensor, *rest: Any, **more: Any) -> Tensor:
    """Stand in for attention on the meta device."""
    return Flash.apply(query, key, value)  # type: ignore[no-any-return, no-untyped-call]


def main() -> None:
    """Print a table."""
    sys.argv[1:] = SIZES
    one_group = classmethod(lambda cls, levels: cls(levels.new_zeros(1, dtype=torch.long), None))
    with (
        patch.object(F, "scaled_dot_product_attention", attention),
        patch.object(Attention, "kernel", staticmethod(attention)),
        patch.object(TokenGroups, "of", one_group),  # these three read values
        patch.object(objectives, "told", lambda *given: {}),
        patch.object(LoraFile, "check_values", lambda *given: None),
        patch.object(onednn, "apply", lambda *given: None),
        patch.object(training, "let_learn", lambda *given: None),
        patch.object(training, "descending", lambda module, loss, fused: (module, loss)),
    ):
        print(f"{'row':<36}{'GB':>8}")
        for row in ROWS:
            print(f"{row:<36}{counted(row) / 1e9:>8.2f}")


def counted(row: str) -> int:
    """Return the most bytes of a step's tensors, without weights and without the gradients of the factors."""
    words = training.parsed()
    words.row = row
    made: Any = training.made_step
    with META:
        module, loss = made(words, META)
    return step_bytes(module, loss)


def step_bytes(module: nn.Module, loss: Callable[[], Tensor]) -> int:
    """Return the most bytes of one step's tensors."""
    with LiveBytes() as live:
        loss().backward()  # type: ignore[no-untyped-call]
    params = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return int(live.peak) - sum(parameter.numel() * parameter.element_size() for parameter in params)


if __name__ == "__main__":
    main()
