"""A recorder for the CPU, which does what a CUDA graph does: run the same operators on the same memory again.

Whatever a forward decides on the host, a number read from a tensor say, is fixed at the recording. What would
fail while a CUDA graph is recorded fails here too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
# They make the host wait for the device, or bring something from the host.
FORBIDDEN = {
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.equal.default,
    aten.lift_fresh.default,
    aten.lift_fresh_copy.default,
}


class Waits(Exception):
    """An operator that no CUDA graph can hold."""


class Tape(TorchDispatchMode):
    """What was run: operators with their arguments and results."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in FORBIDDEN:
            raise Waits(str(func))
        if func in (aten.index.Tensor, aten.index_put_.default):
            kinds = [x.dtype for x in tree_leaves(args[1]) if isinstance(x, Tensor)]
            if torch.bool in kinds:
                raise Waits(f"{func} by booleans")
        out = func(*args, **(kwargs or {}))
        self.entries.append((func, args, kwargs or {}, out))
        return out

    def replay(self) -> None:
        for func, args, kwargs, out in self.entries:
            made = func(*args, **kwargs)
            for old, new in zip(_tensors(out), _tensors(made), strict=True):
                if old.data_ptr() != new.data_ptr():
                    old.copy_(new)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


class TapeRecorder:
    """As speed.graphs.CudaRecorder, on the CPU."""

    def record(self, run: Callable[[], Any]) -> tuple[Any, Callable[[], object]]:
        tape = Tape()
        with tape:
            made = run()
        return made, tape.replay
