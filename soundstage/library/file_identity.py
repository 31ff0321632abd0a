"""Tell files apart by their content: SHA-256, of a large file its header and samples, read once a process."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from soundstage.files import file_stamp
from soundstage.weights.header import MAX_HEADER_BYTES

# Beyond this a file is known by its size and header: reading 46 GB for its hash takes minutes.
MAX_HASHED_BYTES = 1_000_000_000
# A file that was written so shortly before it was read may be written again without a new time: clocks of
# file systems tick every few milliseconds, or every two seconds.
CLOCK_GRAIN_NS = 2_000_000_000
# Of a file past MAX_HASHED_BYTES, so many pieces of it are hashed, evenly spaced.
NUM_SAMPLES, SAMPLE_BYTES = 64, 1 << 16

_digests: dict[tuple[str, str], _Read] = {}


class _Read(NamedTuple):
    """A result from a file, and the file's stamp then. sure: a later change would change its time."""

    stamp: tuple[int, ...]
    found: str
    sure: bool


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file; of one past MAX_HASHED_BYTES, its size and the SHA-256 of its header.

    A file that has not changed is read once a process.
    """
    return _once("digest", path, _digest)


def file_identity(path: Path) -> str:
    """Return what tells a file's content from any other's: its hash; of a large one, samples, place and time.

    Models of one structure have one size and one header, so these alone do not tell them apart.
    """
    stat = path.stat()
    if stat.st_size <= MAX_HASHED_BYTES:
        return file_digest(path)
    return f"{file_digest(path)}, {_once('samples', path, _samples)}, {path.resolve()}, {stat.st_mtime_ns}"


def named_by_content(value: Any, paths: Iterable[str]) -> Any:
    """Return a JSON value in which these files are named by what they hold, so that they may be moved."""
    return _replaced(value, {path: _content(path) for path in paths})


def _content(path: str) -> str:
    """Return a name for what a file holds. A file that is missing is refused later, when it is read."""
    file = Path(path)
    return f"content {file_identity(file)}" if file.is_file() else f"no file {path}"


def _replaced(value: Any, names: Mapping[str, str]) -> Any:
    """Return a JSON value in which every string that is a key of names is exchanged."""
    if isinstance(value, Mapping):
        return {key: _replaced(item, names) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_replaced(item, names) for item in value]
    return names.get(value, value) if isinstance(value, str) else value


def _once(kind: str, path: Path, find: Callable[[Path], str]) -> str:
    """Return what `find` says of a file, from memory while the file is certainly the one that was read."""
    key, stamp, now_ns = (kind, str(path.resolve())), file_stamp(path), time.time_ns()
    known = _digests.get(key)
    if known is not None and known.sure and known.stamp == stamp:
        return known.found
    found = find(path)
    if file_stamp(path) == stamp:  # else it was written while it was read
        written_ns = max(stamp[-2:])
        _digests[key] = _Read(stamp, found, sure=now_ns - written_ns > CLOCK_GRAIN_NS)
    return found


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        size = path.stat().st_size
        if size <= MAX_HASHED_BYTES:
            return hashlib.file_digest(file, "sha256").hexdigest()
        length = 8 + int.from_bytes(file.read(8), "little")
        file.seek(0)
        header = hashlib.sha256(file.read(min(length, MAX_HEADER_BYTES))).hexdigest()
        return f"{size} bytes, header {header}"


def _samples(path: Path) -> str:
    """Return the SHA-256 of NUM_SAMPLES pieces of a file."""
    digest, size = hashlib.sha256(), path.stat().st_size
    with path.open("rb") as file:
        for number in range(NUM_SAMPLES):
            file.seek(number * max(0, size - SAMPLE_BYTES) // (NUM_SAMPLES - 1))
            digest.update(file.read(SAMPLE_BYTES))
    return f"samples {digest.hexdigest()}"
