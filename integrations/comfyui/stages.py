"""Where clips are made: by the engine in ComfyUI's own process, or by a Soundstage server."""

from __future__ import annotations

import functools
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import soundstage as ss
from soundstage.errors import RequestError
from soundstage.planning.given import GivenStart
from soundstage.planning.plan import Plan
from soundstage.rendering.progress import ProgressCount

from . import hooks

if TYPE_CHECKING:
    from torch import Tensor

    from soundstage.rendering.prepare import Latents


@dataclass(frozen=True)
class Made:
    """A finished clip, its latents, and sentences for the user."""

    clip: ss.Clip
    video_latents: Tensor | None = None
    audio_latents: Tensor | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Start:
    """Latents to start from. denoise: share of the steps that are taken; 0 decodes them as they are."""

    latents: Latents
    denoise: float = 1.0

    def applied(self, plan: Plan) -> Plan:
        """Return a plan that starts from the latents. Raises RequestError where they do not fit it."""
        video, audio = self.latents.video, self.latents.audio
        start = GivenStart(
            None if video is None else tuple(video.shape),
            None if audio is None else tuple(audio.shape),
            self.denoise,
            ("latent", "audio_latent"),
        )
        return start.applied(plan)


class Stage(Protocol):
    """What nodes make clips with."""

    def make(
        self, request: ss.Request, *, start: Start | None = None, preview_every: int = 0, decode: bool = True
    ) -> Made:
        """Make the clip of a request. Raises SoundstageError, or ComfyUI's own exception for a stop."""
        ...


@dataclass(frozen=True)
class LocalStage:
    """The engine in this process."""

    engine: ss.Engine

    def make(
        self, request: ss.Request, *, start: Start | None = None, preview_every: int = 0, decode: bool = True
    ) -> Made:
        import torch

        plan = self.engine.plan(request)
        plan = plan if start is None else start.applied(plan)
        progress = hooks.Progress()
        progress.check()
        hooks.free_memory()
        # ComfyUI calls nodes in inference mode, whose tensors could not be used by later runs outside of it.
        with torch.inference_mode(False):
            return self._made(plan, start, preview_every, decode, progress)

    def _made(
        self, plan: Plan, start: Start | None, preview_every: int, decode: bool, progress: hooks.Progress
    ) -> Made:
        count = ProgressCount(plan)
        notes: list[str] = []
        given = None if start is None else start.latents
        with closing(self.engine.run(plan, preview_every=preview_every, given=given, decode=decode)) as run:
            for event in run:
                progress.show(count.see(event).fraction, _picture(event))
                if isinstance(event, ss.Notice):
                    hooks.log.warning("%s", event.text)
                    notes.append(event.text)
                if isinstance(event, ss.Done):
                    return Made(event.clip, event.video_latents, event.audio_latents, notes)
        raise RequestError("the run ended without a clip")


@functools.lru_cache(maxsize=1)  # another model takes its place, unless a graph still holds it
def local_stage(model: str, **options: Any) -> LocalStage:
    """Return the engine of a model in this process, with its weights still warm if it was the last one."""
    return LocalStage(ss.load(model, **options))


def _picture(event: Any) -> Any:
    """Return the middle frame of a preview as a PIL picture; None for other events."""
    from PIL import Image

    if not isinstance(event, ss.Preview):
        return None
    return Image.fromarray(event.frames[len(event.frames) // 2])
