"""A weight rounded on the host and one rounded on the device are the same bytes, scales included."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from soundstage.weights.quantize import Format, quantize_rows, quantize_weight


class DividesAsCuda(TorchDispatchMode):
    """Computes a division by a number as CUDA's kernel does: a product with the reciprocal, in float32.

    A division by a tensor, even one of a single number, is a true division there.
    Source: aten/src/ATen/native/cuda/BinaryDivTrueKernel.cu, the case of a CPU scalar.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten.div.Tensor, torch.ops.aten.div_.Tensor):
            x, divisor = args
            if isinstance(x, Tensor) and not isinstance(divisor, Tensor):
                product = x * torch.tensor(1 / divisor, dtype=torch.float32)
                return product if func is torch.ops.aten.div.Tensor else x.copy_(product)
        return func(*args, **(kwargs or {}))


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_the_mode_divides_otherwise() -> None:
    x = noise(1000)
    with DividesAsCuda():
        on_device = x / 448.0
    assert 0.3 < (on_device != x / 448.0).float().mean() < 0.7


@pytest.mark.parametrize("format", ["fp8", "int8"])
def test_host_and_device_round_to_the_same_bytes(format: Format) -> None:
    for weight in (noise(300, 64), noise(300, 64).to(torch.bfloat16)):
        host = [quantize_rows(weight, format), quantize_weight(weight, format, "tensor")]
        with DividesAsCuda():
            device = [quantize_rows(weight, format), quantize_weight(weight, format, "tensor")]
        for a, b in zip(host, device, strict=True):
            assert torch.equal(a.scale, b.scale)
            assert torch.equal(a.values.view(torch.uint8), b.values.view(torch.uint8))
