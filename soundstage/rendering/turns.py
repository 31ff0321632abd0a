"""Runs that share one engine take turns: each does its work up to its next event, and then the next in line.

The parts of a model hold what the run at work has put on them, LoRAs above all. When another run gets its
turn, that is exchanged for its own. So runs in several threads, or several generators advanced by turns in
one thread, each make exactly the film they make alone. Nothing is held between events: a run that is left
half way, closed or forgotten, stops nobody.
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
    from soundstage.rendering.adapting import Adaptation
    from soundstage.rendering.parts import Parts

Event = TypeVar("Event")


class FairLock:
    """A lock that goes to those who wait in the order in which they came; a thread may take it repeatedly.

    With Python's own a thread that works without a pause takes it again before anyone who waits for it.
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


class Seat:
    """What a run has set up on the parts, kept while others have their turn. parts: None until it has any."""

    def __init__(self) -> None:
        self.parts: Parts | None = None
        self._adaptation: Adaptation | None = None

    def keep(self) -> None:
        """Remember what is on the parts now."""
        if self.parts is not None:
            self._adaptation = self.parts.adaptation

    def restore(self) -> None:
        """Put it back. Raises RequestError if it cannot be had any more."""
        if self.parts is not None and self._adaptation is not None:
            self.parts.restore(self._adaptation)


class Run(Generator[Event, None, None]):
    """The events of a run. Any thread may close it, also while another one works on the next event.

    It is closed then when that event is done.
    """

    def __init__(self, events: Generator[Event, None, None]) -> None:
        self._events, self._lock = events, FairLock()

    def send(self, value: None) -> Event:
        with self._lock:
            return self._events.send(value)

    def throw(self, *error: Any) -> Event:
        with self._lock:
            return self._events.throw(*error)

    def close(self) -> None:
        """Stop the work. Nothing happens if it is done or stopped already."""
        with self._lock:
            self._events.close()


class Turns:
    """Lets one run at a time work. seated: called when a run takes over the parts from another one."""

    def __init__(self, seated: Callable[[Seat], None]) -> None:
        self.lock = FairLock()
        self._process: int | None = None
        self._seated = seated
        self._last: weakref.ref[Seat] | None = None

    def events(self, seat: Seat, work: Generator[Event, None, None]) -> Run[Event]:
        """Hand over the events of a run; between them other runs may work. Closing it closes the work."""
        return Run(self._handed_over(seat, work))

    def check_process(self) -> None:
        """Raise RequestError in a process forked from one that has made runs: its threads are missing here,
        and whoever waits for them waits for ever."""
        self._process = self._process or os.getpid()
        if self._process != os.getpid():
            raise RequestError(
                "this engine was used before the process was forked, and its threads are not in this one; "
                "call ss.load in each process, or fork before the first run"
            )

    def _handed_over(self, seat: Seat, work: Generator[Event, None, None]) -> Generator[Event, None, None]:
        try:
            while True:
                self.check_process()
                with self.lock:
                    self._take(seat)
                    event = next(work, None)
                    seat.keep()
                if event is None:
                    return
                yield event
        finally:
            work.close()

    def _take(self, seat: Seat) -> None:
        if self._last is not None and self._last() is seat:
            return
        self._last = None  # if it fails, the next one starts from the ground
        self._seated(seat)
        self._last = weakref.ref(seat)
