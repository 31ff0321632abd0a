"""Folders in the user's cache for the windows of takes that have no folder of their own.

They lie in $SOUNDSTAGE_TAKES, or in "takes" of the user's cache folder, under the fingerprint of their take,
and are locked while a run uses them. "off" in the variable means that there are none.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import platformdirs
from filelock import FileLock, Timeout

TAKES_VARIABLE = "SOUNDSTAGE_TAKES"
OFF = "off"
FORGOTTEN_S = 30 * 24 * 3600.0  # a folder that was not written to for so long is deleted
MOST_AT_ONCE = 8  # runs of one take at the same time


def takes_folder() -> Path | None:
    """Return the folder they lie in; None if the variable is "off"."""
    named = os.environ.get(TAKES_VARIABLE, "")
    if named.lower() == OFF:
        return None
    return Path(named) if named else Path(platformdirs.user_cache_dir("soundstage")) / "takes"


class TakeFolder:
    """One such folder, locked for one run until it is closed."""

    def __init__(self, path: Path, lock: FileLock) -> None:
        self.path, self._lock = path, lock

    @classmethod
    def found(cls, mark: str) -> TakeFolder | None:
        """Return one that an earlier run of the take with this fingerprint left, if no run uses it."""
        for path in _names(mark):
            if path.is_dir() and (own := cls._locked(path)) is not None:
                return own
        return None

    @classmethod
    def new(cls, mark: str) -> TakeFolder | None:
        """Return an empty one; None where none can be made."""
        _sweep()
        for path in _names(mark):
            with suppress(OSError):
                path.parent.mkdir(parents=True, exist_ok=True)
                if (own := cls._locked(path)) is not None:
                    shutil.rmtree(path, ignore_errors=True)
                    return own
        return None

    @classmethod
    def _locked(cls, path: Path) -> TakeFolder | None:
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


def _names(mark: str) -> Iterator[Path]:
    """Yield the names that a take's folder may have, in order."""
    folder = takes_folder()
    if folder is not None:
        yield from (folder / f"{mark[:24]}-{number}" for number in range(1, MOST_AT_ONCE + 1))


def _sweep() -> None:
    """Delete folders that were not written to for FORGOTTEN_S."""
    folder = takes_folder()
    for path in [] if folder is None or not folder.is_dir() else folder.iterdir():
        with suppress(OSError):
            if path.is_dir() and time.time() - path.stat().st_mtime > FORGOTTEN_S:
                own = TakeFolder._locked(path)
                if own is not None:
                    own.discard()
