"""Read and write pictures and films with diffusers' helpers."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from soundstage.clip import Clip
from soundstage.compat.diffusers.telling import number
from soundstage.errors import MediaError, shown
from soundstage.media.in_memory import in_memory
from soundstage.types import OUTPUT_RATE_HZ

if TYPE_CHECKING:
    from PIL import Image

TIMEOUT_S = 60
MAX_DOWNLOAD_BYTES = 2**31


def export_to_video(
    video_frames: Any,
    output_video_path: str | Path | None = None,
    fps: float = 10,
    quality: float | None = None,
    bitrate: int | None = None,
    macro_block_size: int | None = None,
) -> str:
    """Write frames as a film without sound, and return its path.

    video_frames: pictures, arrays in [0, 1] or bytes. output_video_path: a name with one of the endings of
    docs/media.md; None makes a temporary .mp4. quality: 1 to 10. bitrate, macro_block_size: no matter.
    """
    path = output_video_path or Path(tempfile.mkdtemp()) / "video.mp4"
    tenths = None if quality is None else max(1, min(100, round(number(quality, "quality") * 10)))
    return str(Clip(_pixels(video_frames), None, _rate(fps)).save(_place(path), quality=tenths))


def export_to_gif(image: Any, output_gif_path: str | Path | None = None, fps: float = 10) -> str:
    """Write frames as a GIF, and return its path; see `export_to_video`."""
    return export_to_video(image, output_gif_path or Path(tempfile.mkdtemp()) / "video.gif", fps)


def encode_video(
    video: Any,
    fps: float,
    output_path: str | Path,
    audio: Any = None,
    audio_sample_rate: int | None = None,
    video_chunks_number: int = 1,
) -> None:
    """Write a film with sound.

    video: pictures, an array or tensor (F, H, W, 3) in [0, 1] or bytes, or an iterator of such. audio:
    samples (2, n) or (n, 2). video_chunks_number: no matter.
    """
    waveform = None if audio is None else _samples(audio)
    rate = OUTPUT_RATE_HZ if audio_sample_rate is None else number(audio_sample_rate, "audio_sample_rate")
    Clip(_pixels(video), waveform, _rate(fps), sample_rate_hz=int(rate)).save(_place(output_path))


def load_image(image: Any, convert_method: Callable[[Image.Image], Image.Image] | None = None) -> Image.Image:
    """Return a picture of a file, an address or a PIL picture, upright and in RGB.

    Raises MediaError for what cannot be read.
    """
    from PIL import Image

    from soundstage.media.picture import picture_frames
    from soundstage.media.pixels import rgb_pixels

    if isinstance(image, (str, Path)):
        with _here(image) as path:
            made = Image.fromarray(next(iter(picture_frames(path))))
    elif isinstance(image, Image.Image):
        made = Image.fromarray(rgb_pixels(image))
    else:
        raise MediaError(f"the picture is {shown(image)}; give a file, an address or a PIL picture")
    return made if convert_method is None else convert_method(made)


def load_video(
    video: str | Path,
    convert_method: Callable[[list[Image.Image]], list[Image.Image]] | None = None,
    return_fps: bool = False,
) -> Any:
    """Return the frames of a film's file or address as PIL pictures, with its rate if asked for.

    Raises MediaError for what cannot be read.
    """
    from PIL import Image

    from soundstage.media.load import frames_shown
    from soundstage.media.probe import probe

    with _here(_place(video)) as path:
        info = probe(str(path))
        if not info.num_frames:
            raise MediaError(f"{video} holds no picture; give a film")
        fps = info.fps or 1.0
        times_s = [i / fps for i in range(info.num_frames)]
        made = [Image.fromarray(frame) for frame in frames_shown(str(path), times_s)]
    made = made if convert_method is None else convert_method(made)
    return (made, fps) if return_fps else made


def _rate(fps: Any) -> float:
    """Return frames a second. Raises MediaError where there are none."""
    rate = number(fps, "fps")
    if rate <= 0:
        raise MediaError(f"fps is {rate:g}; give the frames a second, more than 0")
    return rate


def _place(path: Any) -> Any:
    """Return the name of a file. Raises MediaError for anything else."""
    if not isinstance(path, (str, Path)):
        raise MediaError(f"the file is {shown(path)}; give its name")
    return path


def _pixels(frames: Any) -> NDArray[np.uint8]:
    """Return frames as bytes (F, H, W, 3). Raises MediaError for what is none."""
    if isinstance(frames, str) or not (hasattr(frames, "shape") or hasattr(frames, "__iter__")):
        raise MediaError(f"the frames are {shown(frames)}; give pictures or an array, such as frames[0]")
    whole = frames if hasattr(frames, "shape") else list(frames)
    try:
        parts = [whole] if hasattr(whole, "shape") else whole
        arrays = [in_memory(part).frames for part in parts]
    except ValueError as error:
        raise MediaError(f"the frames cannot be written: {error}") from error
    found = [array for array in arrays if array is not None]
    if not found or len({array.shape[1:] for array in found}) != 1:
        raise MediaError("there are no frames, or some of different sizes; give pictures of one size")
    return np.concatenate(found)


def _samples(audio: Any) -> NDArray[np.float32]:
    """Return samples as stereo (2, n). Raises MediaError for what is no sound."""
    plain = audio.detach().cpu().float() if hasattr(audio, "detach") else audio
    try:
        values = np.atleast_2d(np.asarray(plain, dtype=np.float32))
    except (TypeError, ValueError) as error:
        raise MediaError(f"the sound is {shown(audio)}; give samples (2, n), such as audio[0]") from error
    values = values.T if values.ndim == 2 and values.shape[0] > 2 and values.shape[1] <= 2 else values
    if values.ndim != 2 or values.shape[0] > 2:
        raise MediaError(f"the sound is an array {values.shape}; give samples (2, n), such as audio[0]")
    return np.repeat(values, 2, axis=0) if len(values) == 1 else values


class _here:
    """Give a file's path; what has an address is fetched into a temporary file for as long."""

    def __init__(self, place: str | Path) -> None:
        self._place = place
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Path:
        text = str(self._place)
        if not text.startswith(("http://", "https://")):
            return Path(self._place)
        self._folder = tempfile.TemporaryDirectory()
        path = Path(self._folder.name, Path(text.partition("?")[0]).name or "file")
        try:
            path.write_bytes(_fetched(text))
        except BaseException:
            self._folder.cleanup()
            raise
        return path

    def __exit__(self, *error: object) -> None:
        if self._folder is not None:
            self._folder.cleanup()


def _fetched(address: str) -> bytes:
    from urllib.error import URLError
    from urllib.request import urlopen

    try:
        with urlopen(address, timeout=TIMEOUT_S) as answer:
            data = io.BytesIO(answer.read(MAX_DOWNLOAD_BYTES + 1))
    except (URLError, OSError, ValueError) as error:
        raise MediaError(f"{address} cannot be fetched ({error}); give a file") from error
    if data.getbuffer().nbytes > MAX_DOWNLOAD_BYTES:
        raise MediaError(f"{address} is larger than {MAX_DOWNLOAD_BYTES / 1e9:.1f} GB; fetch it yourself")
    return data.getvalue()
