"""A worker's calls to a server in the same process, for tests."""

from __future__ import annotations

from pathlib import Path

from soundstage.jobs.service import Jobs
from soundstage.jobs.transport import file_below
from soundstage.jobs.views import JobFault, Lease, MadeFiles, Order, WorkerInfo, WorkReport

LOOK_S = 1.0  # other processes may submit jobs too


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
