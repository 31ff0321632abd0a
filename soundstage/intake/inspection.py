"""Find out by its content what a file is, and whether it is within the limits.

Neither its name nor what its sender says of it counts. A header is read before a frame is decoded.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from soundstage.errors import DatasetError, MediaError, SoundstageError, WeightsError
from soundstage.intake.limits import STANDARD, IntakeLimits
from soundstage.jobs.errors import TooLarge
from soundstage.jobs.media_types import WEIGHTS_TYPE, ZIP_TYPE

HOW_TO_CONVERT = (
    "it is no .safetensors file; convert it on a machine of your own by torch.load(..., weights_only=True) "
    "and safetensors.torch.save_file"
)
SAFETENSORS_START = 9  # bytes: the length of the header, and its first letter
HEAD_BYTES = 4096
PICTURE_TYPES = {
    "PNG": "image/png", "JPEG": "image/jpeg", "GIF": "image/gif", "WEBP": "image/webp", "TIFF": "image/tiff",
    "AVIF": "image/avif", "BMP": "image/bmp", "JPEG2000": "image/jp2",
}  # fmt: skip
# Media types by FFmpeg's name of a container: with a picture, and of sound alone.
CONTAINER_TYPES: dict[str, tuple[str, str]] = {
    "mov,mp4,m4a,3gp,3g2,mj2": ("video/mp4", "audio/mp4"),
    "matroska,webm": ("video/x-matroska", "audio/x-matroska"),
    "avi": ("video/x-msvideo", "audio/x-msvideo"),
    "mpegts": ("video/mp2t", "audio/mp2t"),
    "mpeg": ("video/mpeg", "audio/mpeg"),
    "flv": ("video/x-flv", "audio/x-flv"),
    "asf": ("video/x-ms-asf", "audio/x-ms-asf"),
    "ogg": ("video/ogg", "audio/ogg"),
    "mp3": ("audio/mpeg", "audio/mpeg"),
    "wav": ("audio/wav", "audio/wav"),
    "flac": ("audio/flac", "audio/flac"),
    "aac": ("audio/aac", "audio/aac"),
    "aiff": ("audio/aiff", "audio/aiff"),
}
UNKNOWN_TYPE = "application/octet-stream"
QUICKTIME, WEBM = b"ftypqt  ", b"\x42\x82\x84webm"


@dataclass(frozen=True)
class Inspected:
    """The media type of a file, and facts of it under the names of an asset's fields."""

    media_type: str
    info: dict[str, Any] = field(default_factory=dict)


def inspect(path: Path, kind: str, limits: IntakeLimits = STANDARD) -> Inspected:
    """Return what a file is. kind: input, mask, lora, latents or data, which is a zip to train on.

    Raises MediaError for what is no picture, video, sound or zip, WeightsError for what is no LoRA or no
    latents, and TooLarge.
    Messages call it "the file".
    """
    try:
        if kind in ("lora", "latents"):
            return _tensors(path, kind, limits)
        if kind == "data":
            return _archive(path, limits)
        return _media(path, limits)
    except SoundstageError as error:
        error.args = (str(error).replace(str(path), "the file"), *error.args[1:])
        raise


def _archive(path: Path, limits: IntakeLimits) -> Inspected:
    """Check the list of a zip's entries; nothing is unpacked here."""
    from soundstage.dataset.archives import check_archive

    _check_bytes(path, limits.data_bytes, "a zip to train on")
    try:
        check_archive(path)
    except DatasetError as error:
        raise MediaError(str(error)) from error
    return Inspected(ZIP_TYPE)


# --- tensors -----------------------------------------------------------------------------------------


def _tensors(path: Path, kind: str, limits: IntakeLimits) -> Inspected:
    """Check a header, and that the tensors are a LoRA's low-rank pairs or latents of LTX-2.3."""
    from soundstage.lora.metadata import read_names
    from soundstage.planning.given import latent_shapes
    from soundstage.weights.header import read_header

    _check_bytes(path, limits.lora_bytes, "a LoRA" if kind == "lora" else "a file of latents")
    with path.open("rb") as file:
        start = file.read(SAFETENSORS_START)
    if start[8:] != b"{":
        raise WeightsError(f"{path} cannot be used: {HOW_TO_CONVERT}")
    length = int.from_bytes(start[:8], "little")
    if length > limits.header_bytes:
        raise WeightsError(
            f"{path} has a header of {length:,} bytes; at most {limits.header_bytes:,} are read"
        )
    if kind == "lora":
        read_names(read_header(path))
    else:
        latent_shapes(path)
    return Inspected(WEIGHTS_TYPE)


# --- pictures, videos, sounds -----------------------------------------------------------------------


def _media(path: Path, limits: IntakeLimits) -> Inspected:
    from soundstage.media.picture import is_picture

    return _picture(path, limits) if is_picture(path) else _container(path, limits)


def _picture(path: Path, limits: IntakeLimits) -> Inspected:
    from soundstage.media.picture import picture_header, picture_info

    _check_bytes(path, limits.picture_bytes, "a picture")
    format, width, height = picture_header(path)
    _check_size(width, height, limits.picture_pixels, limits)
    found = picture_info(path)
    _check_most(found.num_frames, limits.animation_frames, "frames")
    size = {"width": found.width, "height": found.height, "num_frames": found.num_frames, "has_sound": False}
    moving = {} if found.fps is None else {"fps": found.fps, "duration_s": found.num_frames / found.fps}
    return Inspected(PICTURE_TYPES.get(format, UNKNOWN_TYPE), {**size, **moving})


def _container(path: Path, limits: IntakeLimits) -> Inspected:
    from soundstage.media.container import opened
    from soundstage.media.probe import probe

    _check_bytes(path, limits.clip_bytes, "a video")
    with opened(path) as container:
        name = container.format.name
        has_picture = _check_tracks(container, limits)
    if not has_picture:
        _check_bytes(path, limits.sound_bytes, "a sound")
    found = probe(str(path))
    _check_size(found.width, found.height, limits.frame_pixels, limits)
    _check_most(found.num_frames, limits.num_frames, "frames")
    picture_s = found.num_frames / found.fps if found.fps else 0.0
    duration_s = max(picture_s, found.sound_s or 0.0)
    _check_most(duration_s, limits.duration_s, "seconds")
    info: dict[str, Any] = {"duration_s": duration_s, "has_sound": found.sound_s is not None}
    if found.sound_s is not None:
        info["sample_rate"] = _sound_rate(path)
    if found.num_frames:
        info |= {"width": found.width, "height": found.height, "num_frames": found.num_frames}
        info["fps"] = found.fps
    return Inspected(_container_type(path, name, bool(found.num_frames)), info)


def _check_tracks(container: Any, limits: IntakeLimits) -> bool:
    """Check what the headers of a video's tracks say, and return whether it has a picture."""
    _check_most(len(container.streams), limits.streams, "tracks")
    if container.duration is not None:
        _check_most(container.duration / 1e6, limits.duration_s, "seconds")
    for track in container.streams.video:
        if track.codec_context is not None:
            _check_size(track.codec_context.width, track.codec_context.height, limits.frame_pixels, limits)
    for track in container.streams.audio:
        if track.codec_context is not None:
            _check_most(track.codec_context.sample_rate, limits.sample_rate_hz, "samples a second")
            _check_most(track.codec_context.channels, limits.channels, "channels")
    return bool(container.streams.video)


def _sound_rate(path: Path) -> int | None:
    from soundstage.media.tracks import tracks

    sound = tracks(path).sound
    return None if sound is None else sound.rate_hz


def _container_type(path: Path, name: str, has_picture: bool) -> str:
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if QUICKTIME in head[:32] and has_picture:
        return "video/quicktime"
    if WEBM in head:
        return "video/webm" if has_picture else "audio/webm"
    return CONTAINER_TYPES.get(name, (UNKNOWN_TYPE, UNKNOWN_TYPE))[0 if has_picture else 1]


# --- limits -----------------------------------------------------------------------------------------


def _check_bytes(path: Path, most: int, what: str) -> None:
    size = path.stat().st_size
    if size > most:
        raise TooLarge(f"the file has {size:,} bytes; {what} may have {most:,}")


def _check_size(width: int, height: int, most: int, limits: IntakeLimits) -> None:
    if width * height > most or max(width, height) > limits.side_pixels:
        raise MediaError(
            f"the file's picture is {width}x{height}; at most {most / 1e6:.0f} megapixels and "
            f"{limits.side_pixels} a side are taken, so make it smaller"
        )


def _check_most(value: float, most: float, what: str) -> None:
    if value > most:
        raise MediaError(f"the file has {value:,.0f} {what}; at most {most:,.0f} are taken")


def inspect_json(path: str, kind: str, limits: dict[str, Any]) -> dict[str, Any]:
    """Return what `inspect` finds, as JSON has it."""
    found = inspect(Path(path), kind, IntakeLimits(**limits))
    return {"media_type": found.media_type, "info": found.info}
