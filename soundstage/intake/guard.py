"""Look into files of strangers in a process of their own, which may fail, hang or grow without harm.

A child process is kept warm between calls. It has limits of memory, of open files and of what it writes, none
of the server's secrets in its environment, and is ended when a call takes too long. What it answers is JSON.

    guard = Guard(seconds=60, memory_bytes=2**32)
    guard.call(inspect_json, str(path), "input", {})
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from soundstage import errors
from soundstage.errors import MediaError, SoundstageError
from soundstage.jobs.errors import TooLarge

CHILD = "soundstage.intake.child"
AT_ONCE = 2
CALLS_EACH = 200  # of a child, so that what leaks in a library does not add up
KEPT_VARIABLES = ("PATH", "PYTHONPATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "SYSTEMROOT", "LD_LIBRARY_PATH")
TOLD = {one.__name__: one for one in (MediaError, TooLarge, errors.RequestError, errors.WeightsError)}


class Guard:
    """Runs functions of the package in child processes. seconds: a call may take; memory_bytes: a child.

    Its methods may be called from any thread.
    """

    def __init__(self, *, seconds: float, memory_bytes: int) -> None:
        self._seconds, self._memory_bytes = seconds, memory_bytes
        self._turn = threading.BoundedSemaphore(AT_ONCE)
        self._idle: queue.SimpleQueue[_Child] = queue.SimpleQueue()

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Return what a function of a module returns. Arguments and value are what JSON has.

        Raises the SoundstageError that it raises, and MediaError where the child fails or takes too long.
        """
        with self._child() as child:
            answer = child.ask(
                {"function": f"{function.__module__}:{function.__name__}", "args": args}, self._seconds
            )
        if "error" in answer:
            raise TOLD.get(answer["error"], MediaError)(answer["message"])
        return answer["value"]

    def close(self) -> None:
        """End the children that wait."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._idle.get_nowait().end()

    @contextlib.contextmanager
    def _child(self) -> Iterator[_Child]:
        with self._turn:
            try:
                child = self._idle.get_nowait()
            except queue.Empty:
                child = _Child(self._memory_bytes)
            try:
                yield child
            except BaseException:
                child.end()
                raise
            if child.is_worn:
                child.end()
            else:
                self._idle.put(child)


class _Child:
    """A process that answers one line for each line that it gets."""

    def __init__(self, memory_bytes: int) -> None:
        self._left = CALLS_EACH
        kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
        self._process = subprocess.Popen(
            [sys.executable, "-m", CHILD, str(memory_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**kept, "OMP_NUM_THREADS": "1"},
        )

    @property
    def is_worn(self) -> bool:
        return self._left <= 0

    def ask(self, question: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Return the answer. Raises MediaError where none comes in time."""
        self._left -= 1
        timer = threading.Timer(seconds, self._process.kill)
        timer.daemon = True
        timer.start()
        try:
            answer = self._exchange(json.dumps(question).encode() + b"\n")
        finally:
            timer.cancel()
        if not answer.endswith(b"\n"):
            raise MediaError("the file took too much time or memory to look into; is it damaged?")
        found: dict[str, Any] = json.loads(answer)
        return found

    def _exchange(self, line: bytes) -> bytes:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(line)
            self._process.stdin.flush()
        except OSError:  # it has ended already
            return b""
        return self._process.stdout.readline()

    def end(self) -> None:
        """Kill the process and wait for its end."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


def error_words(error: SoundstageError) -> dict[str, str]:
    """Return an error as a child tells it."""
    kind = next((name for name, one in TOLD.items() if isinstance(error, one)), MediaError.__name__)
    return {"error": kind, "message": str(error)}
