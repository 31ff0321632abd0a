"""Handles: jobs of a server, watched, awaited and cancelled from here."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Generator, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soundstage.client.effects import NextBytes, OpenStream, ServerCall, Talk
from soundstage.client.talk import SILENCE_S, ServerTalk, suffix_of
from soundstage.clip import Clip
from soundstage.jobs.states import FINAL
from soundstage.jobs.views import Asset, Job, JobEvent, JobProgress
from soundstage.rendering.events import Preview
from soundstage.rendering.progress import Progress

if TYPE_CHECKING:
    from soundstage.client.lines import AsyncServerLine, ServerLine


class KnownJob:
    """A job as it was last heard of. job: as the server said it. progress: by its events, which are newer."""

    def __init__(self, talk: ServerTalk, job: Job) -> None:
        self._talk, self.job = talk, job
        self.progress = progress_of(job.progress)
        self.losses: dict[str, float] = dict(job.progress.losses or {})  # of a training's last step heard of

    @property
    def id(self) -> str:
        return self.job.id

    @property
    def seed(self) -> int | None:
        """Return the seed that the clip is made with."""
        return self.job.seed

    @property
    def suffix(self) -> str:
        """Return the ending of the clip's or LoRA's file, as far as it is known."""
        main = None if self.job.result is None else self.job.result.main
        return suffix_of(self.job) if main is None else suffix_of(self.job, main)

    def _hear(self, event: JobEvent) -> None:
        if event.progress is not None:
            self.progress = progress_of(event.progress)
            self.losses = dict(event.progress.losses or self.losses)

    def _know(self, job: Job | None) -> Job:
        assert job is not None
        self.job, self.progress = job, progress_of(job.progress)
        return job

    def _ended(self) -> bool:
        return self.job.state in FINAL

    def _to_end(self, timeout: float | None) -> Talk[Job]:
        """Wait for the end of the job."""
        if not self._ended():
            self._know((yield from self._talk.follow(self.id, 0, timeout)))
        return self.job

    def _made(self, timeout: float | None) -> Talk[Clip]:
        return (yield from self._talk.clip((yield from self._to_end(timeout))))

    def _saved(self, path: str | Path, overwrite: bool) -> Talk[Path]:
        job = yield from self._to_end(None)
        return (yield from self._talk.save(job, Path(path), overwrite=overwrite))

    def _saved_all(self, folder: str | Path, overwrite: bool) -> Talk[list[Path]]:
        job = yield from self._to_end(None)
        return (yield from self._talk.save_all(job, Path(folder), overwrite=overwrite))

    def _refreshed(self) -> Talk[Job]:
        return self._know((yield from self._talk.job(self.id)))

    def _cancelled(self) -> Talk[bool]:
        job = self._know((yield from self._talk.cancel(self.id)))
        return job.state not in FINAL or job.state == "cancelled"

    def _put(self, verb: str) -> Talk[Job]:
        return self._know((yield from self._talk.put(self.id, verb)))

    def _preview_of(self, event: JobEvent) -> Talk[Preview | None]:
        """Return the preview that an event tells of; None where it is gone, as a newer one followed."""
        if event.type != "preview" or event.asset is None:
            return None
        data = yield from _bytes(event.asset)
        if data is None:
            return None
        return Preview(self.progress.phase, self.progress.step, _frames(data))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}: {self.job.state}>"


class RemoteHandle(KnownJob):
    """A job of a server. `for event in handle` gives its events from the first on, as they come."""

    def __init__(self, line: ServerLine, talk: ServerTalk, job: Job) -> None:
        super().__init__(talk, job)
        self._line = line

    def refresh(self) -> Job:
        """Ask the server, and return the job as it is now."""
        return self._line.carry_out(self._refreshed())

    def done(self) -> bool:
        """Return whether the job has ended."""
        return self._ended() or self.refresh().state in FINAL

    def cancelled(self) -> bool:
        """Return whether the job was cancelled."""
        return self.done() and self.job.state == "cancelled"

    def cancel(self) -> bool:
        """Cancel the job, and return whether it is or will be; a finished one stays."""
        return self._line.carry_out(self._cancelled())

    def pause(self) -> Job:
        """Let the job wait until it is resumed, with a checkpoint if it is being made; return it."""
        return self._line.carry_out(self._put("pause"))

    def resume(self) -> Job:
        """Put the job back into the queue, to go on from its checkpoint; return it."""
        return self._line.carry_out(self._put("resume"))

    def result(self, timeout: float | None = None) -> Clip:
        """Wait for the clip and return it. Raises TimeoutError, CancelledError, or the job's own error.

        An interrupt from the keyboard cancels the job.
        """
        try:
            return self._line.carry_out(self._made(timeout), self._hear)
        except KeyboardInterrupt:
            self.cancel()
            raise

    def save(self, path: str | Path, *, overwrite: bool = True) -> Path:
        """Wait for the clip or LoRA and write its file, without opening it. Raises what `result` does."""
        return self._line.carry_out(self._saved(path, overwrite), self._hear)

    def save_all(self, folder: str | Path, *, overwrite: bool = True) -> list[Path]:
        """Wait for a training, write its LoRA, config, losses, page and clips into a folder; return paths."""
        return self._line.carry_out(self._saved_all(folder, overwrite), self._hear)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the end, and return what kept the clip from being made; None where nothing did."""
        from soundstage.client.refusals import check_job

        job = self._line.carry_out(self._to_end(timeout), self._hear)
        try:
            check_job(job)
        except (Exception, CancelledError) as error:
            return error
        return None

    def __iter__(self) -> Iterator[JobEvent]:
        talk = self._talk.follow(self.id)
        events = self._line.events(talk)
        while True:
            try:
                event = next(events)
            except StopIteration as end:
                self._know(end.value)
                return
            self._hear(event)
            yield event

    @property
    def previews(self) -> Iterator[Preview]:
        """Previews as they are made, until the job has ended."""
        for event in self:
            found = self._line.carry_out(self._preview_of(event))
            if found is not None:
                yield found


class AsyncRemoteHandle(KnownJob):
    """A job of a server for asyncio: `await handle` is its clip, `async for event in handle` its events."""

    def __init__(self, line: AsyncServerLine, talk: ServerTalk, job: Job) -> None:
        super().__init__(talk, job)
        self._line = line

    async def refresh(self) -> Job:
        """Ask the server, and return the job as it is now."""
        return await self._line.carry_out(self._refreshed())

    async def done(self) -> bool:
        """Return whether the job has ended."""
        return self._ended() or (await self.refresh()).state in FINAL

    async def cancel(self) -> bool:
        """Cancel the job, and return whether it is or will be; a finished one stays."""
        return await self._line.carry_out(self._cancelled())

    async def pause(self) -> Job:
        """Let the job wait until it is resumed, with a checkpoint if it is being made; return it."""
        return await self._line.carry_out(self._put("pause"))

    async def resume(self) -> Job:
        """Put the job back into the queue, to go on from its checkpoint; return it."""
        return await self._line.carry_out(self._put("resume"))

    async def result(self, timeout: float | None = None) -> Clip:
        """Wait for the clip and return it; a task that is cancelled while it waits cancels the job."""
        import asyncio

        try:
            return await self._line.carry_out(self._made(timeout), self._hear)
        except asyncio.CancelledError:
            await asyncio.shield(self.cancel())
            raise

    async def save(self, path: str | Path, *, overwrite: bool = True) -> Path:
        """Wait for the clip or LoRA and write its file, without opening it."""
        return await self._line.carry_out(self._saved(path, overwrite), self._hear)

    async def save_all(self, folder: str | Path, *, overwrite: bool = True) -> list[Path]:
        """Wait for a training, and write all its files into a folder."""
        return await self._line.carry_out(self._saved_all(folder, overwrite), self._hear)

    def __await__(self) -> Generator[Any, None, Clip]:
        return self.result().__await__()

    async def __aiter__(self) -> AsyncIterator[JobEvent]:
        async for event in self._line.events(self._talk.follow(self.id)):
            self._hear(event)
            yield event
        await self.refresh()

    @property
    async def previews(self) -> AsyncIterator[Preview]:
        """Previews as they are made, until the job has ended."""
        async for event in self:
            found = await self._line.carry_out(self._preview_of(event))
            if found is not None:
                yield found


def progress_of(found: JobProgress) -> Progress:
    """Return a server's progress in an engine's words."""
    words = ("fraction", "phase", "step", "num_steps", "window", "num_windows")
    return Progress(**{word: getattr(found, word) for word in words})


def _bytes(asset: Asset) -> Talk[bytes | None]:
    answer = yield OpenStream(ServerCall("GET", asset.url), SILENCE_S)
    if answer.status != 200:
        return None
    found = b""
    while data := (yield NextBytes()):
        found += data
    return found


def _frames(data: bytes) -> Any:
    """Return the frames of a preview, (F, H, W, 3) in bytes."""
    import numpy as np
    from PIL import Image, ImageSequence

    with Image.open(io.BytesIO(data)) as picture:
        return np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(picture)])
