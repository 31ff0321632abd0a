"""Gemma's linear layers in 4 bits (NF4), by bitsandbytes: about a quarter of the memory of BF16.

One layer at a time is read, moved and rounded, so that the peak is the 4-bit model and one full weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from soundstage.errors import MissingExtraError
from soundstage.weights.layouts import StoredTensor
from soundstage.weights.quantize import put
from soundstage.weights.read import Tensors

EXTRA = "bitsandbytes"


def assign_four_bit(
    model: nn.Module, tensors: Mapping[str, StoredTensor], dtype: torch.dtype, device: torch.device
) -> None:
    """Replace a meta model's tensors by stored ones that fit it; its linear layers become 4-bit ones.

    dtype: format of everything else, and of the products. Raises MissingExtraError without
    bitsandbytes.
    """
    package = _package()
    with Tensors() as files:
        for key, stored in tensors.items():
            name, _, last = key.rpartition(".")
            module = model.get_submodule(name)
            value = files.value(stored, dtype, torch.device("cpu"))
            if isinstance(module, nn.Linear):
                put(model, name, _four_bit(package, value, device))
            else:
                setattr(module, last, nn.Parameter(value.to(device), requires_grad=False))


def _four_bit(package: Any, weight: Tensor, device: torch.device) -> nn.Module:
    """weight: (out, in). Moving the layer to its device rounds it."""
    with torch.device("meta"):
        layer = package.nn.Linear4bit(
            weight.shape[1], weight.shape[0], bias=False, compute_dtype=weight.dtype, quant_type="nf4"
        )
    layer.weight = package.nn.Params4bit(weight, requires_grad=False, quant_type="nf4")
    return layer.to(device)  # type: ignore[no-any-return]


def _package() -> Any:
    try:
        import bitsandbytes
    except ImportError as error:
        raise MissingExtraError(EXTRA, "a 4-bit text encoder") from error
    return bitsandbytes
