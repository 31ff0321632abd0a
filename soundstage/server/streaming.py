"""Events as they happen: server-sent events, from any event on, without a gap.

    id: 42
    event: progress
    data: {"id": 42, "job_id": "job_...", "type": "progress", "at": ..., "progress": {...}}

Events are stored, so that a client that lost its connection goes on after the last id it saw.
"""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Sequence

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from soundstage.jobs.service import Jobs
from soundstage.jobs.states import FINAL
from soundstage.jobs.views import JobEvent, Owner
from soundstage.server.failures import BadCall

MAX_BATCH = 500
MAX_ID = 2**63 - 1
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # no proxy holds events back
PING = ": ping\n\n"
LOOK_S = 2.0  # between two looks at a store that other processes may write to


def last_seen(request: Request, after: int | None) -> int:
    """Return the id after which events are sent: of the query, or of the header a browser sends again."""
    if after is not None:
        return after
    header = request.headers.get("last-event-id", "").strip() or "0"
    if not (header.isascii() and header.isdecimal()) or len(header) > 19 or int(header) > MAX_ID:
        raise BadCall(f"Last-Event-ID is {header[:30]!r}; give the id of an event, a whole number")
    return int(header)


class EventStream:
    """The events of one job until its end, or of all that an owner sees. job_id: None is all."""

    def __init__(self, request: Request, jobs: Jobs, owner: Owner, job_id: str | None, after: int) -> None:
        self._jobs, self._owner, self._job_id, self._after = jobs, owner, job_id, after
        self._ping_s: float = request.app.state.settings.ping_s
        self._ending: threading.Event = request.app.state.ending

    def response(self) -> StreamingResponse:
        """Return the answer that streams."""
        return StreamingResponse(self._texts(), media_type="text/event-stream", headers=dict(HEADERS))

    async def _texts(self) -> AsyncIterator[str]:
        yield "retry: 2000\n\n"
        ping_at = time.monotonic() + self._ping_s
        while True:
            seen = self._jobs.news.version
            batch, is_over = await run_in_threadpool(self._read)
            if batch:
                self._after = batch[-1].id
                yield "".join(map(as_text, batch))
                ping_at = time.monotonic() + self._ping_s
            if is_over or self._ending.is_set():
                return
            if time.monotonic() >= ping_at:
                yield PING
                ping_at = time.monotonic() + self._ping_s
            if not batch:
                left_s = ping_at - time.monotonic()
                await self._jobs.news.changed(seen, max(0.01, min(LOOK_S, left_s)))

    def _read(self) -> tuple[Sequence[JobEvent], bool]:
        """Return the next events, and whether they are the last. The state is read before the events are."""
        ended = self._job_id is not None and self._jobs.get(self._owner, self._job_id).state in FINAL
        batch = self._jobs.events(self._owner, self._job_id, self._after, MAX_BATCH)
        return batch, ended and len(batch) < MAX_BATCH


def as_text(event: JobEvent) -> str:
    """Return an event as lines of the stream."""
    data = event.model_dump_json(exclude_none=True)
    return f"id: {event.id}\nevent: {event.type}\ndata: {data}\n\n"
