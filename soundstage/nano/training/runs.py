"""Say what a part is trained with, and at which size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from soundstage.training.batches import Batch
from soundstage.training.workers import Make, Workers

# Sizes of batches: to try every step out in seconds, for a few CPU cores, and for a GPU.
TrainingScale = Literal["tiny", "cpu", "cuda"]
STRIDE = 4  # numbers of data that are set aside for a step, so that a resumed run repeats none


@dataclass(frozen=True)
class PartRun:
    """Hold what a part's data are made with.

    weights: folder of exported parts. first: number of the next step. progress: returns how much of the
    schedule is done, 0 to 1.
    """

    device: torch.device
    scale: TrainingScale
    workers: Workers
    weights: Path
    first: int
    progress: Callable[[], float]

    def batches(self, make: Make[Batch]) -> Iterator[Batch]:
        """Yield a batch per step, made by the workers, on the device."""
        feed = self.workers.feed(make, first=self.first, progress=self.progress)
        try:
            for batch in feed:
                yield batch.to(self.device)
        finally:
            feed.close()


def scale_of(device: torch.device, tiny: bool) -> TrainingScale:
    """Return the scale of a training on a device."""
    return "tiny" if tiny else "cuda" if device.type == "cuda" else "cpu"
