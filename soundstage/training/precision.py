"""Choose the number format and the attention kernel of training, by device.

Weights and optimizers are in float32. Products are in bfloat16 on a CUDA device and on a CPU with units for
it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from soundstage.memory.machine import bfloat16_units
from soundstage.model.attention import Attention
from soundstage.training.attention import training_attention


@cache
def half_products(device: torch.device) -> bool:
    """Return whether products are computed in bfloat16: where the device has units for it."""
    return device.type == "cuda" or bfloat16_units() is not None


@contextmanager
def training_precision(device: torch.device) -> Iterator[None]:
    """Compute products in bfloat16 where that is fast; on a CPU, attention with a bias by plain products.

    On a CPU the flash kernel and its backward take 48 % of a step, plain products less.
    """
    with ExitStack() as stack:
        if half_products(device):
            # A recorded step must not keep weights that were cast outside of it.
            stack.enter_context(torch.autocast(device.type, torch.bfloat16, cache_enabled=False))
        if device.type == "cpu":
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield


def use_training_attention(module: nn.Module, device: torch.device, is_on: bool = True) -> None:
    """Put `training_attention` into every Attention of a module, on a CPU with bfloat16 units.

    is_on: False puts the kernel of inference back.
    """
    if device.type == "cpu" and half_products(device):
        for child in module.modules():
            if isinstance(child, Attention):
                vars(child).pop("kernel", None)
                if is_on:
                    child.kernel = training_attention
