"""Clients of a server: `Client`, which blocks, and `AsyncClient` for asyncio. Both speak by the same talk.

client = ss.Client("http://127.0.0.1:8765")                  # key=, or $SOUNDSTAGE_KEY
clip = client.generate("A red ball bounces.", seed=7, progress=True)
clip.save("ball.mp4")                                        # the server's file, not coded again
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from soundstage.client.handles import AsyncRemoteHandle, RemoteHandle, progress_of
from soundstage.client.talk import ServerTalk
from soundstage.clip import Clip
from soundstage.errors import MissingExtraError, RequestError, shown
from soundstage.jobs.views import Asset, Job, JobEvent, Page, PlanView
from soundstage.rendering.progress import Report, check_report
from soundstage.request.request import Request

if TYPE_CHECKING:
    from soundstage.client.training import ConfigSource

KEY_VARIABLE, SERVER_VARIABLE = "SOUNDSTAGE_KEY", "SOUNDSTAGE_SERVER"
PATIENCE_S = 120.0
Purpose = Literal["input", "mask", "lora", "data"]
PREFIX = "/v1"


class Client:
    """A server, in the words of an engine. It may be used from several threads, and as a context manager.

    url: its address; None is $SOUNDSTAGE_SERVER. key: None is $SOUNDSTAGE_KEY. patience_s: how long the
    server may be away, such as for a restart, before a call gives up.
    """

    def __init__(
        self, url: str | None = None, key: str | None = None, *, patience_s: float = PATIENCE_S
    ) -> None:
        httpx = _httpx()
        from soundstage.client.lines import TIMEOUT, ServerLine

        self.url = server_url(url)
        self._http = httpx.Client(base_url=self.url, headers=_headers(key), timeout=TIMEOUT)
        self._line, self._talk = ServerLine(self._http), ServerTalk(self.url, patience_s)

    def generate(self, prompt: str | Request, *, progress: Report = None, **words: Any) -> Clip:
        """Make a clip on the server and return it. words: fields of a Request, and those of a job.

        Words of a job are model, format, priority, label, preview_every, webhook_url, sheet,
        keep_latents, latents (the path of a file) and denoise.
        progress: as an engine takes it. An interrupt from the keyboard cancels the job.
        """
        check_report(progress)
        handle = self.submit(prompt, **words)
        try:
            with _reporting(progress, handle.job) as report:
                for event in handle:
                    report(event)
        except BaseException:
            handle.cancel()
            raise
        return handle.result()

    def submit(self, prompt: str | Request, **words: Any) -> RemoteHandle:
        """Queue a clip on the server, from what `generate` takes, and return its handle at once."""
        return self._handle(self._line.carry_out(self._talk.submit(prompt, words)))

    def train(
        self, data: str | Path | None, config: ConfigSource | None = None, **words: Any
    ) -> RemoteHandle:
        """Queue a training on the server, and return its handle at once: `handle.save("style.safetensors")`.

        data: a folder or zip of clips with captions; what the server has, "asset:ID"; or an https address.
        config: a recipe, a .yaml file, a config.json, a hosted trainer's request, or fields. words: fields
        above it, such as steps and lora; dataset, which says how samples are made of the clips; and model,
        priority, label and webhook_url of the job.
        """
        from soundstage.client.training import outgoing_training

        return self._handle(self._line.carry_out(self._talk.train(outgoing_training(data, config, words))))

    def plan(self, prompt: str | Request, **words: Any) -> PlanView:
        """Return what the server would make, and what that takes."""
        return self._line.carry_out(self._talk.plan(prompt, words))

    def job(self, id: str) -> RemoteHandle:
        """Return the handle of a job that was queued before, by anyone with this key."""
        return self._handle(self._line.carry_out(self._talk.job(id)))

    def jobs(self, **words: Any) -> Page[Job]:
        """List jobs, the newest first. words: state, label, text, via, after, limit, order."""
        return self._line.carry_out(self._talk.jobs(words))

    def models(self) -> list[dict[str, Any]]:
        """List the server's models."""
        return self._line.carry_out(self._talk.listed("models"))

    def loras(self) -> list[dict[str, Any]]:
        """List the LoRAs that the server knows by name."""
        return self._line.carry_out(self._talk.listed("loras"))

    def recipes(self) -> list[dict[str, Any]]:
        """List the server's recipes."""
        return self._line.carry_out(self._talk.listed("recipes"))

    def events(self, after: int | None = None) -> Iterator[JobEvent]:
        """Yield the events of all jobs, from now on or after an event, without end."""
        return self._line.events(self._talk.follow(None, after))

    def upload(self, path: str | Path, purpose: Purpose = "input") -> Asset:
        """Send a file, unless the server has it; "asset:ID" then stands for it in a request."""
        return self._line.carry_out(self._talk.upload(Path(path), purpose))

    def download(self, asset: Asset, path: str | Path, *, overwrite: bool = True) -> Path:
        """Write a file of the server's, such as job.result.sheet, to a path."""
        talk = self._talk.download(asset.url, Path(path), asset.sha256, overwrite=overwrite)
        return self._line.carry_out(talk)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _handle(self, job: Job) -> RemoteHandle:
        return RemoteHandle(self._line, self._talk, job)


class AsyncClient:
    """The verbs of `Client` for asyncio, awaited. A client belongs to one loop."""

    def __init__(
        self, url: str | None = None, key: str | None = None, *, patience_s: float = PATIENCE_S
    ) -> None:
        httpx = _httpx()
        from soundstage.client.lines import TIMEOUT, AsyncServerLine

        self.url = server_url(url)
        self._http = httpx.AsyncClient(base_url=self.url, headers=_headers(key), timeout=TIMEOUT)
        self._line, self._talk = AsyncServerLine(self._http), ServerTalk(self.url, patience_s)

    async def generate(self, prompt: str | Request, *, progress: Report = None, **words: Any) -> Clip:
        """Make a clip on the server and return it. A task that is cancelled cancels the job."""
        check_report(progress)
        handle = await self.submit(prompt, **words)
        try:
            with _reporting(progress, handle.job) as report:
                async for event in handle:
                    report(event)
        except BaseException:
            await handle.cancel()
            raise
        return await handle.result()

    async def submit(self, prompt: str | Request, **words: Any) -> AsyncRemoteHandle:
        """Queue a clip on the server, and return its handle at once."""
        return self._handle(await self._line.carry_out(self._talk.submit(prompt, words)))

    async def train(
        self, data: str | Path | None, config: ConfigSource | None = None, **words: Any
    ) -> AsyncRemoteHandle:
        """Queue a training on the server, and return its handle at once."""
        from soundstage.client.training import outgoing_training

        asked = outgoing_training(data, config, words)
        return self._handle(await self._line.carry_out(self._talk.train(asked)))

    async def plan(self, prompt: str | Request, **words: Any) -> PlanView:
        """Return what the server would make, and what that takes."""
        return await self._line.carry_out(self._talk.plan(prompt, words))

    async def job(self, id: str) -> AsyncRemoteHandle:
        """Return the handle of a job that was queued before."""
        return self._handle(await self._line.carry_out(self._talk.job(id)))

    async def jobs(self, **words: Any) -> Page[Job]:
        """List jobs, the newest first. words: state, label, text, via, after, limit, order."""
        return await self._line.carry_out(self._talk.jobs(words))

    async def models(self) -> list[dict[str, Any]]:
        """List the server's models."""
        return await self._line.carry_out(self._talk.listed("models"))

    async def loras(self) -> list[dict[str, Any]]:
        """List the LoRAs that the server knows by name."""
        return await self._line.carry_out(self._talk.listed("loras"))

    async def recipes(self) -> list[dict[str, Any]]:
        """List the server's recipes."""
        return await self._line.carry_out(self._talk.listed("recipes"))

    def events(self, after: int | None = None) -> AsyncIterator[JobEvent]:
        """Yield the events of all jobs, from now on or after an event, without end."""
        return self._line.events(self._talk.follow(None, after))

    async def upload(self, path: str | Path, purpose: Purpose = "input") -> Asset:
        """Send a file, unless the server has it."""
        return await self._line.carry_out(self._talk.upload(Path(path), purpose))

    async def download(self, asset: Asset, path: str | Path, *, overwrite: bool = True) -> Path:
        """Write a file of the server's to a path."""
        talk = self._talk.download(asset.url, Path(path), asset.sha256, overwrite=overwrite)
        return await self._line.carry_out(talk)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _handle(self, job: Job) -> AsyncRemoteHandle:
        return AsyncRemoteHandle(self._line, self._talk, job)


def server_url(url: str | None) -> str:
    """Return the address of a server without its last slash. Raises RequestError for what is none."""
    found = (os.environ.get(SERVER_VARIABLE) if url is None else url) or ""
    parts = urlsplit(found)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        told = f"the server is {shown(found)}" if found else "no server is named"
        raise RequestError(
            f"{told}; give an address such as http://127.0.0.1:8765, or set ${SERVER_VARIABLE}", field="url"
        )
    return found.rstrip("/").removesuffix(PREFIX)


def _headers(key: str | None) -> dict[str, str]:
    found = os.environ.get(KEY_VARIABLE) if key is None else key
    return {"Authorization": f"Bearer {found}"} if found else {}


def _httpx() -> Any:
    try:
        import httpx
    except ImportError:
        raise MissingExtraError("client", "a client of a server") from None
    return httpx


@contextlib.contextmanager
def _reporting(progress: Report, job: Job) -> Iterator[Callable[[JobEvent], object]]:
    """Give a function that reports events: as bars on stderr, to a callable, or as warnings."""
    if progress is True:
        from soundstage.client.bars import RemoteBars

        with RemoteBars(job) as bars:
            yield bars.show
        return

    def report(event: JobEvent) -> None:
        if event.type == "warning" and event.message is not None:
            warnings.warn(event.message, stacklevel=4)
        if callable(progress) and event.progress is not None:
            progress(progress_of(event.progress))

    yield report
