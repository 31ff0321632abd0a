"""Lanes: ordered work that runs beside other work, on a CPU, a CUDA stream or a worker thread."""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Callable
from typing import Any, Protocol

import torch


class LaneEvent:
    """A point in a lane's work. issued: the host has come to it; mark: the device's own event there."""

    def __init__(self) -> None:
        self.issued = threading.Event()
        self.mark: Any = None
        self.error: BaseException | None = None


class Lane(Protocol):
    """An ordered line of work that runs beside other lines."""

    def run(self, work: Callable[[], None]) -> None: ...

    def wait(self, event: LaneEvent) -> None:
        """Hold what comes after until `event`."""
        ...

    def record(self) -> LaneEvent: ...

    def close(self) -> None: ...


class HostLane:
    """Run work at once, on the CPU. num_waits: how often it has waited."""

    def __init__(self) -> None:
        self.num_waits = 0

    def run(self, work: Callable[[], None]) -> None:
        work()

    def wait(self, event: LaneEvent) -> None:
        self.num_waits += 1
        event.issued.wait()
        _raise(event)

    def record(self) -> LaneEvent:
        event = LaneEvent()
        event.issued.set()
        return event

    def close(self) -> None: ...


class CudaLane:
    """A CUDA stream; None is the one that is current when it is used. The host never waits for it.

    num_waits: times work was held for an event, for the device, which costs the host nothing.
    """

    def __init__(self, cuda_stream: Any = None) -> None:
        self._cuda_stream = cuda_stream
        self.num_waits = 0

    def run(self, work: Callable[[], None]) -> None:
        with torch.cuda.stream(self._cuda_stream):
            work()

    def wait(self, event: LaneEvent) -> None:
        self.num_waits += 1
        event.issued.wait()  # set already, unless a worker thread still reads from disk
        _raise(event)
        if event.mark is not None:
            self._current().wait_event(event.mark)

    def record(self) -> LaneEvent:
        event = LaneEvent()
        event.mark = self._current().record_event()
        event.issued.set()
        return event

    def close(self) -> None: ...

    def _current(self) -> Any:
        return self._cuda_stream or torch.cuda.current_stream()


class ThreadLane:
    """A worker thread, for copies between host memories and for reading files.

    cuda_stream: takes its copies to a device, or None. An error in its work is raised where
    the next event is waited for.
    """

    def __init__(self, cuda_stream: Any = None) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._errors: list[BaseException] = []
        self._cuda_stream = cuda_stream
        args = (self._jobs, self._errors)
        self._thread = threading.Thread(target=_work, args=args, name="soundstage-blocks", daemon=True)
        self._thread.start()
        # At the interpreter's exit too: a thread that is copying then would abort the process.
        weakref.finalize(self, _stop, self._jobs, self._thread)

    def run(self, work: Callable[[], None]) -> None:
        cuda_stream = self._cuda_stream

        def on_stream() -> None:
            with torch.cuda.stream(cuda_stream):
                work()

        self._jobs.put(work if cuda_stream is None else on_stream)

    def wait(self, event: LaneEvent) -> None:
        cuda_stream = self._cuda_stream

        def hold() -> None:
            event.issued.wait()
            if event.mark is not None:
                cuda_stream.wait_event(event.mark)

        self._jobs.put(hold)

    def record(self) -> LaneEvent:
        event, cuda_stream, errors = LaneEvent(), self._cuda_stream, self._errors

        def reach() -> None:
            if errors:
                event.error = errors[0]
                errors.clear()
            elif cuda_stream is not None:
                event.mark = cuda_stream.record_event()
            event.issued.set()

        self._jobs.put(reach)
        return event

    def close(self) -> None:
        _stop(self._jobs, self._thread)


def _stop(jobs: queue.SimpleQueue[Callable[[], None] | None], thread: threading.Thread) -> None:
    """Let a worker finish what it was asked for, and end."""
    jobs.put(None)
    if thread is not threading.current_thread():  # the last reference may have been the worker's own
        thread.join()


def _work(jobs: queue.SimpleQueue[Callable[[], None] | None], errors: list[BaseException]) -> None:
    while (job := jobs.get()) is not None:
        try:
            job()
        except BaseException as error:  # an end here would set no event after it
            errors.append(error)


def _raise(event: LaneEvent) -> None:
    if event.error is not None:
        raise event.error
