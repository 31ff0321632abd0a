"""The calls of a worker to its server; over_http.py makes them over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from soundstage.errors import SoundstageError
from soundstage.jobs.errors import NotFound
from soundstage.jobs.views import JobFault, Lease, MadeFiles, Order, WorkerInfo, WorkReport


class ServerAway(SoundstageError):
    """The server does not answer now; the same call may succeed later."""


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


def file_below(data: Path, lease: Lease, reference: str) -> Path:
    """Return an input of a job as a file of the server's data folder. Raises NotFound."""
    path = data / lease.files.get(reference, "")
    if not path.is_file():
        raise NotFound(f"the file {reference!r} of the job is gone")
    return path
