"""A clip as it is written: its frames and its sound one piece after the other, from arrays or from a file.

Pieces of a file are read while they are taken, so that memory does not grow with the clip's length.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soundstage.errors import MediaError
from soundstage.media.arrays import Frames, LightFrames, Waveform

NTSC = Fraction(1000, 1001)


@dataclass(frozen=True)
class ClipPieces:
    """The pieces of a clip, which can be taken once.

    frames: (H, W, 3) each, uint8 RGB or floating-point light, so many as num_frames says; None for sound
    alone, which has 0 of them. size: width and height of the frames. sound: (2, n) in [-1, 1] each; None for
    a silent clip. duration_s: length of the picture, or of sound alone.
    """

    frames: Iterable[Any] | None
    num_frames: int
    size: tuple[int, int]
    fps: float
    sound: Iterable[Waveform] | None
    sample_rate_hz: int
    duration_s: float

    @classmethod
    def of_arrays(
        cls, frames: Frames | LightFrames | None, fps: float, waveform: Waveform | None, sample_rate_hz: int
    ) -> ClipPieces:
        """Return frames (F, H, W, 3) and samples (2, n) as pieces.

        Raises MediaError for other shapes and rates.
        """
        count, width, height = 0, 0, 0
        for name, rate in (("fps", fps), ("sample_rate_hz", sample_rate_hz)):
            if not 0 < rate < math.inf:
                raise MediaError(f"{name} is {rate}; give a number above 0")
        if frames is not None:
            if (
                frames.dtype not in (np.uint8, np.float16)
                or frames.ndim != 4
                or frames.shape[3] != 3
                or len(frames) == 0
            ):
                raise MediaError(
                    f"frames are {frames.dtype} {frames.shape}; pass uint8 (F, H, W, 3) with F >= 1"
                )
            count, height, width = frames.shape[:3]
        if waveform is not None:
            _check_waveform(waveform)
        num_samples = 0 if waveform is None else waveform.shape[1]
        duration_s = count / fps if count else num_samples / sample_rate_hz
        sound = None if waveform is None else [waveform]
        return cls(frames, count, (width, height), fps, sound, sample_rate_hz, duration_s)

    def arrays(self) -> tuple[Any, Waveform | None, int]:
        """Return frames (F, H, W, 3), samples (2, n) and their rate in Hz. Light comes as float16.

        Raises MediaError where memory does not suffice.
        """
        width, height = self.size
        try:
            frames: NDArray[Any] | None = None
            for index, frame in enumerate([] if self.frames is None else self.frames):
                if frames is None:
                    kind = np.uint8 if frame.dtype == np.uint8 else np.float16
                    frames = np.empty((self.num_frames, height, width, 3), kind)
                frames[index] = frame
            waveform = None if self.sound is None else np.concatenate(list(self.checked_sound()), 1)
        except MemoryError as error:
            raise MediaError(
                f"{self.num_frames} frames of {width}x{height} need more memory than there "
                "is; open a shorter clip"
            ) from error
        return frames, waveform, self.sample_rate_hz

    def of_size(self, width: int, height: int) -> ClipPieces:
        """Return the pieces with frames that are so large: their last column and row are repeated."""
        right, below = width - self.size[0], height - self.size[1]
        if self.frames is None or not (right or below):
            return self
        frames: Iterable[Any] = (
            np.pad(frame, ((0, below), (0, right), (0, 0)), mode="edge") for frame in self.frames
        )
        return replace(self, frames=frames, size=(width, height))

    def fitted_sound(self) -> Iterator[Waveform]:
        """Yield the sound in pieces of at most a second, cut or continued by silence to the picture's length.

        Raises MediaError for samples that are not finite.
        """
        left = round(self.num_frames * self.sample_rate_hz / frame_rate(self.fps))
        for piece in self.checked_sound():
            if not left:
                return
            yield piece[:, :left]
            left -= min(left, piece.shape[1])
        while left:
            count = min(left, self.sample_rate_hz)
            yield np.zeros((2, count), np.float32)
            left -= count

    def checked_sound(self) -> Iterator[Waveform]:
        """Yield the sound in pieces of at most a second. Raises MediaError as `fitted_sound`."""
        for block in self.sound or ():
            _check_waveform(block)
            for first in range(0, block.shape[1], self.sample_rate_hz):
                yield block[:, first : first + self.sample_rate_hz]

    def told(self, progress: Callable[[float], None]) -> ClipPieces:
        """Return the pieces that call a function with the share, up to 1, that was taken."""
        if self.frames is not None:
            return replace(self, frames=_counted(self.frames, lambda _: 1 / self.num_frames, progress))
        total = max(1, round(self.duration_s * self.sample_rate_hz))
        return replace(self, sound=_counted(self.sound or (), lambda piece: piece.shape[1] / total, progress))


def _counted(
    pieces: Iterable[Any], share: Callable[[Any], float], progress: Callable[[float], None]
) -> Iterator[Any]:
    taken = 0.0
    for piece in pieces:
        yield piece
        taken += share(piece)
        progress(min(1.0, taken))


def frame_rate(fps: float) -> Fraction:
    """Return the exact rate a container stores: 24 -> 24, 23.976 -> 24000/1001, 12.5 -> 25/2."""
    ntsc = round(fps / NTSC) * NTSC
    if fps != round(fps) and abs(float(ntsc) - fps) < 1e-3:
        return ntsc
    return Fraction(fps).limit_denominator(1001)


def _check_waveform(waveform: Waveform) -> None:
    if waveform.ndim != 2 or waveform.shape[0] != 2:
        raise MediaError(f"the waveform has shape {waveform.shape}; pass stereo, (2, samples)")
    bad = waveform.size - int(np.isfinite(waveform).sum())
    if bad:
        raise MediaError(
            f"the waveform has {bad} samples that are NaN or infinite, so the audio decoder went wrong; "
            "run it in float32"
        )
