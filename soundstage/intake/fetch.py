"""Calls to addresses of a server's users: files are fetched, webhooks are sent.

The rule is checked first. The name is resolved once, and the connection goes to an address that was checked:
a name that leads elsewhere a moment later changes nothing. No redirect is followed. Time is limited as a
whole, by cutting the connection, and bytes are counted while they come.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soundstage.errors import RequestError
from soundstage.intake.rules import PUBLIC, CallTarget, FetchRule, name_of
from soundstage.jobs.errors import TooLarge

if TYPE_CHECKING:
    import httpx

AGENT = "soundstage"
CONNECT_S, READ_S = 10.0, 20.0  # at most, for one step; the whole has a limit of its own
PIECE_BYTES = 256 * 1024


def fetch(url: str, folder: Path, *, rule: FetchRule, max_bytes: int, timeout_s: float) -> Path:
    """Fetch a file into a folder, under a new name. Where it fails, no file is left.

    Raises RequestError for an address that is not allowed, does not answer or answers otherwise than by a
    file, and TooLarge.
    """
    target = rule.target(url)
    path = folder / f"fetch-{secrets.token_hex(16)}"
    deadline = time.monotonic() + timeout_s
    try:
        with called("GET", target, timeout_s, {"accept": "*/*", "accept-encoding": "identity"}) as answer:
            _check_answer(answer, max_bytes)
            _write(answer, path, max_bytes, deadline)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def post(
    url: str, body: bytes, headers: Mapping[str, str], timeout_s: float, *, rule: FetchRule = PUBLIC
) -> int:
    """Send a body to an address and return the status of the answer, which is not read.

    Raises RequestError for an address that is not allowed or does not answer.
    """
    with called("POST", rule.target(url), timeout_s, headers, body) as answer:
        return answer.status_code


@contextlib.contextmanager
def called(
    method: str, target: CallTarget, timeout_s: float, headers: Mapping[str, str], body: bytes | None = None
) -> Iterator[httpx.Response]:
    """Yield the answer of the first address that takes a connection. Raises RequestError where none does."""
    import httpx  # here, since most servers call nobody

    timeout = httpx.Timeout(min(READ_S, timeout_s), connect=min(CONNECT_S, timeout_s))
    sent = {**headers, "host": target.url.netloc.decode("ascii"), "user-agent": AGENT, "connection": "close"}
    line = _Line()
    with _Deadline(timeout_s, line), httpx.Client(timeout=timeout, trust_env=False) as client:
        try:
            yield from _answer(
                client, method, target, sent, body, {"sni_hostname": name_of(target.url), "trace": line.note}
            )
        except httpx.HTTPError as error:
            why = "it took too long" if line.is_cut else type(error).__name__
            raise RequestError(f"the address did not answer as it should ({why}); try again later") from None


def _answer(
    client: httpx.Client,
    method: str,
    target: CallTarget,
    headers: Mapping[str, str],
    body: bytes | None,
    extensions: dict[str, Any],
) -> Iterator[httpx.Response]:
    import httpx

    last = target.addresses[-1]
    for address in target.addresses:
        pinned = target.url.copy_with(host=address)
        try:
            with client.stream(
                method, pinned, content=body, headers=headers, extensions=extensions
            ) as answer:
                yield answer
            return
        except httpx.ConnectError:
            if address == last:
                raise


class _Line:
    """The connection of a call, by httpcore's `trace`, so that it can be cut from another thread."""

    def __init__(self) -> None:
        self.is_cut = False
        self._socket: socket.socket | None = None

    def note(self, event: str, info: Mapping[str, Any]) -> None:
        if event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            self._socket = info["return_value"].get_extra_info("socket")
            if self.is_cut:
                self.cut()

    def cut(self) -> None:
        self.is_cut = True
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)


class _Deadline:
    """Cuts a connection when its time is over: each byte of an answer may come in time, and the whole not."""

    def __init__(self, seconds: float, line: _Line) -> None:
        self._timer = threading.Timer(seconds, line.cut)
        self._timer.daemon = True

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()


def _check_answer(answer: httpx.Response, max_bytes: int) -> None:
    """Refuse an answer that holds no file, by its status and headers."""
    if answer.is_redirect or 300 <= answer.status_code < 400:
        raise RequestError("the address leads on to another one, which is not followed; give that one")
    if answer.status_code != 200:
        raise RequestError(f"the address answered with the status {answer.status_code} in place of a file")
    if answer.headers.get("content-encoding", "identity").lower() not in ("identity", ""):
        raise RequestError("the address answered with a packed body, though none was asked for")
    stated = answer.headers.get("content-length", "")
    if stated.isdecimal() and int(stated[:20]) > max_bytes:
        raise _too_large(max_bytes)


def _write(answer: httpx.Response, path: Path, max_bytes: int, deadline: float) -> None:
    count = 0
    with path.open("xb") as file:
        for piece in answer.iter_raw(PIECE_BYTES):
            count += len(piece)
            if count > max_bytes:
                raise _too_large(max_bytes)
            if time.monotonic() > deadline:
                raise RequestError("the file took too long to come; upload it instead")
            file.write(piece)
    if not count:
        raise RequestError("the address answered with an empty file")


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(f"the file at the address is larger than {max_bytes:,} bytes, the most that is fetched")
