"""Zip files of training data, as hosted trainers take them, unpacked without trusting them.

Only media, captions and tables are taken. Names that lead elsewhere, links, encrypted entries, names that
differ in case alone, and archives that unpack to far more than they are, are refused before anything is kept.
"""

from __future__ import annotations

import shutil
import stat
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from soundstage.dataset.findings import ShowShare
from soundstage.dataset.sources import MEDIA, TEXTS
from soundstage.dataset.tables import SUFFIXES
from soundstage.errors import DatasetError

MAX_ENTRIES = 20_000
MAX_BYTES = 200 * 10**9
MAX_RATIO = 200  # of an entry that is larger than SMALL_BYTES
SMALL_BYTES = 10 * 2**20
PIECE_BYTES = 2**20


def unpack(path: Path, folder: Path, report: ShowShare = lambda _: None) -> list[str]:
    """Unpack a zip into a new folder, and return what was left out. All or nothing.

    Raises DatasetError for an archive that is damaged or not to be trusted, and for a folder that is there.
    """
    if folder.exists():
        raise DatasetError(f"{folder} is there already; name another folder by --output")
    with _opened(path) as archive:
        entries = _checked(path, archive)
        total = sum(entry.file_size for entry in entries)
        folder.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder.parent).free
        if total > free:
            raise DatasetError(
                f"{path} unpacks to {total / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free at {folder.parent}"
            )
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".soundstage-") as work:
            made = Path(work) / "data"
            _extract(archive, entries, made, report)
            made.rename(folder)
        return _left_out(archive)


def check_archive(path: Path) -> None:
    """Raise what `unpack` does of an archive's list of entries, without unpacking it."""
    with _opened(path) as archive:
        _checked(path, archive)


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip; what goes wrong within the block is a DatasetError."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise DatasetError(f"{path} is no zip file that can be read ({error}); make it again") from error
    except OSError as error:
        raise DatasetError(f"{path} cannot be unpacked ({error.strerror or error})") from error


def _is_wanted(entry: zipfile.ZipInfo) -> bool:
    name = PurePosixPath(entry.filename)
    hidden = any(part.startswith((".", "__MACOSX")) for part in name.parts if part not in (".", ".."))
    return not entry.is_dir() and not hidden and name.suffix.lower() in (*MEDIA, *TEXTS, *SUFFIXES)


def _checked(path: Path, archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """Return the entries to take. Raises DatasetError naming the first that is not to be trusted."""
    entries = archive.infolist()
    if len(entries) > MAX_ENTRIES:
        raise DatasetError(f"{path} has {len(entries)} entries; give at most {MAX_ENTRIES}")
    seen: dict[str, str] = {}
    total = 0
    for entry in entries:
        _check_name(path, entry)
        if not _is_wanted(entry):
            continue
        if entry.flag_bits & 1:
            raise DatasetError(f"{path}: '{entry.filename}' is encrypted; make the zip without a password")
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise DatasetError(f"{path}: '{entry.filename}' is a link; put the file itself into the zip")
        key = entry.filename.lower()
        if key in seen:
            raise DatasetError(
                f"{path}: '{seen[key]}' and '{entry.filename}' are one name; rename one of them"
            )
        seen[key] = entry.filename
        large = entry.file_size > SMALL_BYTES
        if large and entry.file_size > MAX_RATIO * max(1, entry.compress_size):
            raise DatasetError(
                f"{path}: '{entry.filename}' would grow from {entry.compress_size:,} to {entry.file_size:,} "
                "bytes, which no clip does; it is not unpacked"
            )
        total += entry.file_size
    if total > MAX_BYTES:
        raise DatasetError(f"{path} unpacks to {total / 1e9:.0f} GB; give at most {MAX_BYTES / 1e9:.0f} GB")
    found = [entry for entry in entries if _is_wanted(entry)]
    if not found:
        raise DatasetError(f"{path} holds no clip, picture or sound; see docs/dataset.md for its layouts")
    return found


def _check_name(path: Path, entry: zipfile.ZipInfo) -> None:
    """Raise DatasetError for a name that leads out of the folder."""
    name = PurePosixPath(entry.filename.replace("\\", "/"))
    drive = len(entry.filename) > 1 and entry.filename[1] == ":"
    if name.is_absolute() or drive or ".." in name.parts or "\0" in entry.filename:
        raise DatasetError(
            f"{path}: '{entry.filename}' leads out of the folder; such an archive is not unpacked"
        )


def _extract(
    archive: zipfile.ZipFile,
    entries: list[zipfile.ZipInfo],
    folder: Path,
    report: ShowShare,
) -> None:
    """Write entries, each no longer than it says."""
    for number, entry in enumerate(entries, 1):
        target = folder / PurePosixPath(entry.filename.replace("\\", "/"))
        target.parent.mkdir(parents=True, exist_ok=True)
        written = 0
        with archive.open(entry) as source, target.open("xb") as file:
            while piece := source.read(PIECE_BYTES):
                written += len(piece)
                if written > entry.file_size:
                    raise DatasetError(f"'{entry.filename}' is longer than it says; it is not unpacked")
                file.write(piece)
        report(number / len(entries))


def _left_out(archive: zipfile.ZipFile) -> list[str]:
    """Return the endings of what was not taken, with their numbers."""
    others = (entry for entry in archive.infolist() if not entry.is_dir() and not _is_wanted(entry))
    counts = Counter(PurePosixPath(entry.filename).suffix.lower() or entry.filename for entry in others)
    return [f"{count} {ending}" for ending, count in sorted(counts.items())]
