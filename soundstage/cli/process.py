"""The process's exit codes, and its streams, which may be closed, full or in another encoding."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
from typing import Any

DONE, FAULT, MISUSE, INTERRUPTED, PIPE_CLOSED = 0, 1, 2, 130, 141  # exit codes; 128 + the signal's number
OUTPUT = "standard output"  # what stands for a file's name where it cannot be written
_LOSSLESS = "soundstage.lossless"


def open_missing_streams() -> None:
    """Open the null device where standard input, output or error is closed.

    Otherwise the next file that is opened gets its number, and messages are written into it.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115


def make_streams_safe() -> None:
    """Let standard output carry any file name and be named where it fails; no message stops the work."""
    codecs.register_error(_LOSSLESS, _lossless)
    sys.stdout = _text(_Output(1), sys.stdout)
    sys.stderr = _text(_Messages(2), sys.stderr)


def _text(raw: io.RawIOBase, before: Any) -> io.TextIOWrapper:
    """A text stream over a descriptor, in the encoding of the one before; lines go out as they end."""
    encoding = getattr(before, "encoding", None) or "utf-8"
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding=encoding, errors=_LOSSLESS, line_buffering=True)


def _lossless(error: UnicodeError) -> tuple[str | bytes, int]:
    """Write the bytes of a name that is not UTF-8 as they came, and what an encoding lacks as an escape."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    if all(0xDC80 <= ord(character) <= 0xDCFF for character in text):
        return bytes(ord(character) - 0xDC00 for character in text), error.end
    return codecs.backslashreplace_errors(error)


class _Output(io.RawIOBase):
    """Writes to a descriptor; what fails names standard output."""

    def __init__(self, number: int) -> None:
        self._number = number

    def fileno(self) -> int:
        return self._number

    def isatty(self) -> bool:
        return os.isatty(self._number)

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        try:
            return os.write(self._number, data)
        except OSError as error:
            raise OSError(error.errno, error.strerror, OUTPUT) from error


class _Messages(_Output):
    """Writes to a descriptor, and drops what cannot be written: a full disk, a closed pipe."""

    def write(self, data: Any) -> int:
        with contextlib.suppress(OSError):
            return super().write(data)
        return memoryview(data).nbytes


def drop_output() -> None:
    """Send standard output nowhere, so that the interpreter's end finds nothing left to fail."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.close(null)
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
