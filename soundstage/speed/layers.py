"""Linear layers that compute more than their product, and the calls that may take such a short cut."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from soundstage.model.arithmetic import Arithmetic


def watched(module: nn.Module) -> bool:
    """Return whether a module has hooks, such as an adapter's, so that its call does more than `forward`."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


class LayerArithmetic(Arithmetic):
    """Take a GELU from the layer before it where that layer has a `gelu` of its own and no hooks."""

    def linear_gelu(self, linear: nn.Module, x: Tensor) -> Tensor:
        gelu: Callable[[Tensor], Tensor] | None = getattr(linear, "gelu", None)
        if gelu is not None and not watched(linear):
            return gelu(x)
        return F.gelu(linear(x), approximate="tanh")
