"""The calls of a worker to its server; over_http.py makes them over HTTP."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

from soundstage.errors import SoundstageError
from soundstage.jobs.errors import Gone
from soundstage.jobs.views import JobFault, Lease, MadeFiles, Order, WorkerInfo, WorkReport

log = logging.getLogger("soundstage.worker")
FIRST_PAUSE_S, LONGEST_PAUSE_S, LOOK_S = 0.5, 15.0, 0.1
T = TypeVar("T")


class ServerAway(SoundstageError):
    """The server does not answer now; the same call may succeed later."""


class ReportRefused(SoundstageError):
    """The server took a call for wrong: it is of another version, or what was sent is too large for it."""


class Transport(Protocol):
    """Calls of a worker. Those about a lease raise LeaseLost once the job is no longer the worker's.

    All may raise ServerAway, and Forbidden where the worker's key is refused.
    """

    def claim(self, worker: WorkerInfo, wait_s: float) -> Lease | None:
        """Return the next job; None where none came in that time."""

    def renew(self, lease: Lease, report: WorkReport) -> Order:
        """Tell news of a job, and hear whether to go on."""

    def finish(self, lease: Lease, made: MadeFiles) -> None:
        """Hand in a finished job; its files were handed in before."""

    def fail(self, lease: Lease, fault: JobFault, *, retry: bool) -> None:
        """Tell that a job failed."""

    def release(self, lease: Lease) -> None:
        """Give a job back, to go on from its checkpoint."""

    def input(self, lease: Lease, reference: str) -> Path:
        """Return an input as a file of this machine."""

    def new_file(self, name: str) -> Path:
        """Return the path of a new file that will be handed in."""

    def hand_in(self, lease: Lease, path: Path) -> str:
        """Hand in a file, and return the name that MadeFile.file has for it."""

    def checkpoint(self, lease: Lease) -> Path:
        """Return the folder of the job's checkpoint on this machine, with what the server has of it."""

    def keep_checkpoint(self, lease: Lease) -> None:
        """Let the server have the checkpoint, if it cannot see the folder."""

    def done(self, lease: Lease) -> None:
        """Remove what is kept on this machine for a job."""


def patiently(call: Callable[[], T], stop: Callable[[], bool]) -> T:
    """Call with growing pauses until the server answers, and return the answer.

    Raises ServerAway once `stop` says so.
    """
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            return call()
        except ServerAway as error:
            log.info("%s; trying again", error)
            until = time.monotonic() + pause_s
            while time.monotonic() < until:
                if stop():
                    raise
                time.sleep(LOOK_S)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def file_below(data: Path, lease: Lease, reference: str) -> Path:
    """Return an input of a job as a file of the server's data folder. Raises Gone."""
    path = data / lease.files.get(reference, "")
    if not path.is_file():
        raise Gone(f"the file {reference!r} of the job is gone")
    return path
