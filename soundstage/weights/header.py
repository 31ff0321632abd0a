"""The header of a weights file, read, checked and made without loading torch or any tensor.

A safetensors file is read here; a GGUF file, known by its first bytes, in gguf.py.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from soundstage.errors import WeightsError
from soundstage.files import known_file
from soundstage.weights.entry import AGAIN, BITS, TensorEntry, WeightsFile
from soundstage.weights.gguf import read_gguf

MAX_HEADER_BYTES = 100_000_000
HEADERS_KEPT = 64  # of 5 MB at most in a 22B model, so that no file is parsed twice in a row
# What people hand us instead of a safetensors file: how it begins, and what to say.
LOOKALIKES: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", "is a PyTorch pickle (.pt, .ckpt), which can run code when opened; get the .safetensors"),
    (b"\x80\x02", "is a Python pickle, which can run code when opened; get the .safetensors"),
    (b"\x80\x04", "is a Python pickle, which can run code when opened; get the .safetensors"),
    (b"version https://git-lfs", "is a Git LFS pointer, not the file itself; run `git lfs pull`"),
    (b"<", "is a web page, not weights; download it again, logged in if the model is gated"),
)


# One checkpoint in several files: model-00001-of-00005.safetensors, model-00001-of-00005.gguf.
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})$")


def shard_groups(files: Iterable[WeightsFile]) -> list[list[WeightsFile]]:
    """Return files by the checkpoint they are shards of; a file that is no shard stands alone.

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
    """Return all files of the checkpoint that a file is a shard of; the file alone if it is none."""
    match = _SHARD.search(path.stem)
    if match is None:
        return [path]
    stem, total = path.stem[: match.start()], match[2]
    return [path.with_stem(f"{stem}-{number:05d}-of-{total}") for number in range(1, int(total) + 1)]


def read_header(path: str | Path) -> WeightsFile:
    """Read and check the header of a safetensors or GGUF file; one that did not change is not read again.

    Raises WeightsError for a file that is missing, of another kind, damaged, or cut short, and
    MissingExtraError for a GGUF file without the package that reads it.
    """
    path = Path(path)
    checked_size(path)
    try:
        return _read_header(path, *known_file(path))
    except OSError as error:
        raise WeightsError(
            f"{path} cannot be read ({error.strerror}); check the file and its rights"
        ) from error


@lru_cache(maxsize=HEADERS_KEPT)
def _read_header(path: Path, absolute: str, stamp: tuple[int, ...]) -> WeightsFile:
    """Read a header. absolute, stamp: see `known_file`; they differ for another file of the same name."""
    with path.open("rb") as file:
        start, size = file.read(32), os.fstat(file.fileno()).st_size
        if start.startswith(b"GGUF"):
            return read_gguf(path)
        length = int.from_bytes(start[:8], "little")
        if start[8:9] != b"{" or not 2 <= length <= MAX_HEADER_BYTES:
            raise WeightsError(f"{path} {_lookalike(start)}")
        if 8 + length > size:
            raise WeightsError(f"{path} is cut short within its header ({size:,} bytes); {AGAIN}")
        file.seek(8)
        text = file.read(length)
    return _parsed(path, text, size)


def checked_size(path: Path) -> int:
    """Return the size of a file in bytes. Raises WeightsError that says what stands in its place."""
    try:
        found = path.stat()
    except FileNotFoundError as error:
        if path.is_symlink():
            raise WeightsError(
                f"{path} is a link to {os.readlink(path)}, which is not there; link it anew or download it"
            ) from error
        raise WeightsError(f"there is no file {path}; check the path or download the model") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise WeightsError(f"{shortened(str(path))} cannot be read ({reason}); check the path") from error
    if stat.S_ISDIR(found.st_mode):
        raise WeightsError(f"{path} is a folder where a weights file is needed; give the file in it")
    if not stat.S_ISREG(found.st_mode):
        raise WeightsError(f"{path} is no ordinary file (a device or pipe); give a weights file")
    if found.st_size == 0:
        raise WeightsError(f"{path} is empty (0 bytes); {AGAIN}")
    return found.st_size


def is_there(path: Path) -> bool:
    """Return whether a path exists. Raises WeightsError for one the system refuses, such as a long name."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise WeightsError(f"{shortened(str(path))} cannot be read ({reason}); check the path") from error
    return True


def shortened(text: str) -> str:
    """Return a name or path as messages show it: without unprintable characters, a few lines long."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return shown if len(shown) <= 300 else f"{shown[:200]}... ({len(text):,} characters)"


def _lookalike(start: bytes) -> str:
    for magic, sentence in LOOKALIKES:
        if start.startswith(magic):
            return sentence
    return "is not a safetensors file; pass a .safetensors file"


def _parsed(path: Path, text: bytes, size: int) -> WeightsFile:
    """text: the header, of which nothing is known yet but that it lies within the file."""
    try:
        header = json.loads(text, object_pairs_hook=lambda pairs: _unique(path, pairs))
        metadata = _metadata(header.pop("__metadata__", {}))
        spans = {name: _span(name, value) for name, value in header.items()}
    except RecursionError as error:
        raise WeightsError(f"{path} has a damaged header (nested too deep); {AGAIN}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise WeightsError(f"{path} has a damaged header ({shortened(str(error))}); {AGAIN}") from error
    data_start = 8 + len(text)
    for name, (dtype, shape, begin, end) in spans.items():
        _check_size(path, name, dtype, shape, end - begin)
    _check_layout(path, {name: span[2:] for name, span in spans.items()}, data_start, size)
    entries = {name: TensorEntry(span[0], span[1], data_start + span[2]) for name, span in spans.items()}
    return WeightsFile(path, metadata, entries)


def _unique(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise WeightsError(f"{path} lists '{shortened(twice)}' more than once; {AGAIN}")
    return values


def _metadata(stored: Any) -> dict[str, str]:
    if not isinstance(stored, dict) or not all(isinstance(value, str) for value in stored.values()):
        raise ValueError("its metadata are not names with texts")
    for key, value in stored.items():
        (key + value).encode()  # half a surrogate pair is no text
    return stored


def _span(name: str, value: Any) -> tuple[str, tuple[int, ...], int, int]:
    """dtype, shape, first byte and byte after the last of a tensor. Raises for what is none of these."""
    name.encode()
    if not isinstance(value, dict):
        raise ValueError(f"'{name}' is no description of a tensor")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise ValueError(f"'{name}' has no dtype, shape and offsets that can be")
    return dtype, tuple(shape), offsets[0], offsets[1]


def _are_sizes(values: Any) -> bool:
    """Whole numbers from 0 on, within what 64 bits count."""
    return isinstance(values, list) and all(type(n) is int and 0 <= n < 1 << 63 for n in values)


def _check_size(path: Path, name: str, dtype: str, shape: tuple[int, ...], num_bytes: int) -> None:
    if dtype not in BITS:
        raise WeightsError(
            f"{path}: '{shortened(name)}' has the dtype {shortened(dtype)}, which is not supported; "
            "get a BF16 file"
        )
    needed = math.prod(shape) * BITS[dtype] // 8
    if num_bytes != needed:
        raise WeightsError(
            f"{path}: '{shortened(name)}' holds {num_bytes:,} bytes where {dtype} {list(shape)} needs "
            f"{needed:,}; {AGAIN}"
        )


def _check_layout(path: Path, offsets: Mapping[str, Sequence[int]], data_start: int, size: int) -> None:
    """Tensors must follow one another without gap or overlap, up to the end of the file."""
    position = 0
    for name, (begin, end) in sorted(offsets.items(), key=lambda item: tuple(item[1])):
        if begin != position:
            raise WeightsError(f"{path} has a gap or an overlap before '{shortened(name)}'; {AGAIN}")
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
