"""Make data in other processes while a part trains, in order and ahead of need.

    with Workers(count) as workers:
        feed = workers.feed(make, first=0, progress=lambda: 0.0)
        next(feed)

`make` is called with numbers that rise by one, so that no data comes twice, and with the progress of the
training when the work was given out. It is sent to the processes: a function of a module, or a small
dataclass with `__call__`.
"""

from __future__ import annotations

import itertools
import os
import signal
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_all_start_methods, get_context, parent_process
from types import TracebackType
from typing import Generic, TypeVar

import torch

T = TypeVar("T")
Make = Callable[[int, float], T]  # (number, progress in [0, 1]) -> data

AHEAD = 2  # pieces of data in hand or in work, for each process


def usual_number() -> int:
    """Return how many processes make data: all cores but one, at least one."""
    return max(1, (os.cpu_count() or 1) - 1)


class Workers:
    """Hold the processes that make data. count: 0 makes it in this process, when it is asked for."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool = None
        if count:
            methods = get_all_start_methods()
            context = get_context("forkserver" if "forkserver" in methods else "spawn")
            if "forkserver" in methods:  # imports once what every process needs, for all parts of a training
                context.set_forkserver_preload(["torch", __name__])
            self._pool = ProcessPoolExecutor(count, mp_context=context, initializer=_begin)

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=kind is None, cancel_futures=True)

    def feed(self, make: Make[T], *, first: int, progress: Callable[[], float]) -> Feed[T]:
        """Return the data number `first`, and all that follow, as they are made."""
        return Feed(self._pool, make, first, progress, AHEAD * self.count)


class Feed(Generic[T]):
    """Iterate over data in the order of its numbers, without an end."""

    def __init__(
        self,
        pool: ProcessPoolExecutor | None,
        make: Make[T],
        first: int,
        progress: Callable[[], float],
        ahead: int,
    ) -> None:
        self._pool, self._make, self._progress, self._ahead = pool, make, progress, ahead
        self._numbers = itertools.count(first)
        self._waiting: deque[Future[T]] = deque()
        self._fill()

    def __iter__(self) -> Feed[T]:
        return self

    def __next__(self) -> T:
        """Return the next data; wait for it where it is not made yet. Raises what `make` raises."""
        if self._pool is None:
            return self._make(next(self._numbers), self._progress())
        made = self._waiting.popleft().result()
        self._fill()
        return made

    @property
    def ready(self) -> bool:
        """Return whether the next data is made, or is made by this process itself."""
        return self._pool is None or (bool(self._waiting) and self._waiting[0].done())

    def close(self) -> None:
        """Give up what is not begun."""
        for future in self._waiting:
            future.cancel()
        self._waiting.clear()

    def _fill(self) -> None:
        while self._pool is not None and len(self._waiting) < self._ahead:
            self._waiting.append(self._pool.submit(self._make, next(self._numbers), self._progress()))


def _begin() -> None:
    """Set up a process: one thread, behind the training in the queue, ended by or with it, not by Ctrl-C."""
    threading.Thread(target=_end_with_parent, daemon=True).start()  # first: whatever hangs ends with it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "nice"):
        os.nice(5)
    torch.set_num_threads(1)


def _end_with_parent() -> None:
    """End this process when the one that trains has been killed; else it would wait for work for ever."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
