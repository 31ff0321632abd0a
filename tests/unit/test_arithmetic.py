"""One place holds the arithmetic between a block's products, and can be exchanged from outside."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from soundstage.model.arithmetic import PLAIN, Arithmetic, ModulationRows, use
from soundstage.model.modulation import Modulation
from soundstage.model.rope import Rotation
from tests.tiny_transformer import modalities, transformer, velocities


class Counted(Arithmetic):
    """Plain, and knows how often it was asked for what."""

    def __init__(self) -> None:
        self.calls: dict[str, int] = {}

    def _count(self, name: str) -> None:
        self.calls[name] = self.calls.get(name, 0) + 1

    def modulated_norms(
        self, x: Tensor, eps: float, rows: Modulation, places: Sequence[ModulationRows]
    ) -> tuple[Tensor, ...]:
        self._count("modulated norms")
        return super().modulated_norms(x, eps, rows, places)

    def add_gated(
        self, x: Tensor, rows: Modulation, row: int, h: Tensor, keep: Tensor | None = None
    ) -> Tensor:
        self._count("gated sums")
        return super().add_gated(x, rows, row, h, keep)

    def heads(self, x: Tensor, norm: nn.RMSNorm, num_heads: int, rotation: Rotation | None) -> Tensor:
        self._count("heads" if rotation is None else "rotated heads")
        return super().heads(x, norm, num_heads, rotation)

    def gate_heads(self, heads: Tensor, logits: Tensor) -> Tensor:
        self._count("gated heads")
        return super().gate_heads(heads, logits)

    def linear_gelu(self, linear: nn.Module, x: Tensor) -> Tensor:
        self._count("gelu")
        return super().linear_gelu(linear, x)


def test_all_of_a_blocks_arithmetic_goes_through_what_was_put_on() -> None:
    model, counted = transformer(), Counted()
    wanted = velocities(model)
    assert use(model, counted) > 2
    found = velocities(model)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    # Two blocks; each has six attentions and two feed-forwards. Both directions share a stream's norm.
    assert counted.calls == {
        "modulated norms": 2 * 8,
        "gated sums": 2 * 8,
        "rotated heads": 2 * 8,
        "heads": 2 * 4,
        "gated heads": 2 * 6,
        "gelu": 2 * 2,
    }
    use(model, PLAIN)
    velocities(model)
    assert counted.calls["gelu"] == 4


def test_a_norm_is_modulated_at_each_place() -> None:
    x = modalities()[0].context
    rows = Modulation(torch.randn(2, 1, 4, x.shape[-1], generator=torch.Generator().manual_seed(0)))
    pair = PLAIN.modulated_norms(x, 1e-6, rows, (ModulationRows(0, 1), ModulationRows(2, 3)))
    normed = x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
    for found, (scale, shift) in zip(pair, ((0, 1), (2, 3)), strict=True):
        wanted = normed * (1 + rows.rows[:, :, scale]) + rows.rows[:, :, shift]
        torch.testing.assert_close(found, wanted)
