"""Blocks read from files straight into memory that is already there.

A `DiskSource` fills host buffers at load, block by block, so that loading needs no memory but the weights'
own; under the policy "disk" it is the home of the blocks itself, and they are read again at every step.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from soundstage.memory.stream import BlockLayout, PackedTensor
from soundstage.weights.layouts import StoredTensor
from soundstage.weights.quantize import FORMAT_DTYPES, quantize_rows
from soundstage.weights.read import TORCH_DTYPES, TensorReader
from soundstage.weights.storage import Format

CPU = torch.device("cpu")
FORMAT_OF: Mapping[torch.dtype, Format] = {dtype: format for format, dtype in FORMAT_DTYPES.items()}


class DiskSource:
    """Blocks in files. tensors: by block number, then the block's own key.

    What a file stores in another dtype than the layout's is converted or rounded to 8 bits as it is read,
    and what has a scale is multiplied by it, exactly as `load.assign` does it. num_bytes_read: so far.
    """

    pinned = False

    def __init__(
        self, layouts: Mapping[int, BlockLayout], tensors: Mapping[int, Mapping[str, StoredTensor]]
    ) -> None:
        self.layouts = dict(layouts)
        self.files = TensorReader()
        self.num_bytes_read = 0
        self._tensors = tensors

    def read(self, block: int, memory: Tensor) -> None:
        """Read a block into memory. Raises WeightsError for a file that is gone or has become shorter."""
        for packed in self.layouts[block].tensors:
            self._read(self._tensors[block][packed.key], packed, memory)

    def at_home(self, block: int) -> None:
        return None

    def _read(self, stored: StoredTensor, packed: PackedTensor, memory: Tensor) -> None:
        if is_kept_as_stored(stored, packed.dtype):
            part = memory[packed.offset : packed.offset + packed.num_bytes]
            self.files.read_into(stored.path, stored.entry.offset, part)
        elif packed.dtype.itemsize == 1:
            packed.view(memory).copy_(rounded_values(self.files, stored, packed.dtype))
        else:
            self.files.value_into(stored, packed.view(memory))
        self.num_bytes_read += stored.entry.num_bytes


def is_kept_as_stored(stored: StoredTensor, dtype: torch.dtype) -> bool:
    """Return whether a tensor is kept with the bytes of the file; 8-bit values without their scale."""
    same = TORCH_DTYPES.get(stored.entry.dtype) == dtype and not stored.shift
    return same and (stored.scale is None or dtype.itemsize == 1)


def rounded_values(files: TensorReader, stored: StoredTensor, dtype: torch.dtype) -> Tensor:
    """Return a weight's values on the CPU, rounded at load to e4m3 or int8. Its scales are known."""
    return quantize_rows(files.value(stored, torch.float32, CPU), FORMAT_OF[dtype]).values
