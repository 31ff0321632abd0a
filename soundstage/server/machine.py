"""The report of `soundstage doctor`, made by a process of its own and kept.

It takes seconds and loads what a server does not need otherwise. A kept report is given at once; when it is
old, a new one is made meanwhile for the next who asks.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from soundstage.errors import RequestError
from soundstage.jobs.errors import Unavailable

FRESH_S = 30.0
LONGEST_S = 120.0  # of making one
MAX_KEPT = 16  # devices
DOCTOR = (sys.executable, "-m", "soundstage", "doctor", "--json", "--device")


@dataclass(frozen=True)
class KeptReport:
    """A report as JSON text, and when it was made, by the monotonic clock."""

    text: str
    at: float


class MachineReports:
    """Reports of this machine by device. command: makes one of the device that is its last word."""

    def __init__(self, command: Sequence[str] = DOCTOR) -> None:
        self._command = tuple(command)
        self._lock = threading.Lock()
        self._kept: dict[str, KeptReport] = {}
        self._coming: dict[str, Future[KeptReport]] = {}

    def of(self, device: str) -> KeptReport:
        """Return the report of a device, perhaps of a while ago; the first one is waited for.

        Raises RequestError for a device that is not there, Unavailable where none can be made.
        """
        with self._lock:
            kept = self._kept.get(device)
            coming = self._coming.get(device)
            if coming is None and (kept is None or time.monotonic() - kept.at > FRESH_S):
                coming = self._coming[device] = Future()
                threading.Thread(target=self._make, args=(device, coming), daemon=True).start()
        if kept is not None:
            return kept
        assert coming is not None
        try:
            return coming.result(2 * LONGEST_S)
        except TimeoutError:  # such as where no thread could be started
            raise Unavailable("the machine cannot be examined now; try again in a minute") from None

    def _make(self, device: str, coming: Future[KeptReport]) -> None:
        try:
            made = KeptReport(self._examined(device), time.monotonic())
        except Exception as error:
            coming.set_exception(error)
        else:
            with self._lock:
                if len(self._kept) < MAX_KEPT or device in self._kept:
                    self._kept[device] = made
            coming.set_result(made)
        finally:
            with self._lock:
                del self._coming[device]

    def _examined(self, device: str) -> str:
        try:
            ended = subprocess.run(
                [*self._command, device], capture_output=True, text=True, timeout=LONGEST_S, check=False,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired):
            raise Unavailable("the machine cannot be examined now; try again in a minute") from None
        if ended.returncode == 0:
            return ended.stdout
        try:
            told = json.loads(ended.stdout)["error"]["message"].replace("--device", "device")
        except (ValueError, KeyError, TypeError):
            raise Unavailable("the machine cannot be examined now; the log of the server says why") from None
        raise RequestError(told, field="device")
