"""Handle the signals that end the program: Ctrl-C and the system's request.

Imported before anything else, so that Ctrl-C is taken care of a few milliseconds after the interpreter's own
start; it imports next to nothing, not even `typing`.
"""

from __future__ import annotations

import os
import signal
import sys
import time

TYPE_CHECKING = False  # type checkers take it for typing's
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any

DEBUG = "SOUNDSTAGE_DEBUG"
INTERRUPTION = "interrupted; no partial file is left"
AT_ONCE = "interrupted before everything was tidied up; the next run removes what is left"
SHOW_CURSOR = "\x1b[?25h"
# A second Ctrl-C within so many seconds is taken for the first one's echo, and lets the tidying up end.
GRACE_S = 3.0
# How long one waits for an import to end, and how often it is looked whether it has.
IMPORT_S, LOOK_S = 2.0, 0.05
_IMPORT_SYSTEM = "<frozen importlib._bootstrap>"


class Interrupts:
    """Handle Ctrl-C and requests to end, from the first import to the last moment of the process.

    Before the work begins they end the process at once: there is nothing to tidy up. Later the first one
    raises KeyboardInterrupt, so that files half-written are removed; where a module is being imported it does
    so when that is done, for an import that is broken off can turn the exception into another or swallow it.
    `code` is 128 + the signal's number once one came, else None.
    """

    def __init__(self) -> None:
        self.code: int | None = None
        self._begun = False
        self._first_s = 0.0
        self._ended = False

    def install(self) -> None:
        """Handle the signals that this process does not ignore, and exceptions raised in destructors."""
        for name in ("SIGINT", "SIGTERM"):
            number = getattr(signal, name)
            if signal.getsignal(number) is not signal.SIG_IGN:  # as in a shell's background job
                signal.signal(number, self._handle)
        sys.unraisablehook = self._unraisable

    def begin(self) -> None:
        """From now on, let a signal raise KeyboardInterrupt: there may be something to tidy up."""
        self._begun = True

    def end(self) -> None:
        """From now on, let a signal end the process without a message: all is written."""
        self._ended = True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        code = 128 + number
        if self._ended:
            os._exit(code)
        if not self._begun:
            _leave(code, INTERRUPTION)
        if self.code is None:
            self.code = code
            self._first_s = time.monotonic()
            self._raise_after_imports(number, frame)
        elif time.monotonic() - self._first_s > GRACE_S:
            _leave(code, AT_ONCE)

    def _raise_after_imports(self, number: int, frame: FrameType | None) -> None:
        """Raise KeyboardInterrupt, or try again in a moment while a module is being imported."""
        waited = time.monotonic() - self._first_s
        if not (_is_importing(frame) and waited < IMPORT_S and self._look_again()):
            raise KeyboardInterrupt

    def _look_again(self) -> bool:
        """Try again in a moment. Return False where the system has no timer."""
        if not hasattr(signal, "setitimer"):
            return False
        signal.signal(signal.SIGALRM, self._raise_after_imports)
        signal.setitimer(signal.ITIMER_REAL, LOOK_S)
        return True

    def _unraisable(self, raised: Any) -> None:
        """Raise an interruption again that was raised in a destructor or a callback of a library."""
        if raised.exc_type is not None and issubclass(raised.exc_type, KeyboardInterrupt):
            self._look_again()
        elif os.environ.get(DEBUG):
            sys.__unraisablehook__(raised)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == _IMPORT_SYSTEM:
            return True
        frame = frame.f_back
    return False


def _leave(code: int, told: str) -> None:
    """End the process at once, with the cursor that a bar may have hidden in sight again."""
    shown = SHOW_CURSOR if os.isatty(2) and os.environ.get("TERM", "dumb") != "dumb" else ""
    try:
        os.write(2, f"{shown}soundstage: {told}\n".encode())
    finally:
        os._exit(code)
