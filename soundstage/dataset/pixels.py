"""The pixels and samples of an item, cut out of its files as an encoder takes them.

What inference does to a given clip is done here by the same functions: frames by their times, the same
scaling and cropping.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from soundstage.dataset.scanning import sample_rate
from soundstage.errors import DatasetError
from soundstage.media.arrays import Pixels
from soundstage.media.load import frames_shown
from soundstage.media.probe import probe
from soundstage.planning.grid import sample_times
from soundstage.types import Crop


@dataclass(frozen=True)
class Framing:
    """The shape that frames are brought to.

    crop: as in dataset.yaml. seed: says where a random crop lies; the same text gives the same place.
    """

    width: int
    height: int
    crop: str = "center"
    seed: str = ""

    @property
    def fit_crop(self) -> Crop:
        """Return the word for `conditioning.pixels.fit`; a random crop is cut before it."""
        return "stretch" if self.crop == "random" else self.crop  # type: ignore[return-value]

    def cut(self, frames: Iterator[Pixels]) -> Iterator[Pixels]:
        """Yield frames, for a random crop the part of each that has the shape."""
        if self.crop != "random":
            yield from frames
            return
        for frame in frames:
            height, width = frame.shape[:2]
            scale = min(width / self.width, height / self.height)
            wide, high = round(self.width * scale), round(self.height * scale)
            across, down = self._place
            left, top = round(across * (width - wide)), round(down * (height - high))
            yield np.ascontiguousarray(frame[top : top + high, left : left + wide])

    @property
    def _place(self) -> tuple[float, float]:
        """Return the place of the crop, as shares of what is left over across and down."""
        digest = hashlib.sha256(self.seed.encode()).digest()
        return digest[0] / 255, digest[1] / 255


def drawing_seed(name: str) -> int:
    """Return the seed of what is drawn for an item."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little") % 2**31


def frames_of(
    path: Path, start_s: float, num_frames: int, fps: float, framing: Framing, *, hold: bool = False
) -> Iterator[Pixels]:
    """Yield num_frames of a clip or picture from start_s on, at the dataset's rate.

    hold: a shorter one is held at its last frame. Raises DatasetError for one that is too short, MediaError
    for one that cannot be read.
    """
    info = probe(str(path))
    times = _times(info.num_frames, start_s, num_frames, sample_rate(info, fps), info.fps or fps)
    if not start_s and info.num_frames > 1:
        times = sample_times(info, fps, fps, num_frames)
    if len(times) < num_frames and not hold:
        raise DatasetError(
            f"{path} has {len(times)} frames from {start_s:g} s on at {fps:g} fps, and {num_frames} are "
            "needed; scan the dataset again"
        )
    times = [*times, *times[-1:] * (num_frames - len(times))]
    yield from framing.cut(frames_shown(str(path), times, fps, (framing.width, framing.height)))


def _times(count: int, start_s: float, num_frames: int, rate: float, own: float) -> list[float]:
    """Return the times of num_frames frames, or as many as there are. count: those of the file, at own."""
    if count == 1:
        return [0.0]
    last_s = (count - 1) / own + 1e-3
    times = [start_s + i / rate for i in range(num_frames)]
    return [min(time, (count - 1) / own) for time in times if time <= last_s]
