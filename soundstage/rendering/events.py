"""The events of a run: phases, steps, previews, notices, and the clip at the end."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from soundstage.clip import Clip

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from soundstage.lora.report import AdapterReport

log = logging.getLogger("soundstage.rendering")


@dataclass(frozen=True)
class Phase:
    """A stage of the work begins.

    name: "load", "encode", "denoise", "upsample", "decode video", "decode audio"; "window 3 of 12" in a take.
    """

    name: str


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
    """A denoising step is done. step counts from 1 to num_steps; sigma is the level it ended at."""

    name: str
    step: int
    num_steps: int
    sigma: float


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


class Clock:
    """Counts seconds by phase; a phase that comes again adds to its own."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._name: str | None = None
        self._since = 0.0

    def phase(self, name: str) -> Phase:
        """Begin a phase, which ends the one before."""
        self.stop()
        self._name, self._since = name, time.perf_counter()
        return Phase(name)

    def stop(self) -> dict[str, float]:
        """End the phase, and return the seconds of all."""
        if self._name is not None:
            spent = time.perf_counter() - self._since
            log.info("%s: %.2f s", self._name, spent)
            self.seconds[self._name] = self.seconds.get(self._name, 0.0) + spent
            self._name = None
        return self.seconds
