"""What a media file holds, without decoding it: sizes, rates, lengths."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from soundstage.errors import MediaError
from soundstage.inputs import File, InMemory
from soundstage.media.picture import is_picture, picture_info


@dataclass(frozen=True)
class Info:
    """width, height: pixels, 0 without a picture. num_frames: 0 without, 1 for a still.

    fps: None for stills and bare arrays. sound_s: length of the sound, None without one.
    """

    width: int
    height: int
    num_frames: int
    fps: float | None
    sound_s: float | None


def probe(file: File) -> Info:
    """Raises MediaError for a file that is missing or no media file."""
    if isinstance(file, InMemory):
        return _array_info(file)
    path = Path(file)
    if not path.is_file():
        raise MediaError(f"there is no file {path}; check the name")
    return _picture_info(path) if is_picture(path) else _container_info(path)


def _array_info(file: InMemory) -> Info:
    frames, waveform = file.frames, file.waveform
    count, height, width = (0, 0, 0) if frames is None else frames.shape[:3]
    sound_s = None if waveform is None else waveform.shape[1] / file.sample_rate_hz
    return Info(width, height, count, file.fps, sound_s)


def _picture_info(path: Path) -> Info:
    info = picture_info(path)
    return Info(info.width, info.height, info.num_frames, info.fps, None)


def _container_info(path: Path) -> Info:
    from soundstage.media.read import opened

    with opened(path) as container:
        video = next(iter(container.streams.video), None)
        audio = next(iter(container.streams.audio), None)
        length_s = container.duration / 1_000_000 if container.duration else 0.0
        sound_s = None
        if audio is not None:
            sound_s = float(audio.duration * audio.time_base) if audio.duration else length_s
        if video is None:
            return Info(0, 0, 0, None, sound_s)
        fps = float(video.average_rate or 0) or None
        count = video.frames or sum(1 for _ in container.decode(video))
        return Info(video.width, video.height, count, fps, sound_s)
