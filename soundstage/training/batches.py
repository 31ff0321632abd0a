"""Hold what a step is computed on, and carry it between processes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Hold a step's tensors. Batches of one kind have the same names, shapes and number formats.

    samples: clips, sounds or captions in it.
    """

    kind: str
    tensors: dict[str, Tensor]
    samples: int

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device."""
        return replace(self, tensors={name: x.to(device) for name, x in self.tensors.items()})

    def __getstate__(self) -> dict[str, Any]:
        """Return plain arrays: tensors go through shared memory, of which containers have little."""
        arrays = {name: (x.dtype, _bits(x).numpy()) for name, x in self.tensors.items()}
        return {"kind": self.kind, "tensors": arrays, "samples": self.samples}

    def __setstate__(self, state: dict[str, Any]) -> None:
        arrays = state["tensors"].items()
        tensors = {name: torch.from_numpy(array).view(dtype) for name, (dtype, array) in arrays}
        self.__dict__.update(state | {"tensors": tensors})


def _bits(x: Tensor) -> Tensor:
    """Return a tensor that NumPy has a format for: bfloat16 as the integers of its bits."""
    return x.contiguous().view(torch.int16) if x.dtype == torch.bfloat16 else x.contiguous()
