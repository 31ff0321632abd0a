"""A caller that is interrupted while its job is being queued leaves no job behind."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from soundstage.client.lines import AsyncServerLine, ServerLine
from soundstage.client.talk import ServerTalk

URL = "http://server"
JOB = {"id": "job_abcdefghijklmnopqrstuvwxyz"}


class Queue:
    """A server that queues the job and then is interrupted before its answer has come."""

    def __init__(self, stop: BaseException, *, away: bool = False) -> None:
        self.stop: BaseException | None = stop
        self.away = away
        self.keys: list[str] = []
        self.cancelled: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/cancel"):
            self.cancelled.append(request.url.path)
            return httpx.Response(200, json=JOB)
        self.keys.append(request.headers["Idempotency-Key"])
        if self.stop is not None:
            stop, self.stop = self.stop, None
            raise stop
        if self.away:
            raise httpx.ConnectError("gone")
        return httpx.Response(202, json=JOB)


def test_ctrl_c_while_a_job_is_queued_cancels_it() -> None:
    server = Queue(KeyboardInterrupt())
    line = ServerLine(httpx.Client(base_url=URL, transport=httpx.MockTransport(server)))
    with pytest.raises(KeyboardInterrupt):
        line.carry_out(ServerTalk(URL, 60.0).create({"kind": "train"}))
    assert len(server.keys) == 2
    assert len(set(server.keys)) == 1  # the same call, so that there is one job
    assert server.cancelled == [f"/v1/jobs/{JOB['id']}/cancel"]


def test_a_task_that_is_cancelled_while_its_job_is_queued_cancels_the_job() -> None:
    server = Queue(asyncio.CancelledError())

    async def asked() -> Any:
        line = AsyncServerLine(httpx.AsyncClient(base_url=URL, transport=httpx.MockTransport(server)))
        return await line.carry_out(ServerTalk(URL, 60.0).create({"kind": "train"}))

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(asked())
    assert len(set(server.keys)) == 1
    assert server.cancelled == [f"/v1/jobs/{JOB['id']}/cancel"]


def test_ctrl_c_waits_for_no_server_that_is_away() -> None:
    server = Queue(KeyboardInterrupt(), away=True)
    line = ServerLine(httpx.Client(base_url=URL, transport=httpx.MockTransport(server)))
    with pytest.raises(KeyboardInterrupt):
        line.carry_out(ServerTalk(URL, 60.0).create({"kind": "train"}))
    assert len(server.keys) == 2
    assert server.cancelled == []
