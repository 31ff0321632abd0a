"""Tell waiting threads and coroutines that something was committed to the store."""

from __future__ import annotations

import asyncio
import threading


class News:
    """A number that rises with every commit of this process, and ways to wait for it.

    Other processes may write to the same store, so nobody should wait longer than a second or two before
    looking again.
    """

    def __init__(self) -> None:
        self.version = 0
        self._condition = threading.Condition()
        self._waiting: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()

    def tell(self) -> None:
        """Raise the number and wake all that wait."""
        with self._condition:
            self.version += 1
            self._condition.notify_all()
            waiting = list(self._waiting)
        for loop, event in waiting:
            if not loop.is_closed():
                loop.call_soon_threadsafe(event.set)

    def wait(self, seen: int, timeout_s: float) -> int:
        """Wait until the number is another than the one seen, or the time is over; return it."""
        with self._condition:
            self._condition.wait_for(lambda: self.version != seen, timeout_s)
            return self.version

    async def changed(self, seen: int, timeout_s: float) -> int:
        """Wait as `wait` does, in a coroutine."""
        event = asyncio.Event()
        entry = (asyncio.get_running_loop(), event)
        with self._condition:
            if self.version != seen:
                return self.version
            self._waiting.add(entry)
        try:
            async with asyncio.timeout(timeout_s):
                await event.wait()
        except TimeoutError:
            pass
        finally:
            with self._condition:
                self._waiting.discard(entry)
        return self.version
