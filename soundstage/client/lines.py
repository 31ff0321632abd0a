"""Carry out talks with httpx, blocking or in a loop of asyncio. What is decided is decided in the talk."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from contextlib import aclosing, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from soundstage.client.effects import (
    INTERRUPTIONS,
    ConnectionLost,
    Effect,
    EventHeard,
    NextBytes,
    OpenStream,
    ServerAnswer,
    ServerCall,
    SlowWork,
    T,
    Talk,
    Wait,
)
from soundstage.jobs.views import JobEvent

PIECE = 2**18
TIMEOUT = httpx.Timeout(60.0, connect=10.0, pool=None)
Hear = Callable[[JobEvent], object] | None


class TalkSteps:
    """A talk as it is carried out: its next effect, and its result at the end."""

    def __init__(self, talk: Talk[Any]) -> None:
        self._talk, self.result, self.ended = talk, None, False

    def next(self, outcome: Any) -> Effect | None:
        """Give the talk an effect's outcome, or what it met, and return the next effect.

        A lost connection is told as such; an interruption as it is, so that the talk can take back what it
        has begun.
        """
        try:
            if isinstance(outcome, httpx.TransportError):
                return self._talk.throw(ConnectionLost(_reason(outcome)))
            if isinstance(outcome, INTERRUPTIONS):
                return self._talk.throw(outcome)
            return self._talk.send(outcome)
        except StopIteration as end:
            self.result, self.ended = end.value, True
            return None

    def close(self) -> None:
        self._talk.close()


@dataclass
class ServerLine:
    """A blocking line to a server."""

    http: httpx.Client

    def carry_out(self, talk: Talk[T], hear: Hear = None) -> T:
        """Return the talk's result. hear: is told its events."""
        events = self.events(talk)
        while True:
            try:
                event = next(events)
            except StopIteration as end:
                result: T = end.value
                return result
            if hear is not None:
                hear(event)

    def events(self, talk: Talk[T]) -> Generator[JobEvent, None, T]:
        """Yield the events of a talk, and return its result."""
        outcome: Any = None
        with closing(TalkSteps(talk)) as steps, closing(_Stream(self.http)) as stream:
            while (effect := steps.next(outcome)) is not None:
                outcome = None
                if isinstance(effect, EventHeard):
                    yield effect.event
                    continue
                try:
                    outcome = self._outcome(effect, stream)
                except (httpx.TransportError, *INTERRUPTIONS) as error:
                    outcome = error
            result: T = steps.result  # type: ignore[assignment]
            return result

    def _outcome(self, effect: Effect, stream: _Stream) -> Any:
        match effect:
            case Wait(seconds):
                time.sleep(seconds)
            case SlowWork(do):
                return do()
            case OpenStream(call, wait_s):
                return stream.open(call, wait_s)
            case NextBytes():
                return next(stream.pieces, b"")
            case ServerCall(file=file):
                body = None if file is None else _pieces(file)
                return _answer(self.http.request(**_words(effect), content=body))
        return None


class _Stream:
    """The answer that is read piece by piece; a new one closes the one before."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http
        self._response: httpx.Response | None = None
        self.pieces: Iterator[bytes] = iter(())

    def open(self, call: ServerCall, wait_s: float) -> ServerAnswer:
        self.close()
        asked = self._http.build_request(
            **_words(call), timeout=httpx.Timeout(wait_s, connect=10.0, pool=None)
        )
        response = self._response = self._http.send(asked, stream=True)
        if response.status_code >= 400:
            response.read()
            return _answer(response)
        self.pieces = response.iter_bytes()
        return ServerAnswer(response.status_code, response.headers)

    def close(self) -> None:
        if self._response is not None:
            self._response.close()


@dataclass
class AsyncServerLine:
    """The same in a loop of asyncio."""

    http: httpx.AsyncClient

    async def carry_out(self, talk: Talk[T], hear: Hear = None) -> T:
        """Return the talk's result. hear: is told its events."""
        steps = TalkSteps(talk)
        async with aclosing(self._events(steps)) as events:
            async for event in events:
                if hear is not None:
                    hear(event)
        result: T = steps.result  # type: ignore[assignment]
        return result

    def events(self, talk: Talk[Any]) -> AsyncIterator[JobEvent]:
        """Yield the events of a talk."""
        return self._events(TalkSteps(talk))

    async def _events(self, steps: TalkSteps) -> AsyncGenerator[JobEvent, None]:
        outcome: Any = None
        stream = _AsyncStream(self.http)
        try:
            while (effect := steps.next(outcome)) is not None:
                outcome = None
                if isinstance(effect, EventHeard):
                    yield effect.event
                    continue
                try:
                    outcome = await self._outcome(effect, stream)
                except (httpx.TransportError, *INTERRUPTIONS) as error:
                    outcome = error
        finally:
            steps.close()
            await stream.close()

    async def _outcome(self, effect: Effect, stream: _AsyncStream) -> Any:
        match effect:
            case Wait(seconds):
                await asyncio.sleep(seconds)
            case SlowWork(do):
                return await asyncio.to_thread(do)
            case OpenStream(call, wait_s):
                return await stream.open(call, wait_s)
            case NextBytes():
                return await anext(stream.pieces, b"")
            case ServerCall(file=file):
                body = None if file is None else _async_pieces(file)
                return _answer(await self.http.request(**_words(effect), content=body))
        return None


class _AsyncStream:
    """The same in a loop of asyncio."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http
        self._response: httpx.Response | None = None
        self.pieces: AsyncIterator[bytes] = _async_nothing()

    async def open(self, call: ServerCall, wait_s: float) -> ServerAnswer:
        await self.close()
        asked = self._http.build_request(
            **_words(call), timeout=httpx.Timeout(wait_s, connect=10.0, pool=None)
        )
        response = self._response = await self._http.send(asked, stream=True)
        if response.status_code >= 400:
            await response.aread()
            return _answer(response)
        self.pieces = response.aiter_bytes()
        return ServerAnswer(response.status_code, response.headers)

    async def close(self) -> None:
        if self._response is not None:
            await self._response.aclose()


def _words(call: ServerCall) -> dict[str, Any]:
    """Return a call in httpx's words, without its file."""
    words: dict[str, Any] = {"method": call.method, "url": call.path, "headers": dict(call.headers)}
    if call.query:
        words["params"] = dict(call.query)
    if call.data is not None:
        words["json"] = call.data
    return words


def _answer(response: httpx.Response) -> ServerAnswer:
    return ServerAnswer(response.status_code, response.headers, response.content)


def _pieces(file: Path) -> Iterator[bytes]:
    with file.open("rb") as opened:
        while piece := opened.read(PIECE):
            yield piece


async def _async_pieces(file: Path) -> AsyncIterator[bytes]:
    for piece in _pieces(file):
        yield piece


async def _async_nothing() -> AsyncIterator[bytes]:
    return
    yield b""


def _reason(error: httpx.TransportError) -> str:
    """Return why a connection broke, in short words."""
    if isinstance(error, httpx.TimeoutException):
        return "it did not answer in time"
    if isinstance(error, httpx.ConnectError):
        return "the connection was refused" if "refused" in str(error) else str(error) or "no connection"
    return "the connection broke off"
