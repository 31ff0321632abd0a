"""Work that is done again and again in a thread, and whose faults are logged and end nothing."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from soundstage.server.logs import told

log = logging.getLogger("soundstage.server")


class Periodic:
    """Calls a function every so many seconds, from a thread of its own."""

    def __init__(self, name: str, seconds: float, call: Callable[[], object]) -> None:
        self._seconds, self._call = seconds, call
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin, with a call at once."""
        self._thread.start()

    def stop(self, wait_s: float) -> None:
        """End after the call under way, or when the time to wait is over."""
        self._end.set()
        self._thread.join(wait_s)

    def _run(self) -> None:
        while not self._end.is_set():
            try:
                self._call()
            except Exception as error:  # such as a database that is away for a moment
                log.error("fault", exc_info=error, extra=told(of=self._thread.name))
            self._end.wait(self._seconds)
