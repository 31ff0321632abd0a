"""Worker processes of a server: one for each device, started, watched, and started again when they end."""

from __future__ import annotations

import logging
import os
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from soundstage.jobs.ids import new_id
from soundstage.server.logs import told

log = logging.getLogger("soundstage.server")
# Variables of a worker that a server starts: the process that it ends with, and what it calls itself.
PARENT, IDENTIFIER = "SOUNDSTAGE_PARENT", "SOUNDSTAGE_WORKER_ID"
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
STEADY_S = 60.0  # a worker that lived so long begins with the first pause again
DRAIN_S = 120.0  # to save what a worker has made of its clip


class Supervisor:
    """Keeps worker processes alive.

    commands: one for each worker. environment: theirs; each process gets an id of its own besides. ended: is
    called with that id when a process has ended, so that its job need not wait for its lease to run out.
    """

    def __init__(
        self,
        commands: Sequence[Sequence[str]],
        environment: Mapping[str, str],
        ended: Callable[[str], object] = lambda id: None,
    ) -> None:
        self._watches = [_Watch(command, environment, ended) for command in commands]

    def start(self) -> None:
        """Start the workers."""
        for watch in self._watches:
            watch.start()

    def stop(self, drain_s: float = DRAIN_S) -> None:
        """Let every worker save its work and end; one that takes too long is killed."""
        for watch in self._watches:
            watch.ask_to_end()
        until = time.monotonic() + drain_s
        for watch in self._watches:
            watch.wait(max(0.0, until - time.monotonic()))

    def kill(self) -> None:
        """End every worker at once; what it has not saved is made again."""
        for watch in self._watches:
            watch.ask_to_end()
            watch.wait(0.0)


class _Watch:
    """One worker process, and the thread that starts it again."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], tell: Callable[[str], object]
    ) -> None:
        self._command, self._environment, self._tell = list(command), dict(environment), tell
        self._ended = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="watch of a worker", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def ask_to_end(self) -> None:
        with self._lock:
            self._ended.set()
            if self._process is not None:
                with suppress(ProcessLookupError):
                    self._process.terminate()

    def wait(self, seconds: float) -> None:
        if not self._thread.is_alive():
            return
        self._thread.join(seconds)
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                self._process.kill()
        self._thread.join()

    def _run(self) -> None:
        pause_s = FIRST_PAUSE_S
        while not self._ended.is_set():
            began = time.monotonic()
            code = self._once()
            if self._ended.is_set():
                return
            if time.monotonic() - began > STEADY_S:
                pause_s = FIRST_PAUSE_S
            log.warning("worker ended", extra=told(code=code, again_in_s=pause_s))
            self._ended.wait(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _once(self) -> int | None:
        """Run the worker until it ends; return its exit code."""
        id = new_id("wk")
        with self._lock:
            if self._ended.is_set():
                return None
            # A session of its own: Ctrl-C in the terminal reaches the server alone, which then drains.
            self._process = subprocess.Popen(
                self._command,
                env={**self._environment, IDENTIFIER: id, PARENT: str(os.getpid())},
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        code = self._process.wait()
        try:
            self._tell(id)
        except Exception as error:  # the lease of its job runs out in any case
            log.error("fault", exc_info=error, extra=told(of="the end of a worker"))
        return code
