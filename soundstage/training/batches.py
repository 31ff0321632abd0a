"""Hold what a step is computed on, and carry it between processes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Hold a step's tensors. Batches of one kind have the same names, shapes and number formats.

    samples: clips, sounds or captions in it. parts: batches whose losses are added, computed one after the
    other, in place of tensors of its own.
    """

    kind: str
    tensors: dict[str, Tensor]
    samples: int
    parts: tuple[Batch, ...] = ()

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device."""
        moved = {name: x.to(device) for name, x in self.tensors.items()}
        return replace(self, tensors=moved, parts=tuple(part.to(device) for part in self.parts))

    def __getstate__(self) -> dict[str, Any]:
        """Return plain arrays: tensors go through shared memory, of which containers have little."""
        arrays = {name: (x.dtype, _bits(x).numpy()) for name, x in self.tensors.items()}
        return {"kind": self.kind, "tensors": arrays, "samples": self.samples, "parts": self.parts}

    def __setstate__(self, state: dict[str, Any]) -> None:
        arrays = state["tensors"].items()
        tensors = {name: torch.from_numpy(array).view(dtype) for name, (dtype, array) in arrays}
        self.__dict__.update(state | {"tensors": tensors})


def joined(parts: tuple[Batch, ...]) -> Batch:
    """Return batches as one, whose losses are added."""
    return Batch(" + ".join(part.kind for part in parts), {}, sum(part.samples for part in parts), parts)


def _bits(x: Tensor) -> Tensor:
    """Return a tensor that NumPy has a format for: bfloat16 as the integers of its bits."""
    return x.contiguous().view(torch.int16) if x.dtype == torch.bfloat16 else x.contiguous()
