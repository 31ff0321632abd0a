"""The files of a checkpoint: how new they are, and a tar archive of them for a worker elsewhere."""

from __future__ import annotations

import contextlib
import re
import shutil
import tarfile
from pathlib import Path

from soundstage.errors import RequestError

# Files that a run keeps: in the folder itself, and in one below it, which has the windows of a long take, or
# the run of a training. Its data, and what is worked out from them, are made again elsewhere.
KEPT = re.compile(
    r"([A-Za-z0-9_-]+/)?[A-Za-z0-9_-]+\.(json|safetensors)|run/(state\.pt|loss\.csv|validation/[a-z0-9-]+\.(mp4|wav))"
)
MAX_FILES = 10_000
WITHOUT_STATE = ("checkpoint.json", "lock", "loss.csv", "loss.png")  # files that say nothing of how far it is


def newest_state(folder: Path) -> float | None:
    """Return when a checkpoint's state was written last; None where there is none."""
    times = []
    for path in folder.rglob("*") if folder.is_dir() else ():
        if path.name not in WITHOUT_STATE and path.is_file():
            with contextlib.suppress(FileNotFoundError):
                times.append(path.stat().st_mtime)
    return max(times, default=None)


def pack(folder: Path, archive: Path) -> None:
    """Write a checkpoint's files into an archive. Locks and files that are being written are left out."""
    with tarfile.open(archive, "w") as tar:
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if KEPT.fullmatch(name) and path.is_file():
                tar.add(path, name)


def unpack(archive: Path, folder: Path) -> None:
    """Replace a folder by the files of an archive. Raises RequestError for one that holds anything else."""
    aside = archive.with_suffix(".folder")
    try:
        aside.mkdir()
        with tarfile.open(archive) as tar:
            for count, member in enumerate(tar):
                if not member.isfile() or not KEPT.fullmatch(member.name) or count >= MAX_FILES:
                    raise RequestError(
                        "the checkpoint holds more than a run's files; send its folder as it is"
                    )
                tar.extract(member, aside, filter="data")
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside.rename(folder)
    except tarfile.TarError as error:
        raise RequestError(f"the checkpoint is no tar archive ({error})") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
