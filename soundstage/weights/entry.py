"""A weights file as its header describes it: its tensors, their formats and places, its metadata."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from soundstage.errors import WeightsError

AGAIN = "download or copy it again"

# In the order in which safetensors' own writer sorts tensors, backwards.
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64,
}  # fmt: skip


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a file.

    dtype: as safetensors spells it (BF16, F32, F8_E4M3), or a GGUF block format (Q8_0).
    offset: position of its first byte in the file. packed_bytes: its size in a block format, else None.
    """

    dtype: str
    shape: tuple[int, ...]
    offset: int = 0
    packed_bytes: int | None = None

    @property
    def num_params(self) -> int:
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        return self.num_params * BITS[self.dtype] // 8 if self.packed_bytes is None else self.packed_bytes


@dataclass(frozen=True)
class WeightsFile:
    """A safetensors or GGUF file whose header has been checked against its size."""

    path: Path
    metadata: Mapping[str, str]
    tensors: Mapping[str, TensorEntry]

    @cached_property
    def config(self) -> dict[str, Any] | None:
        """Return the model config stored with the weights, or None; raises WeightsError if it is not JSON."""
        text = self.metadata.get("config")
        if text is None:
            return None
        try:
            config = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise WeightsError(f"{self.path} stores a config that is not JSON ({error}); {AGAIN}") from error
        if not isinstance(config, dict):
            raise WeightsError(f"{self.path} stores a config that is not a JSON object; {AGAIN}")
        return config

    def read(self, name: str) -> bytes:
        """Return the bytes of one tensor, for small ones: markers and embedded files."""
        entry = self.tensors[name]
        try:
            with self.path.open("rb") as file:
                file.seek(entry.offset)
                return file.read(entry.num_bytes)
        except OSError as error:
            raise WeightsError(f"{self.path} cannot be read ({error.strerror}); check the file") from error
