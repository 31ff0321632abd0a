"""Folders in the user's cache for work that is under way: windows of takes, renders, jobs of far servers.

Each lies under the fingerprint of what it is for, and is locked while a run uses it. A variable names another
place for all of a kind; "off" in it means that there are none.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs
from filelock import FileLock, Timeout

OFF = "off"
FORGOTTEN_S = 30 * 24 * 3600.0  # a folder that was not written to for so long is deleted
MOST_BYTES = 20e9  # of all folders of a kind; then the oldest are deleted
MOST_AT_ONCE = 8  # folders of one fingerprint


def fingerprint(metadata: Mapping[str, Any]) -> str:
    """Return the SHA-256 of JSON-ready metadata."""
    return hashlib.sha256(json.dumps(metadata, sort_keys=True).encode()).hexdigest()


class OwnFolder:
    """One such folder, locked for one run until it is closed."""

    def __init__(self, path: Path, lock: FileLock) -> None:
        self.path, self._lock = path, lock

    @classmethod
    def locked(cls, path: Path) -> OwnFolder | None:
        """Return the folder at a path; None where another run uses it or nothing can be written."""
        lock = FileLock(f"{path}.lock", timeout=0, thread_local=False)
        try:
            lock.acquire()
        except (Timeout, OSError, NotImplementedError):
            return None
        return cls(path, lock)

    def close(self) -> None:
        """Let other runs use it."""
        self._lock.release()

    def discard(self) -> None:
        """Delete it."""
        shutil.rmtree(self.path, ignore_errors=True)
        with suppress(OSError):
            Path(self._lock.lock_file).unlink(missing_ok=True)
        self.close()


@dataclass(frozen=True)
class OwnFolders:
    """All folders of a kind. name: where they lie in the user's cache. variable: names another place."""

    name: str
    variable: str

    def place(self) -> Path | None:
        """Return the folder they lie in; None if the variable is "off"."""
        named = os.environ.get(self.variable, "")
        if named.lower() == OFF:
            return None
        return Path(named) if named else Path(platformdirs.user_cache_dir("soundstage")) / self.name

    def found(self, mark: str, holds: Callable[[Path], bool] = Path.is_dir) -> OwnFolder | None:
        """Return the latest that an earlier run with this fingerprint left, if no run uses it.

        holds: says whether there is something in it.
        """
        there = [path for path in self._names(mark) if path.is_dir() and holds(path)]
        for path in sorted(there, key=_touched, reverse=True):
            if (own := OwnFolder.locked(path)) is not None:
                return own
        return None

    def new(self, mark: str, holds: Callable[[Path], bool] = lambda _: False) -> OwnFolder | None:
        """Return an empty one; None where none can be made.

        holds: says whether there is something in one that is there. It is replaced only where all names are
        taken, the oldest first.
        """
        self._sweep()
        names = list(self._names(mark))
        full = [path for path in names if holds(path)]
        free = [path for path in names if path not in full]
        for path in (*free, *sorted(full, key=_touched)):
            with suppress(OSError):
                path.parent.mkdir(parents=True, exist_ok=True)
                if (own := OwnFolder.locked(path)) is not None:
                    shutil.rmtree(path, ignore_errors=True)
                    return own
        return None

    def _names(self, mark: str) -> Iterator[Path]:
        """Yield the names that a folder may have, in order."""
        place = self.place()
        if place is not None:
            yield from (place / f"{mark[:24]}-{number}" for number in range(1, MOST_AT_ONCE + 1))

    def _sweep(self) -> None:
        """Delete folders that were not written to for FORGOTTEN_S, and the oldest beyond MOST_BYTES."""
        place = self.place()
        there: list[Path] = []
        with suppress(OSError):
            there = [path for path in place.iterdir() if path.is_dir()] if place is not None else []
        total = 0
        for path in sorted(there, key=_touched, reverse=True):
            total += _num_bytes(path)
            old = time.time() - _touched(path) > FORGOTTEN_S
            if (old or total > MOST_BYTES) and (own := OwnFolder.locked(path)) is not None:
                own.discard()


TAKES = OwnFolders("takes", "SOUNDSTAGE_TAKES")
RENDERS = OwnFolders("renders", "SOUNDSTAGE_RENDERS")
WORKERS = OwnFolders("workers", "SOUNDSTAGE_WORKERS")


def _touched(path: Path) -> float:
    """Return when anything in a folder was written last; 0 where it is gone."""
    times = [0.0]
    for one in (path, *path.rglob("*")):
        with suppress(OSError):
            times.append(one.stat().st_mtime)
    return max(times)


def _num_bytes(path: Path) -> int:
    total = 0
    for one in path.rglob("*"):
        with suppress(OSError):
            total += one.stat().st_size
    return total
