"""The way of a worker to its server: within one process, or over HTTP (over_http.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from soundstage.errors import SoundstageError
from soundstage.jobs.errors import NotFound
from soundstage.jobs.service import Jobs
from soundstage.jobs.views import JobFault, Lease, MadeFiles, Order, WorkerInfo, WorkReport

LOOK_S = 1.0  # other processes may submit jobs too


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


class InProcess:
    """Calls of `Jobs` itself, for a worker in the server's own process."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    def claim(self, worker: WorkerInfo, wait_s: float) -> Lease | None:
        seen = self._jobs.news.version
        found = self._jobs.claim(worker)
        if found is None and wait_s > 0:
            self._jobs.news.wait(seen, min(wait_s, LOOK_S))
            found = self._jobs.claim(worker)
        return found

    def renew(self, lease: Lease, report: WorkReport) -> Order:
        return self._jobs.renew(lease.id, report)

    def finish(self, lease: Lease, made: MadeFiles) -> None:
        self._jobs.finish(lease.id, made)

    def fail(self, lease: Lease, fault: JobFault, *, retry: bool) -> None:
        self._jobs.fail(lease.id, fault.code, fault.message, field=fault.field, retry=retry)

    def release(self, lease: Lease) -> None:
        self._jobs.release(lease.id)

    def input(self, lease: Lease, reference: str) -> Path:
        return file_below(self._jobs.data, lease, reference)

    def new_file(self, name: str) -> Path:
        return self._jobs.tmp / name

    def hand_in(self, lease: Lease, path: Path) -> str:
        return path.name

    def checkpoint(self, lease: Lease) -> Path:
        return self._jobs.checkpoint_folder(lease.job.id)

    def keep_checkpoint(self, lease: Lease) -> None:
        pass

    def done(self, lease: Lease) -> None:
        pass


def file_below(data: Path, lease: Lease, reference: str) -> Path:
    """Return an input of a job as a file of the server's data folder. Raises NotFound."""
    path = data / lease.files.get(reference, "")
    if not path.is_file():
        raise NotFound(f"the file {reference!r} of the job is gone")
    return path
