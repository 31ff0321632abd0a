"""The header of a weights file, read, checked and made without loading torch or any tensor.

A safetensors file is read here; a GGUF file, which is told by its first bytes, in gguf.py.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from soundstage.errors import WeightsError

MAX_HEADER_BYTES = 100_000_000
AGAIN = "download or copy it again"

# In the order in which safetensors' own writer sorts tensors, backwards.
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
    (b"version https://git-lfs", "is a Git LFS pointer, not the file itself; run `git lfs pull`"),
    (b"<", "is a web page, not weights; download it again, logged in if the model is gated"),
)


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a file. dtype as safetensors spells it, BF16, F32, F8_E4M3, or a GGUF block format, Q8_0.

    offset: of its first byte in the file. packed_bytes: its size, of a GGUF block format only.
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

    def read(self, name: str) -> bytes:
        """The bytes of one tensor, for small ones: markers and embedded files."""
        entry = self.tensors[name]
        with self.path.open("rb") as file:
            file.seek(entry.offset)
            return file.read(entry.num_bytes)


# One checkpoint in several files: model-00001-of-00005.safetensors, model-00001-of-00005.gguf.
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})$")


def shard_groups(files: Iterable[WeightsFile]) -> list[list[WeightsFile]]:
    """Files by the checkpoint they are shards of; a file that is no shard stands alone.

    Raises WeightsError naming the first shard that is not among the files.
    """
    groups: dict[Path, list[WeightsFile]] = {}
    for file in files:
        groups.setdefault(file.path.parent / _SHARD.sub("", file.path.stem), []).append(file)
    for group in groups.values():
        for path in shards(group[0].path):
            if path not in (file.path for file in group):
                raise WeightsError(f"{path} is missing, a part of {group[0].path}; add it or download it")
    return list(groups.values())


def shards(path: Path) -> list[Path]:
    """All files of the checkpoint that a file is a shard of; the file alone if it is none."""
    match = _SHARD.search(path.stem)
    if match is None:
        return [path]
    stem, total = path.stem[: match.start()], match[2]
    return [path.with_stem(f"{stem}-{number:05d}-of-{total}") for number in range(1, int(total) + 1)]


def read_header(path: str | Path) -> WeightsFile:
    """Read and check the header of a safetensors or GGUF file.

    Raises WeightsError for a file that is missing, of another kind, damaged, or cut short, and
    MissingExtraError for a GGUF file without the package that reads it.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"there is no file {path}; check the path or download the model")
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(32)
        if start.startswith(b"GGUF"):
            from soundstage.weights.gguf import read_gguf  # it reads headers with a package of its own

            return read_gguf(path)
        length = int.from_bytes(start[:8], "little")
        if start[8:9] != b"{" or not 2 <= length <= MAX_HEADER_BYTES:
            raise WeightsError(f"{path} {_lookalike(start)}")
        if 8 + length > size:
            raise WeightsError(f"{path} is cut short within its header ({size:,} bytes); {AGAIN}")
        file.seek(8)
        text = file.read(length)
    try:
        header = json.loads(text, object_pairs_hook=lambda pairs: _unique(path, pairs))
        metadata = header.pop("__metadata__", {})
        entries = {name: _entry(path, name, value, 8 + length) for name, value in header.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise WeightsError(f"{path} has a damaged header ({error}); {AGAIN}") from error
    _check_layout(path, header, 8 + length, size)
    return WeightsFile(path, metadata, entries)


def _lookalike(start: bytes) -> str:
    for magic, sentence in LOOKALIKES:
        if start.startswith(magic):
            return sentence
    return "is not a safetensors file; pass a .safetensors file"


def _unique(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in values if names.count(name) > 1)
        raise WeightsError(f"{path} lists '{twice}' more than once; {AGAIN}")
    return values


def _entry(path: Path, name: str, value: dict[str, Any], data_start: int) -> TensorEntry:
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
    return TensorEntry(dtype, shape, data_start + begin)


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


# --- writing ----------------------------------------------------------------------------------------


def laid_out(tensors: Mapping[str, TensorEntry]) -> dict[str, TensorEntry]:
    """Tensors in the order in which safetensors' own writer puts them: wide dtypes first, then by name.

    Offsets count from the end of the header.
    """
    placed, offset = {}, 0
    for name, entry in sorted(tensors.items(), key=lambda pair: (-BITS[pair[1].dtype], pair[0])):
        placed[name] = replace(entry, offset=offset)
        offset += entry.num_bytes
    return placed


def header_bytes(placed: Mapping[str, TensorEntry], metadata: Mapping[str, str]) -> bytes:
    """Length and text of a safetensors header. placed: what `laid_out` gave."""
    content: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    for name, entry in placed.items():
        offsets = [entry.offset, entry.offset + entry.num_bytes]
        content[name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": offsets}
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
