"""The gate of every call, before it is routed: whose it is, where it comes from, how large it may be.

One ASGI layer, so that a body is counted while it comes and no call is read for a caller without a key.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from typing import Any, NoReturn

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from soundstage.jobs.errors import TooLarge
from soundstage.jobs.service import Jobs
from soundstage.jobs.views import Owner
from soundstage.server import access, rates, safety
from soundstage.server.dialect import Dialect, shape_of
from soundstage.server.failures import BadCall, HttpFailure, SlowBody, defect, failure_of
from soundstage.server.logs import told
from soundstage.server.metrics import Calls
from soundstage.server.settings import ServerSettings, digest

log = logging.getLogger("soundstage.server")
UNCOUNTED = ("/v1/workers/", "/healthz", "/readyz", "/metrics")  # paths that have no limit of calls
UPLOADS = ("/v1/uploads", "/v1/workers/")  # paths whose bodies are files; they count bytes themselves


class Gate:
    """Admits calls to the app, answers those that fail, and writes one line of the log for each."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        jobs: Jobs,
        settings: ServerSettings,
        dialects: tuple[Dialect, ...],
        calls: Calls,
    ) -> None:
        self._app, self._jobs, self._settings = app, jobs, settings
        self._dialects, self._calls = dialects, calls
        self._rates = rates.CallRates()
        self._files = tuple(path for dialect in dialects for path in dialect.files)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        call = _Call(scope, receive, send, safety.headers_of(scope, self._settings))
        scope.setdefault("state", {})["request_id"] = call.id
        try:
            self._check(scope, call.headers)
            owner = await self._owner(scope, call)
            call.limit = self._limit(scope, owner is None)
            await self._app(scope, call.receive, call.send)
        except ClientDisconnect:  # nobody is left to answer
            pass
        except Exception as error:
            await self._fail(call.refusal or error, scope, call)
        finally:
            self._note(scope, call)

    def _check(self, scope: Scope, headers: Headers) -> None:
        safety.check_origin(headers, self._settings)
        if b"%00" in scope.get("raw_path", b"") + scope.get("query_string", b""):
            raise BadCall("the address holds a NUL; leave it out")

    async def _owner(self, scope: Scope, call: _Call) -> Any:
        scope["state"]["owner"] = None
        owner = await access.caller(call.headers, self._jobs, self._settings)
        scope["state"]["owner"] = owner
        if owner is not None and not scope["path"].startswith(UNCOUNTED):
            self._count(owner, call.headers)
        return owner

    def _count(self, owner: Owner, headers: Headers) -> None:
        """Count a call of a key; without keys, all callers are one. Raises TooMany."""
        settings = self._settings
        named = owner.key_id or (digest(access.key_of(headers) or "").hex() if settings.keys else None)
        most = settings.calls_per_minute
        if most is None:
            most = rates.WITH_KEYS if named else 0
        if most:
            self._rates.count(named or owner.id, most)

    def _limit(self, scope: Scope, anonymous: bool) -> int:
        if self._files and scope["path"].startswith(self._files):
            return self._settings.max_upload_bytes
        if anonymous:
            return self._settings.max_anonymous_bytes
        is_file = scope["path"].startswith(UPLOADS)
        return self._settings.max_upload_bytes if is_file else self._settings.max_body_bytes

    async def _fail(self, error: Exception, scope: Scope, call: _Call) -> None:
        """Answer a call that failed, in the words of its dialect."""
        failure = failure_of(error)
        if failure is None:
            failure = defect(call.id)
            log.error("defect", exc_info=error, extra=told(id=call.id, path=_route(scope)))
        if call.status is not None:  # too late: the answer has begun, and breaks off
            return
        await answer(failure, scope["path"], self._dialects)(scope, call.receive, call.send)

    def _note(self, scope: Scope, call: _Call) -> None:
        seconds = time.monotonic() - call.began
        route, status = _route(scope), call.status or 499
        self._calls.count(scope["method"], route, status, seconds)
        owner = scope["state"].get("owner")
        log.info(
            "call",
            extra=told(
                id=call.id,
                method=scope["method"],
                path=route,
                status=status,
                ms=round(seconds * 1000, 1),
                owner=None if owner is None else owner.id,
            ),
        )


def answer(failure: HttpFailure, path: str, dialects: tuple[Dialect, ...]) -> JSONResponse:
    """Return the response that tells of a failure, in the words of the path's dialect."""
    status, body, headers = shape_of(path, dialects)(failure)
    return JSONResponse(body, status, headers)


def _route(scope: Scope) -> str:
    """Return the pattern of the address, such as "/v1/jobs/{id}": it holds no ids, tickets or prompts."""
    if "endpoint" not in scope:
        return "none"
    pattern: str = scope["path"]
    for name, value in scope.get("path_params", {}).items():
        pattern = pattern.replace(f"/{value}", f"/{{{name}}}")
    return pattern


class _Call:
    """One call: its body is counted while it comes, and the status of its answer is kept."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, more: dict[str, str]) -> None:
        self.id = secrets.token_hex(8)
        self.began = time.monotonic()
        self.headers = Headers(scope=scope)
        self.status: int | None = None
        self.limit = 0
        self.refusal: Exception | None = None
        self._came = 0
        self._has_ended = False
        self._receive, self._send, self._more = receive, send, more

    async def receive(self) -> Message:
        """Return the next message; raises TooLarge once more bytes came than may."""
        stated = self.headers.get("content-length", "")
        stated_bytes = int(stated[:20]) if stated.isdecimal() else 0
        if self._came == 0 and stated_bytes > self.limit:
            self._refuse()
        message = await self._next()
        self._came += len(message.get("body", b""))
        if self._came > self.limit:
            self._refuse()
        return message

    async def _next(self) -> Message:
        """Return the next message; raises SlowBody where the body does not come in time."""
        if self._has_ended:
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), safety.BODY_PAUSE_S)
        except TimeoutError:
            message = {}
        took = time.monotonic() - self.began
        if not message or (took > safety.BODY_PAUSE_S and self._came / took < safety.BODY_BYTES_S):
            self.refusal = SlowBody("the body comes too slowly; send it again over a better line")
            raise self.refusal
        self._has_ended = not message.get("more_body", False)
        return message

    def _refuse(self) -> NoReturn:
        """Raise for a body that is too large, and keep the reason: the framework answers in its own."""
        self.refusal = TooLarge(f"the body is larger than {self.limit:,} bytes, the most that is taken here")
        raise self.refusal

    async def send(self, message: Message) -> None:
        """Send a message on, with the headers that every answer has."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            have = {name.lower() for name, _ in message.get("headers", ())}
            more = {**self._more, "x-request-id": self.id}
            new = [
                (name.encode(), value.encode()) for name, value in more.items() if name.encode() not in have
            ]
            message = {**message, "headers": [*message.get("headers", ()), *new]}
        await self._send(message)
