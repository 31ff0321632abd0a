"""Let runs that share one engine take turns: a turn is the work up to a run's next event.

The parts of a model hold what the current run has put on them, LoRAs above all. When another run gets its
turn, that is exchanged for its own. So runs in several threads, or several generators advanced by turns in
one thread, each make exactly the film they make alone. No lock is held between events: a run that is left
half way, closed or forgotten, stops no other run.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from soundstage.errors import RequestError

if TYPE_CHECKING:
    from soundstage.rendering.loras import Adaptation
    from soundstage.rendering.parts import ModelParts

Yielded = TypeVar("Yielded")


class FairLock:
    """Lock that goes to waiting threads in the order in which they came; a thread may take it repeatedly.

    With Python's own, a thread that works without a pause takes it again before any thread that waits.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._waiting: deque[tuple[int, threading.Event]] = deque()
        self._owner: int | None = None
        self._depth = 0

    def __enter__(self) -> None:
        me, called = threading.get_ident(), threading.Event()
        with self._mutex:
            if self._owner in (None, me):
                self._owner, self._depth = me, self._depth + 1
                return
            self._waiting.append((me, called))
        try:
            called.wait()
        except BaseException:  # an interrupt from the keyboard
            self._stop_waiting(me, called)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release()

    def _release(self) -> None:
        with self._mutex:
            self._depth -= 1
            if self._depth:
                return
            self._owner = None
            if self._waiting:
                self._owner, called = self._waiting.popleft()
                self._depth = 1
                called.set()

    def _stop_waiting(self, me: int, called: threading.Event) -> None:
        with self._mutex:
            if (me, called) in self._waiting:
                self._waiting.remove((me, called))
                return
        self._release()  # it was handed over just now


class RunState:
    """The LoRAs one run has put on the parts of a model, kept while other runs have their turns."""

    def __init__(self) -> None:
        self._parts: ModelParts | None = None
        self._adaptation: Adaptation | None = None
        self._use: Callable[[ModelParts], None] | None = None

    def begin(self, parts: ModelParts, use: Callable[[ModelParts], None]) -> None:
        """Note the parts of a run. use: makes them the parts in use again, after another run had others."""
        self._parts, self._use = parts, use

    def keep(self) -> None:
        """Remember what is on the parts now."""
        if self._parts is not None:
            self._adaptation = self._parts.adaptation

    def restore(self) -> None:
        """Put what was remembered on the parts again. Raises RequestError where a file of it is gone."""
        if self._parts is None or self._use is None:
            return
        self._use(self._parts)
        if self._adaptation is not None:
            self._parts.restore(self._adaptation)


class Run(Generator[Yielded, None, None]):
    """The events of one run, each made in a turn of its own.

    begin: called in the first turn, returns the work. Any thread may close a run, also while another thread
    works on its next event; it is closed when that event is done.
    """

    def __init__(self, turns: Turns, begin: Callable[[RunState], Generator[Yielded, None, None]]) -> None:
        self._turns, self._begin = turns, begin
        self._state = RunState()
        self._work: Generator[Yielded, None, None] | None = None
        self._lock = FairLock()

    def send(self, value: None) -> Yielded:
        with self._lock:
            try:
                self._turns.check_process()
                with self._turns.lock:
                    self._turns.pass_to(self._state)
                    if self._work is None:
                        self._work = self._begin(self._state)
                    event = self._work.send(value)
                    self._state.keep()
                    return event
            except BaseException:
                self.close()
                raise

    def throw(self, *error: Any) -> Yielded:
        self.close()
        return super().throw(*error)

    def close(self) -> None:
        """Stop the work. Nothing happens if it is done or stopped already."""
        with self._lock:
            if self._work is None:
                self._work = _nothing()
            self._work.close()


class Turns:
    """The order in which the runs of one engine work: one at a time, in the order in which they ask."""

    def __init__(self) -> None:
        self.lock = FairLock()
        self._process: int | None = None
        self._last: weakref.ref[RunState] | None = None

    def check_process(self) -> None:
        """Raise RequestError in a process forked from one that has made runs.

        The threads of those runs are missing here, and waiting for one of them would never end.
        """
        self._process = self._process or os.getpid()
        if self._process != os.getpid():
            raise RequestError(
                "this engine was used before the process was forked, and its threads are not in this one; "
                "call ss.load in each process, or fork before the first run"
            )

    def pass_to(self, state: RunState) -> None:
        """Give the turn to a run: exchange what the run before has put on the parts for its own."""
        if self._last is not None and self._last() is state:
            return
        self._last = None  # if restoring fails, the next turn restores again
        state.restore()
        self._last = weakref.ref(state)


def _nothing() -> Generator[Any, None, None]:
    """Yield no event: the work of a run that was closed before its first turn."""
    yield from ()
