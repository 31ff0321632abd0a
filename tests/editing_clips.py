"""Clips for tests of editing: every frame and every sample says which it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from soundstage.clip import Clip
from soundstage.editing.assembly import Assembled, assemble
from soundstage.editing.timeline import Timeline

RATE = 48_000
SIZE = (32, 32)


def numbered_frames(first: int, count: int, size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    """Return grey frames whose level is `first` + their number."""
    levels = (first + np.arange(count)).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (count, size[1], size[0], 3)).copy()


def noise(count: int, seed: int, level: float = 0.1) -> NDArray[np.float32]:
    """Return noise (2, count) whose samples are whole numbers of 16 bits."""
    drawn = np.random.default_rng(seed).uniform(-level, level, (2, count))
    return (np.rint(drawn * 32768) / 32768).astype(np.float32)


def tone(seconds: float, hz: float, level: float = 0.2, rate: int = RATE) -> NDArray[np.float32]:
    """Return a sine (2, n)."""
    wave = level * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)
    return np.stack([wave, wave]).astype(np.float32)


def film(
    path: Path,
    first: int = 0,
    count: int = 24,
    fps: float = 24,
    sound: NDArray[np.float32] | None = None,
    size: tuple[int, int] = SIZE,
) -> Path:
    """Write a lossless film of numbered frames."""
    return Clip(numbered_frames(first, count, size), sound, fps).save(path, codec="ffv1")


def assembled(timeline: Timeline, folder: Path, loudness_lufs: float | None = None) -> tuple[Clip, Assembled]:
    """Return the film of a timeline, written without loss and read again, and what was said of it."""
    told = assemble(timeline, folder / "film.mkv", codec="ffv1", loudness_lufs=loudness_lufs)
    return Clip.open(folder / "film.mkv"), told


def levels(clip: Clip) -> list[int]:
    """Return the grey level of each frame."""
    assert clip.frames is not None
    return [int(frame[frame.shape[0] // 2, frame.shape[1] // 2, 0]) for frame in clip.frames]
