"""Read a media file back whole: frames, sound, rate and tags."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from soundstage.media.container import read_metadata
from soundstage.media.in_memory import File
from soundstage.media.load import frames_shown
from soundstage.media.sound import sound_samples
from soundstage.media.tracks import tracks
from soundstage.media.video import video_frames


@dataclass(frozen=True)
class Media:
    """A decoded file. frames: (F, H, W, 3) uint8 RGB at fps, or None. waveform: (2, n) float32 or None.

    fps is None where there is no video; metadata are the container's tags.
    """

    frames: NDArray[np.uint8] | None
    waveform: NDArray[np.float32] | None
    fps: Fraction | None
    sample_rate_hz: int | None
    metadata: dict[str, str]


def read_media(path: Path) -> Media:
    """Return all that a player would show and play of a file.

    Raises MediaError for a file that is missing, no media file, or damaged.
    """
    found = tracks(path)
    fps = None if found.picture is None else found.picture.fps
    times_s = [] if fps is None else [float(i / fps) for i in range(found.num_frames)]
    samples, rate = (None, None) if found.sound is None else sound_samples(path, 0.0, None)
    return Media(
        frames=np.stack(list(video_frames(path, times_s))) if times_s else None,
        waveform=samples,
        fps=fps,
        sample_rate_hz=rate,
        metadata=read_metadata(path),
    )


def load_frames(file: File, times_s: Sequence[float], own_fps: float = 24.0) -> NDArray[np.uint8]:
    """Return the frames of `frames_shown` as one array (F, H, W, 3)."""
    return np.stack(list(frames_shown(file, times_s, own_fps)))
