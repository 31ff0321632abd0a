"""Effects that a talk with a server asks for: calls, streams, pauses and work, as data.

A talk is a generator that yields effects and is sent their outcomes. It does no input or output on the
network itself, so one talk serves blocking callers and asyncio alike.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from soundstage.jobs.views import JobEvent

T = TypeVar("T")

# How a caller is interrupted: thrown into the talk, which may take back what it has begun.
INTERRUPTIONS = (KeyboardInterrupt, asyncio.CancelledError)


class ConnectionLost(Exception):
    """A connection that could not be made, or that ended too early. It is thrown into the talk."""


@dataclass(frozen=True)
class ServerCall:
    """A call. data: sent as JSON. file: sent as the body instead."""

    method: str
    path: str
    query: Mapping[str, Any] = field(default_factory=dict)
    data: Any = None
    file: Path | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ServerAnswer:
    """The answer to a call. body: whole, or empty where it is read piece by piece."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""

    def json(self) -> Any:
        """Return the body's JSON; None for a body that is none."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


@dataclass(frozen=True)
class OpenStream:
    """Make a call whose answer's body is then read by `NextBytes`; that of an error is in the answer.

    wait_s: the longest silence until the connection counts as lost.
    """

    call: ServerCall
    wait_s: float


@dataclass(frozen=True)
class NextBytes:
    """Read more of the stream that was opened last; empty at its end."""


@dataclass(frozen=True)
class Wait:
    """Wait for some seconds."""

    seconds: float


@dataclass(frozen=True)
class SlowWork:
    """Do something slow that needs no network, and return what it returns."""

    do: Callable[[], Any]


@dataclass(frozen=True)
class EventHeard:
    """Hand an event of a job to the caller."""

    event: JobEvent


Effect = ServerCall | OpenStream | NextBytes | Wait | SlowWork | EventHeard
Talk = Generator[Effect, Any, T]
