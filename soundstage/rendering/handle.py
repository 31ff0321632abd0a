"""Handles: clips that are queued on one engine, and made one after the other in a thread.

A handle is a `concurrent.futures.Future` that can also be cancelled while its clip is made, awaited, and
iterated for its events. The thread keeps a handle only weakly: one that nobody holds and that calls nobody
back is cancelled, as nobody could get its clip.
"""

from __future__ import annotations

import atexit
import logging
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import closing, suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from soundstage.clip import Clip
from soundstage.planning.plan import Plan
from soundstage.rendering.events import Done, Event, Notice, Preview
from soundstage.rendering.progress import Progress, ProgressCount, Report, reporting
from soundstage.rendering.turns import Run, Turns

log = logging.getLogger("soundstage.rendering")

_KEPT: set[Handle] = set()  # those that call somebody back when they are done
_QUEUES: weakref.WeakSet[RunQueue] = weakref.WeakSet()


def clip_of(turns: Turns, run: Run[Event], *watchers: Callable[[Event], object]) -> Clip:
    """Carry out a run to its clip while other runs of the engine wait; tell each event to the watchers.

    However it ends, the run is closed: its memory is given back.
    """
    turns.check_process()
    with turns.lock, closing(run):
        for event in run:
            for watch in watchers:
                watch(event)
            if isinstance(event, Done):
                return event.clip
    raise AssertionError("a run ends with Done")


class Handle(Future[Clip]):
    """A clip that is queued or made in the engine's thread.

    `result(timeout=)` waits for the clip; it raises TimeoutError, CancelledError or the run's own error.
    `done()`, `running()`, `exception()` and `add_done_callback` are those of every Future. `for event in
    handle`, and `async for`, give its events from the first on; of previews that were not taken, the last.
    `await handle` gives the clip. A coroutine that is cancelled while it awaits cancels the handle too.
    """

    def __init__(self, plan: Plan, *, kept: bool = False) -> None:
        super().__init__()
        self.plan = plan
        self.progress = Progress(num_windows=len(plan.made_clips))
        self._count = ProgressCount(plan)
        self._asked_to_stop = self._stopped = False
        self._events: list[Event | None] = []  # None for a preview that another one followed
        self._preview: Preview | None = None
        self._preview_at = 0  # its place in the list
        self._followers: list[Callable[[], None]] = []
        super().add_done_callback(_KEPT.discard)
        if kept:
            _KEPT.add(self)

    # --- what the caller does

    def cancel(self) -> bool:
        """Stop the work, from any thread, and return whether it is or will be stopped.

        A queued clip is cancelled at once; one that is made stops at its next event. `result` raises
        CancelledError when the memory is given back. Finished windows of a take stay in its folder.
        """
        if super().cancel():
            self._tell()
            return True
        self._asked_to_stop = True
        return not self.done() or self._stopped

    def cancelled(self) -> bool:
        """Return whether the work was stopped before there was a clip."""
        return (self._stopped and self.done()) or super().cancelled()

    def result(self, timeout: float | None = None) -> Clip:
        """Wait for the clip and return it. An interrupt from the keyboard cancels it.

        timeout: seconds, None for no limit. Raises TimeoutError, CancelledError, or the run's own error.
        """
        try:
            return super().result(timeout)
        except KeyboardInterrupt:
            self.cancel()
            raise

    def add_done_callback(self, fn: Callable[[Future[Clip]], object]) -> None:
        """Call a function with the handle when it is done or cancelled; at once if it is already."""
        _KEPT.add(self)
        super().add_done_callback(fn)
        if self.done():
            _KEPT.discard(self)

    @property
    def preview(self) -> Preview | None:
        """The last preview, None before the first one; `submit` takes preview_every."""
        return self._preview

    @property
    def previews(self) -> Iterator[Preview]:
        """Previews as they are made, until the clip is done."""
        return (event for event in self if isinstance(event, Preview))

    def __iter__(self) -> Iterator[Event]:
        news, seen = threading.Event(), 0
        self._followers.append(news.set)
        try:
            while True:
                news.clear()
                ended, new = self.done(), self._events[seen:]
                yield from (event for event in new if event is not None)
                seen += len(new)
                if ended:
                    break
                news.wait()
        finally:
            self._followers.remove(news.set)
        self.result()

    async def __aiter__(self) -> AsyncIterator[Event]:
        import asyncio  # slow to import, and loaded already where it is used

        loop, news, seen = asyncio.get_running_loop(), asyncio.Event(), 0

        def tell() -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(news.set)

        self._followers.append(tell)
        try:
            while True:
                news.clear()
                ended, new = self.done(), self._events[seen:]
                for event in new:
                    if event is not None:
                        yield event
                seen += len(new)
                if ended:
                    break
                await news.wait()
        except asyncio.CancelledError:
            self.cancel()
            raise
        finally:
            self._followers.remove(tell)
        self.result()

    def __await__(self) -> Generator[Any, None, Clip]:
        import asyncio

        return asyncio.wrap_future(self).__await__()

    # --- what the thread does

    def _begin(self) -> bool:
        """Return whether the work may begin or go on: nobody has cancelled it."""
        if self.running():
            return not self._asked_to_stop
        return self.set_running_or_notify_cancel()

    def _add(self, event: Event) -> None:
        """Note an event, and tell those who follow. A preview takes the place of the one before."""
        self.progress = self._count.see(event)
        if isinstance(event, Notice):
            log.warning("%s", event.text)
        if isinstance(event, Preview):
            if self._preview is not None:
                self._events[self._preview_at] = None
            self._preview, self._preview_at = event, len(self._events)
        self._events.append(event)
        self._tell()

    def _end(self, made: Clip | BaseException) -> None:
        """Note the clip, or why there is none, unless the handle was cancelled before it began."""
        if not super().cancelled():
            self._stopped = isinstance(made, CancelledError)
            if isinstance(made, BaseException):
                self.set_exception(made)
            else:
                self.set_result(made)
        self._tell()

    def _tell(self) -> None:
        for follower in list(self._followers):
            follower()


@dataclass(frozen=True)
class _Job:
    """A run, and the handle that waits for it; without the handle there is nobody to run for."""

    handle: weakref.ref[Handle]
    plan: Plan
    turns: Turns
    run: Run[Event]
    progress: Report


class RunQueue:
    """Carries out runs one after the other, in a thread that the first one starts and the engine ends."""

    def __init__(self, turns: Turns) -> None:
        self.ending = threading.Event()
        self.thread: threading.Thread | None = None
        self._turns, self._lock = turns, threading.Lock()
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        weakref.finalize(self, self._jobs.put, None).atexit = False

    def submit(self, plan: Plan, run: Run[Event], progress: Report) -> Handle:
        """Queue the run of a plan, and return its handle."""
        handle = Handle(plan, kept=bool(progress))
        with self._lock:
            if self.thread is None:
                self.thread = threading.Thread(
                    target=_work, args=(self._jobs, self.ending), name="soundstage", daemon=True
                )
                self.thread.start()
                _QUEUES.add(self)
        self._jobs.put(_Job(weakref.ref(handle), plan, self._turns, run, progress))
        return handle

    def end(self) -> None:
        """Cancel everything, and wait until the event at work is done."""
        self.ending.set()
        self._jobs.put(None)
        if self.thread is not None:
            self.thread.join()


def _work(jobs: SimpleQueue[_Job | None], ending: threading.Event) -> None:
    while _carried_out(jobs.get(), ending):  # no name here holds a job, and so an engine, while it waits
        pass


def _carried_out(job: _Job | None, ending: threading.Event) -> bool:
    """Carry out a job and tell its handle the end. Return False for None, which ends the thread."""
    if job is None:
        return False
    made: Clip | BaseException
    try:
        made = _clip_of_job(job, ending)
    except CancelledError:
        made = CancelledError()  # without the frames of the run, which hold its memory
    except BaseException as error:
        made = error
    handle = job.handle()
    if handle is not None:
        handle._end(made)
    return True


def _clip_of_job(job: _Job, ending: threading.Event) -> Clip:
    def watch(event: Event) -> None:
        handle = job.handle()
        if handle is None or ending.is_set() or not handle._begin():
            raise CancelledError
        handle._add(event)

    handle = job.handle()
    if handle is None or (handle.cancelled() and not handle._begin()):
        raise CancelledError
    del handle
    with reporting(job.progress, job.plan) as report:
        return clip_of(job.turns, job.run, watch, report)


def _end_all() -> None:
    """End the threads before the interpreter goes: torch does not bear to be cut off in the middle."""
    for queue in list(_QUEUES):
        queue.end()


atexit.register(_end_all)
