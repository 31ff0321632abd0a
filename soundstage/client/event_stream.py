"""Events of jobs, read from the pieces of a stream as they come."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import ValidationError

from soundstage.errors import ServerError
from soundstage.jobs.views import JobEvent

MAX_BYTES = 2**24  # of one event


class EventReader:
    """Reads a stream of server-sent events. Comments, pings and events of a later version are left out."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[JobEvent]:
        """Yield the events that are complete with this piece. Raises ServerError for one without end."""
        *blocks, self._rest = (self._rest + data).replace(b"\r\n", b"\n").split(b"\n\n")
        if len(self._rest) > MAX_BYTES:
            raise ServerError("the server sends an event without end; is it a Soundstage server?")
        for block in blocks:
            lines = [line[5:].removeprefix(b" ") for line in block.split(b"\n") if line.startswith(b"data:")]
            if lines:
                try:
                    yield JobEvent.model_validate_json(b"\n".join(lines), extra="ignore")
                except ValidationError:
                    continue
