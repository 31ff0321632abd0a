"""The worker: takes one job after the other, makes it with an engine that stays warm, and hands it in.

    JobWorker(OverHttp(server, key, data, folder), WorkerInfo(id="w1", name="here")).run()

`soundstage worker` runs one over HTTP. A job stops between two events of the engine: when it is cancelled or
given to another worker, and when the worker drains; then it goes on later from its checkpoint.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from soundstage.engine import load as load_engine
from soundstage.errors import SoundstageError
from soundstage.jobs.errors import LeaseLost, code_of
from soundstage.jobs.reporting import Reporter
from soundstage.jobs.training_work import TrainingWork
from soundstage.jobs.transport import ReportRefused, ServerAway, Transport, patiently
from soundstage.jobs.views import JobFault, Lease, MadeFiles, WorkerInfo
from soundstage.jobs.work import CHECKPOINT_S, JobWork, Renders, Stopped

log = logging.getLogger("soundstage.worker")
WAIT_S = 20.0  # for a job, at the server
AWAY_S = 20.0  # a worker that was told to end waits no longer for a server that is away
OUT_OF_MEMORY = "out of memory; ask for a smaller size, a shorter clip, or a recipe that takes less"
INTERNAL = "an internal error ({kind}); the worker's log has it"
MEMORY_WORDS = ("out of memory", "can't allocate memory", "cannot allocate memory")


class JobWorker:
    """A worker of one device.

    device: for the engines. wait_s: how long to wait for a job at once. alive: says whether what started
    this worker is still there.
    """

    def __init__(
        self,
        transport: Transport,
        info: WorkerInfo,
        *,
        device: str = "auto",
        wait_s: float = WAIT_S,
        checkpoint_s: float = CHECKPOINT_S,
        alive: Callable[[], bool] = lambda: True,
    ) -> None:
        self._transport, self._info = transport, info
        self._device, self._wait_s, self._checkpoint_s = device, wait_s, checkpoint_s
        self._alive = alive
        self._engine: tuple[str, Renders] | None = None
        self._drained, self._drained_s = False, 0.0
        self._broken = False

    def drain(self) -> None:
        """Take no more jobs; the one under work is given back with its checkpoint. Any thread may call it."""
        self._drained, self._drained_s = True, time.monotonic()

    @property
    def stopping(self) -> bool:
        """Return whether no more jobs are taken."""
        return self._drained or self._broken or not self._alive()

    def run(self) -> bool:
        """JobWork until it is drained, or what started it is gone. Return False where the device is broken.

        Raises Forbidden where the worker's key is refused.
        """
        while not self.stopping:
            with suppress(ServerAway):  # when it should stop
                lease = patiently(self._claim, lambda: self.stopping)
                if lease is not None:
                    self.work_on(lease)
        return not self._broken

    def _claim(self) -> Lease | None:
        return self._transport.claim(self._info, self._wait_s)

    def work_on(self, lease: Lease) -> None:
        """Make one job, and hand in what came of it."""
        log.info("job %s: attempt %d", lease.job.id, lease.job.attempt)
        with Reporter(self._transport, lease) as reporter:
            kind = TrainingWork if lease.job.kind == "train" else JobWork
            work = kind(self._transport, lease, reporter, lambda: self.stopping, self._checkpoint_s)
            ended = self._made(work, lease)
        self._info.loaded = lease.affinity
        if isinstance(ended, MadeFiles):
            ended.warnings = reporter.untold_warnings()
        self._insist(lambda: self._hand_in(lease, reporter, ended))
        self._transport.done(lease)

    def _made(self, work: JobWork, lease: Lease) -> MadeFiles | tuple[JobFault, bool] | None:
        """Return the files of a job, or why there are none and whether to try again; None if it stopped."""
        try:
            return self._files(work, lease)
        except Stopped:
            return None
        except MemoryError:
            return JobFault(code="out_of_memory", message=OUT_OF_MEMORY), False
        except LeaseLost:
            return None
        except SoundstageError as error:
            field = getattr(error, "field", None)
            return JobFault(code=code_of(error), message=work.by_reference(str(error)), field=field), False
        except Exception as error:
            return self._fault(error)

    def _files(self, work: JobWork, lease: Lease) -> MadeFiles:
        if lease.job.kind == "convert":
            return work.converted()
        if lease.job.kind == "pull":
            return work.pulled()
        if isinstance(work, TrainingWork):
            self._engine = None  # its memory is the training's
            return work.trained(self._device)
        return work.made(self._engine_of(lease))

    def _fault(self, error: Exception) -> tuple[JobFault, bool]:
        if any(word in str(error).lower() for word in MEMORY_WORDS):
            self._engine = None
            return JobFault(code="out_of_memory", message=OUT_OF_MEMORY), False
        log.exception("a job failed")
        self._broken = "CUDA error" in str(error)  # nothing runs on the device in this process any more
        return JobFault(code="internal", message=INTERNAL.format(kind=type(error).__name__)), True

    def _hand_in(
        self, lease: Lease, reporter: Reporter, ended: MadeFiles | tuple[JobFault, bool] | None
    ) -> None:
        if isinstance(ended, MadeFiles):
            self._transport.finish(lease, ended)
        elif ended is not None:
            self._transport.fail(lease, ended[0], retry=ended[1])
        elif reporter.cancelled:
            self._transport.fail(lease, JobFault(code="cancelled", message="cancelled"), retry=False)
        elif not reporter.lost and not reporter.refused:
            try:
                self._transport.keep_checkpoint(lease)
            except ReportRefused as error:
                log.warning("the checkpoint of %s is not kept: %s", lease.job.id, error)
            self._transport.release(lease)

    def _insist(self, call: Callable[[], Any]) -> None:
        """Call until the server answers; what is lost to another worker is let go."""
        with suppress(ServerAway):
            try:
                patiently(call, self._gives_up)
            except LeaseLost as error:
                log.info("%s", error)

    def _engine_of(self, lease: Lease) -> Renders:
        """Return the engine of a job's model; the one before is let go, as a device rarely holds two."""
        model = lease.job.model or "nano"
        if self._engine is None or self._engine[0] != model:
            self._engine = None
            self._engine = (model, load_engine(model, device=self._device))
        assert self._engine is not None
        return self._engine[1]

    def _gives_up(self) -> bool:
        """Return whether a server that is away is not waited for any more: its lease has run out by then."""
        return not self._alive() or (self._drained and time.monotonic() - self._drained_s > AWAY_S)


def parent_check(process_id: int | None) -> Callable[[], bool]:
    """Return what says whether the process that started this one is still there; None is always."""
    return lambda: process_id is None or os.getppid() == process_id
