"""What tells, without reading it, that a file was written again or replaced."""

from __future__ import annotations

import os
from pathlib import Path


def stamp_of(stat: os.stat_result) -> tuple[int, ...]:
    """Return what changes when a file is written or replaced: device, number, size, and its times in ns.

    The time at which its entry changed is among them: no program can set it, unlike that of the last write.
    """
    return (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def file_stamp(path: str | Path) -> tuple[int, ...]:
    """Return the stamp of the file of a name. Raises OSError if there is none."""
    return stamp_of(os.stat(path))


def known_file(path: str | Path) -> tuple[str, tuple[int, ...]]:
    """Return what is another where a name stands for another file: the whole name, and the file's stamp.

    A relative name is another file in another folder. Raises OSError if there is none.
    """
    return os.path.abspath(path), file_stamp(path)
