"""Exit codes of the process, and standard streams that may be closed, full or in another encoding."""

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
    """Let standard output write any file name, and let messages that cannot be written stop nothing.

    An error of standard output names it.
    """
    codecs.register_error(_LOSSLESS, _lossless)
    sys.stdout = _text(_Output(1), sys.stdout)
    sys.stderr = _text(_Messages(2), sys.stderr)


def _text(raw: io.RawIOBase, before: Any) -> io.TextIOWrapper:
    """Return a line-buffered text stream over a descriptor, in the encoding of the one before."""
    encoding = getattr(before, "encoding", None) or "utf-8"
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding=encoding, errors=_LOSSLESS, line_buffering=True)


def _lossless(error: UnicodeError) -> tuple[str | bytes, int]:
    """Write bytes of a name that is not UTF-8 as they came, and characters an encoding lacks as escapes."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    if all(0xDC80 <= ord(character) <= 0xDCFF for character in text):
        return bytes(ord(character) - 0xDC00 for character in text), error.end
    return codecs.backslashreplace_errors(error)


class _Output(io.RawIOBase):
    """Write to a descriptor. An error names standard output."""

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
    """Write to a descriptor, and drop what cannot be written, as on a full disk or a closed pipe."""

    def write(self, data: Any) -> int:
        with contextlib.suppress(OSError):
            return super().write(data)
        return memoryview(data).nbytes


def drop_output() -> None:
    """Send standard output nowhere, so that nothing fails when the interpreter ends."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.close(null)
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
