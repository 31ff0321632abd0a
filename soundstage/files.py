"""Write files whole or not at all, under names that are checked before the work; notice replaced files.

A file is written under a short temporary name in the folder of its own and renamed when complete, so an
interruption leaves no partial file. The temporary name says which machine and process it belongs to, and
the process holds a lock on it; one whose process is gone is removed when the same folder is written again.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import platform
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from soundstage.errors import MediaError

try:
    import fcntl
except ImportError:  # Windows, where a file that is open cannot be removed anyway
    fcntl = None  # type: ignore[assignment]

MACHINE = hashlib.sha256(platform.node().encode(errors="replace")).hexdigest()[:8]
TEMPORARY = re.compile(rf"\.soundstage-{MACHINE}-(\d+)-[0-9a-f]{{8}}\.part")
ANY_WRITE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH
TRIAL_BYTES = 2**18  # a disk with less room than this is full
MAX_NAMES = 10_000


OUTPUT = "output"  # what messages call a name that is written to


class NameTakenError(MediaError):
    """A file of that name is there, and was not to be replaced."""


def check_writable(
    path: Path, suffixes: tuple[str, ...], *, overwrite: bool = True, field: str = OUTPUT
) -> None:
    """Raise MediaError now if `path` could not be written later, before minutes of work are spent on it.

    Makes the two files that will be made, the temporary one and the last one, and removes them again.
    overwrite: False refuses a name that is there. field: what messages call the name.
    """
    try:
        _check_writable(path, suffixes, overwrite)
    except MediaError as error:
        raise type(error)(str(error).replace(OUTPUT, field, 1)) from error.__cause__


def _check_writable(path: Path, suffixes: tuple[str, ...], overwrite: bool) -> None:
    if path.suffix.lower() not in suffixes:
        raise MediaError(f"output is {path}; give a name ending in {' or '.join(suffixes)}")
    with _refusals(path):
        target = _target(path)
        if not overwrite and os.path.lexists(path):
            raise NameTakenError(f"output is {path}, which is there already; choose another name")
        _check_target(path, target)
        with _temporary(target.parent) as part:
            part.write_bytes(bytes(TRIAL_BYTES))
        if not target.exists():
            os.close(_made(target))
            target.unlink()


@contextmanager
def whole_file(path: Path, *, overwrite: bool = True) -> Iterator[Path]:
    """Yield a temporary name beside `path`; rename it to `path` if the block ends well, else remove it.

    A symbolic link is followed. overwrite: False raises NameTakenError where the name is there by then.
    Raises MediaError for what the operating system refuses.
    """
    with _refusals(path, "cannot write {path}: {cause}"):
        target = _target(path)
        with _temporary(target.parent) as part:
            mode = part.stat().st_mode
            yield part
            _check_target(path, target)
            if overwrite and target.exists():
                mode = target.stat().st_mode
            with contextlib.suppress(OSError):  # a writer may have put a file for its owner alone there
                part.chmod(stat.S_IMODE(mode))
            if overwrite:
                os.replace(part, target)
            else:
                _place(part, target)


class Reserved:
    """A name that no other process gets: an empty file of it, locked until the block ends.

    A file that is there and empty may be taken over, as `mktemp` makes them, unless another process has it
    reserved. After the block it is removed if it is still empty. Raises NameTakenError.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _refusals(path):
            target = _target(path)
            try:
                self._handle = _made(target)
            except FileExistsError:
                self._handle = _opened_empty(path, target)
        if not _lock(self._handle):
            os.close(self._handle)
            raise NameTakenError(f"output is {path}, which another process is making; choose another name")

    def __enter__(self) -> Reserved:
        return self

    def __exit__(self, *_: object) -> None:
        empty = self.held()
        os.close(self._handle)
        if empty:
            with contextlib.suppress(OSError):
                _target(self.path).unlink()

    def held(self) -> bool:
        """Return whether the name still belongs to the empty file that was made, and may be written over."""
        try:
            there = _target(self.path).stat()
        except OSError:
            return False
        return there.st_size == 0 and os.path.samestat(there, os.fstat(self._handle))


def reserved_name(folder: Path, stem: str, suffix: str) -> Reserved:
    """Return the first free name of stem.suffix, stem-2.suffix, ..., reserved.

    A stem that is too long for the folder is cut. Raises MediaError where no file can be made.
    """
    with _refusals(folder / f"{stem}{suffix}"):
        for count in range(1, MAX_NAMES):
            end = f"{'' if count == 1 else f'-{count}'}{suffix}"
            short = _cut(stem, _longest_name(folder) - len(os.fsencode(end)))
            with contextlib.suppress(NameTakenError):
                return Reserved(folder / f"{short}{end}")
    raise MediaError(f"the names {stem}{suffix} to {stem}-{MAX_NAMES - 1}{suffix} are all taken; clear some")


def _target(path: Path) -> Path:
    """Return where a file of this name is put: where a symbolic link leads."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def _check_target(path: Path, target: Path) -> None:
    if target.is_dir():
        raise MediaError(f"output is {path}, which is a folder; give the name of a file in it")
    if target.parent.exists() and not target.parent.is_dir():
        raise MediaError(f"output is {path}, but {target.parent} is no folder; choose another place")
    if not target.parent.is_dir():
        raise MediaError(f"output is {path}, but there is no folder {target.parent}; make it first")
    if not target.exists():
        return
    mode = target.stat().st_mode
    if not stat.S_ISREG(mode):
        raise MediaError(f"output is {path}, which is a device or pipe; give the name of a file")
    if not (mode & ANY_WRITE and os.access(target, os.W_OK)):
        raise MediaError(f"output is {path}, which is read-only; choose another name or make it writable")


@contextmanager
def _refusals(path: Path, sentence: str = "output is {path}, but {cause}") -> Iterator[None]:
    """Raise the operating system's errors as ours."""
    if "\0" in str(path):
        raise MediaError(f"output is {_short(path)!r}, which no file can be named; leave out the zero byte")
    try:
        yield
    except (OSError, UnicodeEncodeError) as error:
        raise MediaError(sentence.format(path=_short(path), cause=_cause(path, error))) from error


def _cause(path: Path, error: OSError | UnicodeEncodeError) -> str:
    number = error.errno if isinstance(error, OSError) else errno.EILSEQ
    if number == errno.ENAMETOOLONG:
        return "its name is too long for this folder; choose a shorter one"
    if number in (errno.EILSEQ, errno.EINVAL):
        return "the file system does not take that name; choose another"
    if number in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full ({os.strerror(number)}); make room or choose another folder"
    reason = (error.strerror if isinstance(error, OSError) else None) or error
    return f"{_short(path.parent)} cannot be written ({reason}); choose another folder"


def _short(path: Path) -> str:
    text = str(path)
    return text if len(text) <= 300 else f"{text[:120]} ... {text[-60:]}"


def _made(path: Path) -> int:
    """Return a descriptor of a new file; FileExistsError where the name is taken."""
    return os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_BINARY", 0), 0o666)


def _opened_empty(path: Path, target: Path) -> int:
    """Return a descriptor of an empty file that is there."""
    if not target.is_file() or target.stat().st_size > 0:
        raise NameTakenError(f"output is {path}, which is there already; choose another name")
    return os.open(target, os.O_RDWR)


def _lock(handle: int) -> bool:
    """Return whether nobody else has the file; it is ours from now on, where there are locks."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _place(part: Path, target: Path) -> None:
    """Give a complete file its name, which nobody else may have taken meanwhile."""
    try:
        try:
            os.link(part, target)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            os.close(_made(target))
            os.replace(part, target)
    except FileExistsError:
        raise NameTakenError(f"output is {target}, which another program made meanwhile") from None


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file's content a second name, which must be free: a hard link, or a copy where none can be."""
    try:
        os.link(source.resolve(), target)
    except FileExistsError:
        raise
    except OSError:  # another disk, or a file system without hard links
        shutil.copy2(source, target)


@contextmanager
def _temporary(folder: Path) -> Iterator[Path]:
    """Yield a new empty file in a folder, locked while it is used; remove it afterwards if it is there."""
    _sweep(folder)
    path, handle = _locked(folder)
    try:
        yield path
    finally:
        if handle is not None:
            os.close(handle)
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _locked(folder: Path) -> tuple[Path, int | None]:
    while True:
        path = folder / f".soundstage-{MACHINE}-{os.getpid()}-{secrets.token_hex(4)}.part"
        handle = _made(path)
        if fcntl is None:  # Windows does not rename a file that is open
            os.close(handle)
            return path, None
        _lock(handle)
        if path.exists():  # not swept by another process before it was locked
            return path, handle
        os.close(handle)


def _sweep(folder: Path) -> None:
    """Remove temporary files that processes of this machine left behind when they were killed."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            found = TEMPORARY.fullmatch(entry.name)
            if found and _left_behind(entry.path, int(found[1])):
                os.unlink(entry.path)


def _left_behind(path: str, process: int) -> bool:
    """Return whether no process writes the file: nobody holds its lock or, without locks, has its number."""
    if fcntl is None:
        return False
    handle = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return not _alive(process)
    finally:
        os.close(handle)
    return True


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _longest_name(folder: Path) -> int:
    """Return how many bytes a file's name may have in a folder."""
    try:
        return os.pathconf(folder, "PC_NAME_MAX")
    except (AttributeError, ValueError, OSError):
        return 255


def _cut(stem: str, num_bytes: int) -> str:
    """Return the stem in at most num_bytes, without a broken letter at its end."""
    stored = os.fsencode(stem)
    if len(stored) <= num_bytes:
        return stem
    return stored[: max(1, num_bytes)].decode(errors="ignore")


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
