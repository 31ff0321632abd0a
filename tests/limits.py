"""How long tests wait for what comes soon: limits that only a fault reaches.

Without one a fault holds up the whole run. With one the test fails at its own line, before pytest's limit for
every test (pyproject.toml) has to interrupt it, which a test's own clean-up may not survive.
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

LONG_S = 240.0  # on a machine with much other work
SLOW_S = 3000.0  # of a slow test, which has an hour


def joined(thread: threading.Thread, seconds: float = LONG_S) -> None:
    """Wait for the end of a thread. Raises AssertionError where it does not end."""
    thread.join(seconds)
    assert not thread.is_alive(), f"the thread {thread.name!r} does not end"


def ended(process: subprocess.Popen[Any], seconds: float = 30.0) -> int:
    """Wait for the end of a process that was asked to end, or kill it. Return its exit code."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait(seconds)


def until(holds: Callable[[], Any], seconds: float = LONG_S) -> None:
    """Wait until something holds. Raises AssertionError where it never does."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "what the test waits for does not come"
        time.sleep(0.01)
