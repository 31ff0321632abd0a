"""The events of a run: phases, steps, previews, notices, and the clip at the end."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from soundstage.clip import Clip

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from soundstage.lora.report import AdapterReport
    from soundstage.rendering.live import LiveTokens

log = logging.getLogger("soundstage.rendering")


@dataclass
class Detail:
    """Hold how far a phase is. It changes while the phase lasts, and any thread may read it.

    part: what is worked on, such as "transformer" or "door.png"; "" where the phase says it all. done, total:
    steps or frames; total is 0 where nothing is counted. in_percent: the count is shown as a share.
    """

    part: str = ""
    done: int = 0
    total: int = 0
    in_percent: bool = False

    @property
    def count(self) -> str:
        """Return "7/20" or "35%"; "" where nothing is counted."""
        if not self.total:
            return ""
        return f"{self.done / self.total:.0%}" if self.in_percent else f"{self.done}/{self.total}"


@dataclass(frozen=True)
class Phase:
    """A stage of the work begins.

    name: "load", "resume" (a checkpoint; detail says from where), "encode", "denoise", "upsample",
    "decode video", "decode audio"; "window 3 of 12" in a take. detail: how far it is, for those who look
    while it lasts.
    """

    name: str
    detail: Detail = field(default_factory=Detail, repr=False, compare=False)


@dataclass(frozen=True)
class Notice:
    """One sentence that the user should know and need not act on."""

    text: str


@dataclass(frozen=True)
class LoraAttached:
    """A LoRA was read for the first time. report: what it matches and how much it changes."""

    report: AdapterReport


@dataclass(frozen=True)
class Step:
    """A denoising step is done. step counts from 1 to num_steps; sigma is the level it ended at.

    tokens: the latents at that level, which may be changed until the next event is asked for.
    """

    name: str
    step: int
    num_steps: int
    sigma: float
    tokens: LiveTokens | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Preview:
    """The predicted picture after a step.

    frames: (F, H, W, 3) uint8, small; fewer than the clip's where the model has no preview VAE.
    """

    name: str
    step: int
    frames: NDArray[np.uint8]


@dataclass(frozen=True)
class Done:
    """The finished clip and its latents.

    video_latents: (1, 128, T, h, w), audio_latents: (1, 8, T, 16); None for a modality not made. seconds:
    spent in each phase. latents: those of every pass, "<pass>.video" and "<pass>.audio"; for a take in
    windows only those of the last pass.
    """

    clip: Clip
    video_latents: Tensor | None
    audio_latents: Tensor | None
    seconds: dict[str, float]
    latents: dict[str, Tensor] = field(default_factory=dict)


Event = Phase | Notice | LoraAttached | Step | Preview | Done


class At(Protocol):
    """Is told how far the work is, in the words of `Detail`."""

    def __call__(self, part: str, done: int = 0, total: int = 0) -> object: ...


def unseen(part: str, done: int = 0, total: int = 0) -> None:
    """Tell nobody how far the work is."""


class Clock:
    """Counts seconds by phase; a phase that comes again adds to its own."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._name: str | None = None
        self._since = 0.0
        self._detail = Detail()

    def phase(self, name: str, part: str = "", total: int = 0) -> Phase:
        """Begin a phase, which ends the one before."""
        self.stop()
        self._name, self._since = name, time.perf_counter()
        self._detail = Detail(part, 0, total)
        return Phase(name, self._detail)

    def at(self, part: str, done: int = 0, total: int = 0) -> None:
        """Note how far the phase is."""
        self._detail.part, self._detail.done, self._detail.total = part, done, total

    def so_far(self) -> dict[str, float]:
        """Return the seconds of all phases, with those of the one under way."""
        spent = dict(self.seconds)
        if self._name is not None:
            spent[self._name] = spent.get(self._name, 0.0) + time.perf_counter() - self._since
        return spent

    def add(self, seconds: Mapping[str, float]) -> None:
        """Count the seconds of a run that this one goes on from."""
        for name, spent in seconds.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + spent

    def stop(self) -> dict[str, float]:
        """End the phase, and return the seconds of all."""
        if self._name is not None:
            spent = time.perf_counter() - self._since
            log.info("%s: %.2f s", self._name, spent)
            self.seconds[self._name] = self.seconds.get(self._name, 0.0) + spent
            self._name = None
        return self.seconds
