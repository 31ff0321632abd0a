"""Read what a media file holds, as a player shows it, without decoding more than a few frames."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from soundstage.media.container import check_is_file
from soundstage.media.exr_sequence import exr_clip, is_exr_clip
from soundstage.media.in_memory import File, InMemory
from soundstage.media.picture import is_picture, picture_info


@dataclass(frozen=True)
class Info:
    """width, height: pixels as shown, 0 without a picture. num_frames: at fps; 0 without, 1 for a still.

    fps: a constant rate, also of a file whose frames come at any time; None for stills and bare arrays.
    sound_s: seconds from the start of the file to the end of its sound, None without one. listed_s: the
    length that a file states which was cut off before it, None for a whole one. notices: what is changed
    when it is read, for its user. light: its pictures can be read as light, of high dynamic range. exr: they
    are OpenEXR pictures.
    """

    width: int
    height: int
    num_frames: int
    fps: float | None
    sound_s: float | None
    listed_s: float | None = None
    notices: tuple[str, ...] = ()
    light: bool = False
    exr: bool = False


def probe(file: File) -> Info:
    """Return what a file or array holds. Raises MediaError for a file that is missing or no media file."""
    if isinstance(file, InMemory):
        return _array_info(file)
    path = Path(file)
    if is_exr_clip(path):
        return _exr_info(path)
    check_is_file(path)
    return _picture_info(path) if is_picture(path) else _container_info(path)


def _array_info(file: InMemory) -> Info:
    frames, waveform = file.frames, file.waveform
    count, height, width = (0, 0, 0) if frames is None else frames.shape[:3]
    sound_s = None if waveform is None else waveform.shape[1] / file.sample_rate_hz
    return Info(width, height, count, file.fps, sound_s, light=file.light is not None)


def _exr_info(path: Path) -> Info:
    clip = exr_clip(path)
    header = clip.header
    return Info(header.width, header.height, len(clip.files), clip.fps, None, light=True, exr=True)


def _picture_info(path: Path) -> Info:
    info = picture_info(path)
    return Info(info.width, info.height, info.num_frames, info.fps, None, notices=info.notices)


def _container_info(path: Path) -> Info:
    from soundstage.media.tracks import tracks

    found = tracks(path)
    sound_s = None if found.sound is None else found.sound_s
    if found.picture is None:
        return Info(0, 0, 0, None, sound_s, found.listed_s, found.unread)
    width, height = found.picture.display.size
    notices = (*found.picture.display.notices, *found.unread)
    return Info(
        width,
        height,
        found.num_frames,
        float(found.picture.fps),
        sound_s,
        found.listed_s,
        notices,
        light=found.picture.display.high,
    )
