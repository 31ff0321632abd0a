"""The line of waiting jobs: who is next, and when each is expected to be done.

Order: priority, then the share of device time that the owner had lately, then a warm model, then age. The
claim of leases.py orders rows in the database in the same way.
"""

from __future__ import annotations

import heapq
import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

UNKNOWN_S = 30.0  # taken for a job whose seconds are not known
FRESH_S = 1.0


class Waiting(NamedTuple):
    """A waiting job. seconds: expected work."""

    id: str
    owner: str
    priority: int
    queued_at: float
    seconds: float | None


@dataclass(frozen=True)
class Places:
    """Positions and expected seconds until done, by the identifiers of waiting jobs. at: when this was so."""

    at: float
    version: int
    places: Mapping[str, tuple[int, float | None]]


class Line:
    """Keeps the places of waiting jobs while they stay as they are."""

    def __init__(self) -> None:
        self._known: Places | None = None
        self._lock = threading.Lock()

    def known(self, now: float, version: int) -> Places | None:
        """Return the places as they were lately; None where something was committed since, or long ago."""
        with self._lock:
            found = self._known
        if found is None or found.version != version or not 0 <= now - found.at < FRESH_S:
            return None
        return found

    def keep(self, found: Places) -> Places:
        """Keep the places, and return them."""
        with self._lock:
            self._known = found
        return found


def places(
    waiting: Iterable[Waiting], used: Mapping[str, float], busy: Sequence[float], grain_s: float
) -> dict[str, tuple[int, float | None]]:
    """Return the position of each waiting job and the seconds until it is done.

    used: seconds of device time of each owner. busy: seconds until each worker is free; without a worker the
    times are not known. grain_s: owners whose use differs by less are served by age.
    """
    free = list(busy)
    heapq.heapify(free)
    found: dict[str, tuple[int, float | None]] = {}
    for position, job in enumerate(in_order(waiting, used, grain_s)):
        done: float | None = None
        if free:
            done = heapq.heappop(free) + (UNKNOWN_S if job.seconds is None else job.seconds)
            heapq.heappush(free, done)
        found[job.id] = (position, done)
    return found


def in_order(waiting: Iterable[Waiting], used: Mapping[str, float], grain_s: float) -> list[Waiting]:
    """Return waiting jobs in the order in which they will be served, as far as is known now."""
    use = dict(used)
    classes: dict[int, dict[str, deque[Waiting]]] = {}
    for job in sorted(waiting, key=lambda job: (job.queued_at, job.id)):
        classes.setdefault(job.priority, {}).setdefault(job.owner, deque()).append(job)
    order: list[Waiting] = []
    for priority in sorted(classes, reverse=True):
        owners = classes[priority]
        if len(owners) == 1:
            ((owner, only),) = owners.items()
            order += only
            use[owner] = use.get(owner, 0.0) + sum((job.seconds or 0.0) + grain_s for job in only)
            continue
        heads = [
            (_share(use.get(owner, 0.0), grain_s), jobs[0].queued_at, owner) for owner, jobs in owners.items()
        ]
        heapq.heapify(heads)
        while heads:
            _, _, owner = heapq.heappop(heads)
            job = owners[owner].popleft()
            order.append(job)
            use[owner] = use.get(owner, 0.0) + (job.seconds or 0.0) + grain_s
            if owners[owner]:
                share = _share(use[owner], grain_s)
                heapq.heappush(heads, (share, owners[owner][0].queued_at, owner))
    return order


def _share(seconds: float, grain_s: float) -> int:
    return round(seconds / grain_s)
