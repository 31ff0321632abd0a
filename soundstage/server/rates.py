"""Limits on the calls of one caller within a minute."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

from soundstage.jobs.errors import TooMany

MINUTE_S = 60.0
WITH_KEYS = 3000  # calls a minute of one key, where nothing else is asked for
MAX_CALLERS = 10_000  # that are remembered


class CallRates:
    """Counts the calls of each caller. A minute's calls may come at once; they are made up for evenly."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._left: dict[str, tuple[float, float]] = {}  # calls that were left, and when that was

    def count(self, caller: str, per_minute: int) -> None:
        """Count a call. Raises TooMany for one too many."""
        now = self._clock()
        with self._lock:
            left, then = self._left.get(caller, (float(per_minute), now))
            left = min(per_minute, left + (now - then) * per_minute / MINUTE_S)
            if left >= 1:
                self._left[caller] = (left - 1, now)
                if len(self._left) > MAX_CALLERS:
                    self._forget(now)
                return
        wait_s = (1 - left) * MINUTE_S / per_minute
        raise TooMany(
            f"more than {per_minute} calls came with this key within a minute; wait a moment, or follow a "
            "job by its events",
            retry_after_s=math.ceil(wait_s),
        )

    def _forget(self, now: float) -> None:
        """Drop callers that have been still for a minute, who have all their calls again."""
        self._left = {caller: held for caller, held in self._left.items() if now - held[1] < MINUTE_S}
