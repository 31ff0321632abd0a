"""Clips made by a Soundstage server for ComfyUI's nodes."""

from __future__ import annotations

import queue
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import soundstage as ss

from . import hooks
from .stages import Made, Start

if TYPE_CHECKING:
    from soundstage.client.client import Client
    from soundstage.client.handles import RemoteHandle
    from soundstage.jobs.views import Asset, JobEvent

LOOK_S = 0.2  # between two looks at the stop button


@dataclass(frozen=True)
class ServerStage:
    """A model of a server; an empty name is the server's first."""

    client: Client
    model: str = ""

    def make(
        self, request: ss.Request, *, start: Start | None = None, preview_every: int = 0, decode: bool = True
    ) -> Made:
        """Queue the clip as a job, and wait for it. A stop in ComfyUI cancels the job."""
        words: dict[str, Any] = {"model": self.model} if self.model else {}
        progress = hooks.Progress()
        handle = self._submitted(request, start, preview_every=preview_every, keep_latents=True, **words)
        notes = []
        try:
            for event in _watched(handle, progress):
                if event is not None and event.message and event.type == "warning":
                    notes.append(event.message)
                shown = event.progress if event is not None else None
                picture = self._picture(event)
                if shown is not None or picture is not None:
                    progress.show(handle.job.progress.fraction if shown is None else shown.fraction, picture)
        except BaseException:
            handle.cancel()
            raise
        clip = handle.result()
        result = handle.refresh().result
        video, audio = self._latents(None if result is None else result.latents)
        return Made(clip, video, audio, notes)

    def _submitted(self, request: ss.Request, start: Start | None, **words: Any) -> RemoteHandle:
        """Queue the job, with the latents that it starts from."""
        if start is None:
            return self.client.submit(request, **words)
        from safetensors.torch import save_file

        held = {"video": start.latents.video, "audio": start.latents.audio}
        tensors = {name: value.contiguous().cpu() for name, value in held.items() if value is not None}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "latents.safetensors"
            save_file(tensors, path)
            return self.client.submit(request, latents=path, denoise=start.denoise, **words)

    def _picture(self, event: JobEvent | None) -> Any:
        """Return the preview of an event as a PIL picture; None for other events."""
        from PIL import Image

        if event is None or event.asset is None:
            return None
        with tempfile.TemporaryDirectory() as folder:
            path = self.client.download(event.asset, Path(folder) / "preview")
            return Image.open(path).convert("RGB")

    def _latents(self, asset: Asset | None) -> tuple[Any, Any]:
        """Return the latents of picture and sound that the server has kept."""
        from safetensors.torch import load

        if asset is None:
            return None, None
        with tempfile.TemporaryDirectory() as folder:
            path = self.client.download(asset, Path(folder) / "latents.safetensors")
            tensors = load(path.read_bytes())
        return tensors.get("video"), tensors.get("audio")


def _watched(handle: RemoteHandle, progress: hooks.Progress) -> Iterator[JobEvent | None]:
    """Yield the events of a job, and None while there is none. Raises ComfyUI's own exception for a stop."""
    found: queue.Queue[Any] = queue.Queue()

    def follow() -> None:
        try:
            for event in handle:
                found.put(event)
            found.put(StopIteration())
        except Exception as error:
            found.put(error)

    threading.Thread(target=follow, name="soundstage-events", daemon=True).start()
    while True:
        progress.check()
        try:
            event = found.get(timeout=LOOK_S)
        except queue.Empty:
            yield None
            continue
        if isinstance(event, StopIteration):
            return
        if isinstance(event, Exception):
            raise event
        yield event
