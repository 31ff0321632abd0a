"""Read a video file back: frames, sound, rate and tags."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soundstage.errors import MediaError


@dataclass(frozen=True)
class Media:
    """A decoded file. frames: (F, H, W, 3) uint8 RGB or None. waveform: (2, n) float32 or None.

    fps is None where there is no video; metadata are the container's tags.
    """

    frames: NDArray[np.uint8] | None
    waveform: NDArray[np.float32] | None
    fps: Fraction | None
    sample_rate_hz: int | None
    metadata: dict[str, str]


def read_metadata(path: Path) -> dict[str, str]:
    """The container's tags, without decoding. Raises MediaError for a file that is no media file."""
    with opened(path) as container:
        return dict(container.metadata)


def read_media(path: Path) -> Media:
    """Decode the first video and the first audio stream; mono sound is doubled to stereo.

    Raises MediaError for a file that is missing, no media file, or damaged.
    """
    with opened(path) as container:
        video = next(iter(container.streams.video), None)
        audio = next(iter(container.streams.audio), None)
        pictures, sounds = [], []
        for frame in container.decode(*[s for s in (video, audio) if s is not None]):
            if hasattr(frame, "width"):
                pictures.append(frame.to_ndarray(format="rgb24"))
            else:
                sounds.append(frame)
        return Media(
            frames=np.stack(pictures) if pictures else None,
            waveform=stereo(sounds) if sounds else None,
            fps=video.average_rate if video is not None else None,
            sample_rate_hz=audio.rate if audio is not None else None,
            metadata=dict(container.metadata),
        )


def stereo(frames: list[Any]) -> NDArray[np.float32]:
    """Decoded audio frames -> (2, n)."""
    from av.audio.resampler import AudioResampler

    resampler = AudioResampler(format="fltp", layout="stereo", rate=frames[0].sample_rate)
    parts = [piece.to_ndarray() for frame in (*frames, None) for piece in resampler.resample(frame)]
    return np.concatenate(parts, axis=1).astype(np.float32)


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    import av

    if not path.is_file():
        raise MediaError(f"there is no file {path}; check the name")
    try:
        with av.open(str(path)) as container:
            yield container
    except av.FFmpegError as error:
        raise MediaError(f"{path} cannot be read as video or sound ({error}); is it complete?") from error
