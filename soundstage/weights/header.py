"""The header of a safetensors file, read and checked without loading torch or any tensor."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from soundstage.errors import WeightsError

MAX_HEADER_BYTES = 100_000_000
AGAIN = "download or copy it again"

BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64,
}  # fmt: skip

# What people hand us instead of a safetensors file: how it begins, and what to say.
LOOKALIKES: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", "is a PyTorch pickle (.pt, .ckpt), which can run code when opened; get the .safetensors"),
    (b"\x80\x02", "is a Python pickle, which can run code when opened; get the .safetensors"),
    (b"\x80\x04", "is a Python pickle, which can run code when opened; get the .safetensors"),
    (b"GGUF", "is a GGUF file; get the .safetensors"),
    (b"version https://git-lfs", "is a Git LFS pointer, not the file itself; run `git lfs pull`"),
    (b"<", "is a web page, not weights; download it again, logged in if the model is gated"),
)


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a file. dtype as safetensors spells it: BF16, F32, F8_E4M3, ..."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class WeightsFile:
    """A safetensors file whose header has been checked against its size."""

    path: Path
    metadata: dict[str, str]
    tensors: dict[str, TensorEntry]

    @cached_property
    def config(self) -> dict[str, Any] | None:
        """The model config stored with the weights, or None; raises WeightsError if it is not JSON."""
        text = self.metadata.get("config")
        if text is None:
            return None
        try:
            config = json.loads(text)
        except ValueError as error:
            raise WeightsError(f"{self.path} stores a config that is not JSON ({error}); {AGAIN}") from error
        if not isinstance(config, dict):
            raise WeightsError(f"{self.path} stores a config that is not a JSON object; {AGAIN}")
        return config


def read_header(path: str | Path) -> WeightsFile:
    """Read and check the header of a safetensors file.

    Raises WeightsError for a file that is missing, of another kind, damaged, or cut short.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"there is no file {path}; check the path or download the model")
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(32)
        length = int.from_bytes(start[:8], "little")
        if start[8:9] != b"{" or not 2 <= length <= MAX_HEADER_BYTES:
            raise WeightsError(f"{path} {_lookalike(start)}")
        if 8 + length > size:
            raise WeightsError(f"{path} is cut short within its header ({size:,} bytes); {AGAIN}")
        file.seek(8)
        text = file.read(length)
    try:
        header = json.loads(text)
        metadata = header.pop("__metadata__", {})
        entries = {name: _entry(path, name, value) for name, value in header.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise WeightsError(f"{path} has a damaged header ({error}); {AGAIN}") from error
    _check_layout(path, header, 8 + length, size)
    return WeightsFile(path, metadata, entries)


def _lookalike(start: bytes) -> str:
    for magic, sentence in LOOKALIKES:
        if start.startswith(magic):
            return sentence
    return "is not a safetensors file; pass a .safetensors file"


def _entry(path: Path, name: str, value: dict[str, Any]) -> TensorEntry:
    dtype, shape = value["dtype"], tuple(value["shape"])
    begin, end = value["data_offsets"]
    if dtype not in BITS:
        raise WeightsError(f"{path}: '{name}' has the dtype {dtype}, which is not supported; get a BF16 file")
    needed = math.prod(shape) * BITS[dtype] // 8
    if end - begin != needed:
        raise WeightsError(
            f"{path}: '{name}' holds {end - begin:,} bytes where {dtype} {list(shape)} needs {needed:,}; "
            f"{AGAIN}"
        )
    return TensorEntry(dtype, shape)


def _check_layout(path: Path, header: dict[str, Any], data_start: int, size: int) -> None:
    """Tensors must follow one another without gap or overlap, up to the end of the file."""
    position = 0
    for name, value in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = value["data_offsets"]
        if begin != position:
            raise WeightsError(f"{path} has a gap or an overlap before '{name}'; {AGAIN}")
        position = end
    if data_start + position != size:
        raise WeightsError(
            f"{path} has {size:,} bytes where its header needs {data_start + position:,}; "
            f"the copy is incomplete or damaged, {AGAIN}"
        )
