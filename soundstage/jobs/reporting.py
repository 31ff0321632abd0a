"""Reports of a worker on its job: sent from a thread of their own, a few times a second at most.

A server that is away is tried again with growing pauses, while the work goes on.
"""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from types import TracebackType

from soundstage.errors import SoundstageError
from soundstage.jobs.errors import LeaseLost
from soundstage.jobs.states import JobState
from soundstage.jobs.transport import FIRST_PAUSE_S, LONGEST_PAUSE_S, ServerAway, Transport
from soundstage.jobs.views import JobProgress, Lease, MadeFile, WorkReport

log = logging.getLogger("soundstage.worker")
QUICKEST_S = 0.25


class Reporter:
    """Keeps a lease alive, and tells the newest state, progress, warnings and preview of its job.

    cancelled, lost, drain: what the server answered; the worker looks at them between two events.
    """

    def __init__(self, transport: Transport, lease: Lease) -> None:
        self._transport, self._lease = transport, lease
        self._report = WorkReport()
        self._preview: tuple[Path, MadeFile] | None = None
        self._lock = threading.Lock()
        self._news = threading.Event()
        self._ended = threading.Event()
        self.cancelled = self.lost = self.drain = self.refused = False
        self._thread = threading.Thread(target=self._run, name="reports", daemon=True)

    def __enter__(self) -> Reporter:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._news.set()
        self._thread.join()
        if not self.should_stop and self._report != WorkReport():
            self._send()
        if self._preview is not None:
            self._preview[0].unlink(missing_ok=True)

    def untold_warnings(self) -> list[str]:
        """Return the warnings that did not reach the server."""
        return self._report.warnings

    @property
    def should_stop(self) -> bool:
        """Return whether the work on the job is of no more use, or should stop for now."""
        return self.cancelled or self.lost or self.drain or self.refused

    def tell(
        self,
        *,
        state: JobState | None = None,
        progress: JobProgress | None = None,
        warning: str | None = None,
        log: str | None = None,
        checkpointed: bool = False,
    ) -> None:
        """Put news into the next report. Newer progress and previews take the place of older ones."""
        with self._lock:
            report = self._report
            report.state = state or report.state
            report.progress = progress or report.progress
            report.warnings += [] if warning is None else [warning]
            report.logs += [] if log is None else [log]
            report.checkpointed |= checkpointed
        self._news.set()

    def show(self, path: Path, preview: MadeFile) -> None:
        """Let the next report have a preview, whose file is not handed in yet. An older one is dropped."""
        with self._lock:
            older, self._preview = self._preview, (path, preview)
        if older is not None:
            older[0].unlink(missing_ok=True)
        self._news.set()

    def _run(self) -> None:
        pause_s = FIRST_PAUSE_S
        while not self._ended.is_set() and not self.lost and not self.refused:
            began = time.monotonic()
            if self._send():
                pause_s = FIRST_PAUSE_S
                if not self._ended.wait(max(0.0, began + QUICKEST_S - time.monotonic())):
                    self._news.wait(self._lease.renew_s)
            else:
                self._ended.wait(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _send(self) -> bool:
        """Send what is new. Return False where the server is away; the news wait for the next try then."""
        with self._lock:
            report, self._report = self._report, WorkReport()
            shown, self._preview = self._preview, None
            self._news.clear()
        try:
            if shown is not None:
                report.preview = _handed_in(self._transport, self._lease, *shown)
            order = self._transport.renew(self._lease, report)
        except ServerAway as error:
            log.info("%s; the work goes on", error)
            self._put_back(report, shown)
            return False
        except LeaseLost:
            self.lost = True
        except SoundstageError as error:  # such as a key that was revoked
            log.error("%s", error)
            self.refused = True
        else:
            self.cancelled, self.drain = order.cancel, order.drain
        return True

    def _put_back(self, report: WorkReport, shown: tuple[Path, MadeFile] | None) -> None:
        with self._lock:
            newer = self._report
            self._preview = self._preview or (shown if report.preview is None else None)
            newer.state = newer.state or report.state
            newer.progress = newer.progress or report.progress
            newer.preview = newer.preview or report.preview
            newer.warnings = [*report.warnings, *newer.warnings]
            newer.logs = [*report.logs, *newer.logs]
            newer.checkpointed |= report.checkpointed


def _handed_in(transport: Transport, lease: Lease, path: Path, preview: MadeFile) -> MadeFile:
    return preview.model_copy(update={"file": transport.hand_in(lease, path)})
