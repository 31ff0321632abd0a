"""Worker processes of a server: one for each device, started, watched, and started again when they end."""

from __future__ import annotations

import logging
import os
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress

from soundstage.jobs.ids import new_id
from soundstage.jobs.views import WorkerView
from soundstage.server.logs import told

log = logging.getLogger("soundstage.server")
# Variables of a worker that a server starts: the process that it ends with, and what it calls itself.
PARENT, IDENTIFIER = "SOUNDSTAGE_PARENT", "SOUNDSTAGE_WORKER_ID"
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
SILENT_LOOKS = 4
STEADY_S = 60.0  # a worker that lived so long begins with the first pause again
TELL_S = 10.0  # to tell the server's store that a worker has ended; its leases run out in any case
DRAIN_S = 120.0  # to save what a worker has made of its clip


class Supervisor:
    """Keeps worker processes alive.

    devices: one for each worker. command: starts the worker of a device. environment: theirs; each process
    gets an id of its own besides. ended: is called with that id when a process has ended, so that its job
    need not wait for its lease to run out.
    """

    def __init__(
        self,
        devices: Sequence[str],
        command: Callable[[str], Sequence[str]],
        environment: Mapping[str, str],
        ended: Callable[[str], object] = lambda id: None,
    ) -> None:
        self._watches = [_Watch(device, command(device), environment, ended) for device in devices]

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

    def waiting(self) -> list[WorkerView]:
        """Return the workers that have ended and are started again after a pause."""
        return [watch.pause for watch in self._watches if watch.pause is not None]

    def replace_silent(self, silent: Collection[str]) -> None:
        """Kill the workers that are silent at so many looks on end that they hang; others take their places.

        silent: the ids of all that are now. Several looks, since the server itself may have stood still.
        """
        for watch in self._watches:
            watch.look(silent)

    def kill(self) -> None:
        """End every worker at once; what it has not saved is made again."""
        for watch in self._watches:
            watch.ask_to_end()
            watch.wait(0.0)


class _Watch:
    """One worker process, and the thread that starts it again."""

    def __init__(
        self,
        device: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        tell: Callable[[str], object],
    ) -> None:
        self.pause: WorkerView | None = None
        self._device, self._id, self._silent = device, "", 0
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
        self._thread.join(TELL_S)

    def look(self, silent: Collection[str]) -> None:
        """Kill the process if it is silent now, and was at the looks before."""
        with self._lock:
            self._silent = self._silent + 1 if self._id in silent else 0
            if self._silent < SILENT_LOOKS or self._process is None or self._process.poll() is not None:
                return
            log.warning("worker hangs", extra=told(worker=self._id, device=self._device))
            self._process.kill()

    def _run(self) -> None:
        times = 0
        while not self._ended.is_set():
            began, started_at = time.monotonic(), time.time()
            code = self._once()
            if self._ended.is_set():
                return
            times = 1 if time.monotonic() - began > STEADY_S else times + 1
            pause_s = min(FIRST_PAUSE_S * 2 ** (times - 1), LONGEST_PAUSE_S)
            log.warning(
                "worker ended",
                extra=told(worker=self._id, device=self._device, code=code, times=times, again_in_s=pause_s),
            )
            self.pause = self._paused(code, times, pause_s, started_at)
            self._ended.wait(pause_s)
            self.pause = None

    def _paused(self, code: int | None, times: int, pause_s: float, started_at: float) -> WorkerView:
        """Return what is told of the worker while it is not there."""
        now = time.time()
        again = time.strftime("%H:%M:%S", time.localtime(now + pause_s))
        often = f", {times} times on end," if times > 1 else ""
        ended = f"the worker on {self._device} has ended with code {code}{often}"
        return WorkerView(
            id=self._id, name="worker of this server", device=self._device, state="restarting",
            seen_at=now, started_at=started_at,
            note=f"{ended} and starts again at {again}",
        )  # fmt: skip

    def _once(self) -> int | None:
        """Run the worker until it ends; return its exit code."""
        with self._lock:
            if self._ended.is_set():
                return None
            id = self._id = new_id("wk")
            self._silent = 0
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
