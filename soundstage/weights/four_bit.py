"""Linear layers with weights in four bits, to train a LoRA beside them.

NF4 (arXiv 2305.14314): sixteen levels at the quantiles of a normal distribution, and a scale for each 64
values. Rounding and widening are bitsandbytes'; products are in the dtype of the activations.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn

from soundstage.errors import MissingExtraError
from soundstage.weights.quantize import Quantized, QuantizedLinear

KIND, BLOCK = "nf4", 64


class FourBitLinear(QuantizedLinear):
    """A linear layer whose frozen weight is NF4. weight: two values a byte; weight_scale: one for each 64."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """Round a weight (out, in). Raises MissingExtraError without bitsandbytes."""
        nn.Module.__init__(self)
        self.out_features, self.in_features = weight.shape
        self.native = False
        small = bitsandbytes_for("weights: nf4").functional
        packed, state = small.quantize_4bit(weight.float(), blocksize=BLOCK, quant_type=KIND)
        self.register_buffer("weight", packed)
        self.register_buffer("weight_scale", state.absmax)
        self.register_buffer("bias", bias)
        self.register_buffer("input_scale", None)

    @property
    def quantized(self) -> Quantized:
        """Return the weight in full width, float32, with a scale of one."""
        return Quantized(self._wide(torch.float32), self.weight.new_ones(1, 1, dtype=torch.float32))

    def _weight(self, x: Tensor) -> Tensor:
        return self._wide(x.dtype)

    def _wide(self, dtype: torch.dtype) -> Tensor:
        small = bitsandbytes_for("weights: nf4").functional
        state = small.QuantState(
            absmax=self.weight_scale,
            shape=torch.Size((self.out_features, self.in_features)),
            code=small.get_4bit_type(KIND, device=self.weight.device),
            blocksize=BLOCK,
            quant_type=KIND,
            dtype=dtype,
        )
        wide: Tensor = small.dequantize_4bit(self.weight, state)
        return wide


def bitsandbytes_for(feature: str) -> Any:
    """Return bitsandbytes. Raises MissingExtraError, which names what needs it, where it is not installed."""
    # On a CPU it warns that a package of kernels is missing, which nothing here calls.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    try:
        import bitsandbytes
    except ImportError as error:
        raise MissingExtraError("train", feature) from error
    return bitsandbytes
