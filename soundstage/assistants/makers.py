"""Makers of an assistant's clips, an engine in this process or a server, with the same words."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any, Protocol

from soundstage.errors import RequestError, SoundstageError, listed

if TYPE_CHECKING:
    from soundstage.client.client import AsyncClient
    from soundstage.client.handles import AsyncRemoteHandle
    from soundstage.clip import Clip
    from soundstage.engine import Engine
    from soundstage.rendering.handle import Handle
    from soundstage.rendering.progress import Progress

Told = dict[str, Any]


class AssistantJob(Protocol):
    """A clip that is made. id: how an assistant names it."""

    id: str

    async def status(self) -> Told: ...

    async def cancel(self) -> Told: ...

    async def clip(self) -> Clip: ...

    def progress(self) -> AsyncIterator[Progress]: ...


class AssistantMaker(Protocol):
    """Makes clips, and knows of models."""

    async def plan(self, fields: Told) -> Told: ...

    async def submit(self, fields: Told) -> AssistantJob: ...

    async def job(self, id: str) -> AssistantJob: ...

    async def models(self) -> list[Told]: ...


class LocalMaker:
    """Makes clips with one engine, one after the other. It is loaded when it is first needed."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._engine: Engine | None = None
        self._jobs: dict[str, LocalJob] = {}
        self._numbers = itertools.count(1)

    async def plan(self, fields: Told) -> Told:
        from soundstage.request.request import Request

        planned = self._stage().plan(Request(**fields))
        return {"summary": planned.summary, "seed": planned.request.seed, "notes": list(planned.notices)}

    async def submit(self, fields: Told) -> AssistantJob:
        id = f"clip-{next(self._numbers)}"
        self._jobs[id] = LocalJob(id, self._stage().submit(**fields))
        return self._jobs[id]

    async def job(self, id: str) -> AssistantJob:
        if id not in self._jobs:
            raise RequestError(f"there is no clip {id!r}; those here are {listed(id, self._jobs) or 'none'}")
        return self._jobs[id]

    async def models(self) -> list[Told]:
        model = self._stage().model
        return [{"id": model.name, "description": "the model of this engine"}]

    def _stage(self) -> Engine:
        import soundstage

        if self._engine is None:
            self._engine = soundstage.load(self._model)
        return self._engine


class LocalJob:
    """A clip of the engine's queue."""

    def __init__(self, id: str, handle: Handle) -> None:
        self.id, self._handle = id, handle

    async def status(self) -> Told:
        now = self._handle.progress
        told: Told = {"id": self.id, "state": self._state(), "fraction": round(now.fraction, 3)}
        told |= {"phase": now.phase, "seed": self._handle.plan.request.seed}
        error = self._error()
        return told if error is None else {**told, "error": str(error)}

    async def cancel(self) -> Told:
        self._handle.cancel()
        return await self.status()

    async def clip(self) -> Clip:
        return await self._handle

    async def progress(self) -> AsyncIterator[Progress]:
        async for _ in self._handle:
            yield self._handle.progress

    def _state(self) -> str:
        handle = self._handle
        if not handle.done():
            return "running" if handle.running() else "queued"
        return "cancelled" if handle.cancelled() else "succeeded" if self._error() is None else "failed"

    def _error(self) -> BaseException | None:
        handle = self._handle
        return handle.exception() if handle.done() and not handle.cancelled() else None


class RemoteMaker:
    """Makes clips on a server."""

    def __init__(self, url: str | None, key: str | None, model: str | None) -> None:
        from soundstage.client.client import server_url

        self._url, self._key = server_url(url), key
        self._model = {} if model is None else {"model": model}
        self._client: AsyncClient | None = None

    async def plan(self, fields: Told) -> Told:
        found = await self._open().plan(**fields, **self._model)
        return {"summary": found.summary, "seed": found.seed, "seconds": found.seconds, "notes": found.notes}

    async def submit(self, fields: Told) -> AssistantJob:
        return RemoteJob(await self._open().submit(**fields, **self._model))

    async def job(self, id: str) -> AssistantJob:
        return RemoteJob(await self._open().job(id))

    async def models(self) -> list[Told]:
        return await self._open().models()

    def _open(self) -> AsyncClient:
        """Return the client, made in the loop that uses it."""
        from soundstage.client.client import AsyncClient

        if self._client is None:
            self._client = AsyncClient(self._url, self._key)
        return self._client


class RemoteJob:
    """A job of a server."""

    def __init__(self, handle: AsyncRemoteHandle) -> None:
        self.id, self._handle = handle.id, handle

    async def status(self) -> Told:
        job = await self._handle.refresh()
        told: Told = {"id": job.id, "state": job.state, "fraction": round(job.progress.fraction, 3)}
        told |= {"phase": job.progress.phase, "seed": job.seed, "position": job.position, "eta_s": job.eta_s}
        if job.kind == "train":
            told |= {"kind": job.kind, "step": job.progress.step, "losses": job.progress.losses}
            told["trains"] = None if job.plan is None else job.plan.summary
            lora = None if job.result is None else job.result.lora
            told["lora"] = None if lora is None else f"asset:{lora.id}"
        return told if job.error is None else {**told, "error": job.error.message}

    async def cancel(self) -> Told:
        await self._handle.cancel()
        return await self.status()

    async def clip(self) -> Clip:
        return await self._handle.result()

    async def progress(self) -> AsyncIterator[Progress]:
        async for _ in self._handle:
            yield self._handle.progress


def sentence(error: BaseException) -> str:
    """Return an error as an assistant is told it."""
    if isinstance(error, CancelledError):
        return "the clip was cancelled"
    return str(error) if isinstance(error, SoundstageError) else f"{type(error).__name__}: {error}"
