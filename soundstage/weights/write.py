"""Write a safetensors file tensor by tensor, also where a tensor's shape is known only once it is made.

    with TensorWriter(path, largest, metadata) as writer:
        writer.add("a.weight", tensor)

A header stands before the data, so room for the longest one is kept, and what it does not fill is spaces.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from soundstage.weights.entry import TensorEntry
from soundstage.weights.header import header_bytes
from soundstage.weights.read import TORCH_DTYPES

DTYPE_NAMES = {dtype: name for name, dtype in TORCH_DTYPES.items()}


def entry_of(tensor: Tensor) -> TensorEntry:
    """Return how a header describes a tensor; one on the meta device will do."""
    return TensorEntry(DTYPE_NAMES[tensor.dtype], tuple(tensor.shape))


class TensorWriter:
    """A safetensors file that is being written; it is whole when its block has ended well.

    largest: all tensors there may be, each as large as it may become. num_bytes: size of those so far.
    """

    def __init__(self, path: Path, largest: Mapping[str, TensorEntry], metadata: Mapping[str, str]) -> None:
        self.num_bytes = 0
        self._metadata = dict(metadata)
        end = sum(entry.num_bytes for entry in largest.values())  # tensors come in any order
        self._room = len(header_bytes({n: replace(e, offset=end) for n, e in largest.items()}, metadata))
        self._entries: dict[str, TensorEntry] = {}
        self._file = path.open("wb")
        self._file.seek(self._room)

    def __enter__(self) -> TensorWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file:
            if error is None:
                self._write_header()

    def add(self, name: str, tensor: Tensor) -> None:
        """Write one tensor."""
        entry = entry_of(tensor)
        self._entries[name] = TensorEntry(entry.dtype, entry.shape, self.num_bytes)
        self._file.write(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        self.num_bytes += entry.num_bytes

    def _write_header(self) -> None:
        header = header_bytes(self._entries, self._metadata)
        assert len(header) <= self._room, "a tensor is larger than the largest it was said to become"
        text = header[8:] + b" " * (self._room - len(header))
        self._file.seek(0)
        self._file.write(len(text).to_bytes(8, "little") + text)
