"""File formats that a clip is written in, by the name's ending, with their codecs and qualities."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from soundstage.errors import MediaError
from soundstage.files import NameTakenError, check_writable

if TYPE_CHECKING:
    from soundstage.media.hdr import Hdr

Kind = Literal["film", "animation", "picture", "sound"]
EVEN_SIDES = ("libx264", "libx265")  # encoders that take no odd width or height
NUMBER = re.compile(r"%(0?)(\d*)d")  # the place of the frame's number in a name, as FFmpeg has it
FOLDER_NAMES = "%04d.png"
EXR_NAMES = "frame_%05d.exr"
NUMBERED = {".png": 1, ".exr": 0}  # endings that may be one picture of each frame, and the first one's number


@dataclass(frozen=True)
class Codec:
    """One way to code picture or sound.

    encoder: FFmpeg's name; empty where Pillow writes. layout: FFmpeg's name of the pixels or samples that it
    is given. lowest, highest: the encoder's own figure at quality 1 and 100, None for a lossless codec.
    quality: used where none is given. sound: codec of the sound beside it, if not the container's. light: how
    light becomes the encoder's values, "linear", "logc3" or "hlg"; empty for standard range.
    """

    encoder: str = ""
    layout: str = ""
    lowest: float | None = None
    highest: float | None = None
    quality: int = 100
    sound: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    light: str = ""

    def figure(self, quality: int | None) -> int:
        """Return the encoder's own figure for a quality: a CRF, kb/s, Pillow's quality or colours."""
        assert self.lowest is not None
        assert self.highest is not None
        share = ((self.quality if quality is None else quality) - 1) / 99
        return round(self.lowest + (self.highest - self.lowest) * share)


# Quality 70 is CRF 19 for H.264, near-transparent. Below 320 kb/s FFmpeg's AAC encoder breaks up pure tones:
# a 440 Hz sine of 0.5 comes back with errors up to 0.40 at 128 kb/s, 0.39 at 256 and 0.013 at 320.
CODECS = {
    "h264": Codec("libx264", "yuv420p", 40, 10, 70, options={"preset": "veryfast"}),
    "h265": Codec("libx265", "yuv420p", 43, 13, 70, options={"x265-params": "log-level=error"}),
    "vp9": Codec("libvpx-vp9", "yuv420p", 59, 9, 70, options={"deadline": "good", "cpu-used": "4"}),
    "av1": Codec("libsvtav1", "yuv420p", 59, 9, 70, options={"preset": "8"}),
    "prores": Codec("prores_ks", "yuv422p10le", sound="pcm", options={"profile": "hq"}),
    # FFmpeg's encoder takes 10 bits of the 12 that the format has.
    "prores4444": Codec("prores_ks", "yuv444p10le", sound="pcm", options={"profile": "4444"}, light="logc3"),
    "hlg": Codec(
        "libx265", "yuv420p10le", 43, 13, 70, options={"x265-params": "log-level=error"}, light="hlg"
    ),
    "linear": Codec(light="linear"),
    "logc3": Codec(light="logc3"),
    "ffv1": Codec("ffv1", "bgr0", sound="flac"),
    "gif": Codec("", "", 2, 256),
    "webp": Codec("", "", 1, 100, 90),
    "jpeg": Codec("", "", 1, 100, 92),
    "png": Codec(),
    "aac": Codec("aac", "fltp", 32, 320),
    "opus": Codec("libopus", "fltp", 32, 320),
    "mp3": Codec("libmp3lame", "fltp", 32, 320),
    "alac": Codec("alac", "s16"),
    "flac": Codec("flac", "s16"),
    "pcm": Codec("pcm_s16le", "s16"),
    "float": Codec("pcm_f32le", "flt"),
}


@dataclass(frozen=True)
class FileFormat:
    """A container: FFmpeg's or Pillow's name, its codecs with the usual one first, and that of its sound."""

    kind: Kind
    container: str
    codecs: tuple[str, ...]
    sound: str = ""

    @property
    def holds_sound(self) -> bool:
        return self.kind in ("film", "sound")


FORMATS = {
    ".mp4": FileFormat("film", "mp4", ("h264", "h265", "av1", "hlg"), "aac"),
    ".m4v": FileFormat("film", "mp4", ("h264", "h265"), "aac"),
    ".mov": FileFormat("film", "mov", ("h264", "h265", "prores", "prores4444", "hlg"), "aac"),
    ".mkv": FileFormat("film", "matroska", ("h264", "h265", "vp9", "av1", "ffv1", "hlg"), "aac"),
    ".webm": FileFormat("film", "webm", ("vp9", "av1"), "opus"),
    ".gif": FileFormat("animation", "GIF", ("gif",)),
    ".webp": FileFormat("animation", "WEBP", ("webp",)),
    ".png": FileFormat("picture", "PNG", ("png",)),
    ".jpg": FileFormat("picture", "JPEG", ("jpeg",)),
    ".jpeg": FileFormat("picture", "JPEG", ("jpeg",)),
    ".exr": FileFormat("picture", "EXR", ("linear", "logc3")),
    ".wav": FileFormat("sound", "wav", ("pcm", "float")),
    ".flac": FileFormat("sound", "flac", ("flac",)),
    ".mp3": FileFormat("sound", "mp3", ("mp3",)),
    ".m4a": FileFormat("sound", "ipod", ("aac", "alac")),
}


class UnusedCodingError(MediaError):
    """A codec or quality that other formats take. unused: which of the two."""

    def __init__(self, message: str, unused: str) -> None:
        super().__init__(message)
        self.field = None
        self.unused = frozenset({unused})


@dataclass(frozen=True)
class Output:
    """A name with the format, the codec and the quality that a clip is written in.

    path: as given; of numbered pictures the name with the number's place. quality: None is the codec's own.
    numbered: each frame is a picture of its own. hdr: how light is written and shown.
    """

    path: Path
    format: FileFormat
    codec: Codec
    quality: int | None
    numbered: bool
    hdr: Hdr | None = None

    @property
    def sound(self) -> Codec:
        """Return the codec of a film's sound."""
        return CODECS[self.codec.sound or self.format.sound]

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Return the size that frames of this one are written in: odd sides are made even where they must."""
        if self.codec.encoder not in EVEN_SIDES:
            return width, height
        return width + width % 2, height + height % 2

    def resized(self, width: int, height: int) -> str | None:
        """Return what people are told of a clip that is written in another size; None where it is not."""
        size = self.size(width, height)
        if size == (width, height):
            return None
        return (
            f"is {width}x{height} and {self.path.suffix.lower()} needs even sides, so it is written as "
            f"{size[0]}x{size[1]}, with the last column or row repeated"
        )

    def names(self, num_frames: int) -> list[Path]:
        """Return the files that are written for so many frames."""
        if not self.numbered:
            return [self.path]
        return [self.path.with_name(numbered(self.path.name, i)) for i in range(num_frames)]

    def check(self, num_frames: int, *, overwrite: bool = True) -> None:
        """Raise MediaError now for names that could not be written later. overwrite: False refuses old ones.

        A folder of numbered pictures is made where its own folder is there. Pictures of a longer sequence by
        the same names are refused always: they would be read as the end of this one.
        """
        names = self.names(num_frames)
        folder = self.path.parent
        if self.numbered and not folder.exists() and folder.parent.is_dir():
            try:
                folder.mkdir()
            except OSError as error:
                raise MediaError(f"output is {self.path}, but {folder} cannot be made ({error})") from error
        for name in names[:1]:
            check_writable(name, (name.suffix.lower(),), overwrite=overwrite)
        there = [] if overwrite else [name for name in names if os.path.lexists(name)]
        if there:
            raise NameTakenError(f"output is {there[0]}, which is there already; choose another name")
        if self.numbered and (later := self._later(num_frames)) is not None:
            raise MediaError(
                f"output is {self.path}, and {later} of another sequence would be read as the end of these "
                f"{num_frames} frames; remove it and those after it, or choose another name"
            )

    def _later(self, num_frames: int) -> Path | None:
        """Return the first file by the same names that stands behind so many frames."""
        place = NUMBER.search(self.path.name)
        if place is None or not self.path.parent.is_dir():
            return None
        names = re.compile(
            re.escape(self.path.name[: place.start()]) + r"(\d+)" + re.escape(self.path.name[place.end() :])
        )
        files = ((names.fullmatch(file.name), file) for file in self.path.parent.iterdir())
        found = [(int(fit[1]), file) for fit, file in files if fit is not None]
        last = num_frames - 1 + NUMBERED[self.path.suffix.lower()]
        return min(((number, file) for number, file in found if number > last), default=(0, None))[1]


def output(
    path: str | Path,
    num_frames: int,
    *,
    codec: str | None = None,
    quality: int | None = None,
    hdr: Hdr | None = None,
) -> Output:
    """Return how a clip is written to a name.

    num_frames: 0 for sound alone. hdr: how a clip with light is written.

    A name that ends in "/" is a folder of numbered pictures, PNG, or EXR where `hdr` asks for it. Raises
    MediaError for an ending, codec, quality or colour space that cannot be written.
    """
    if str(path).endswith(("/", os.sep)):
        path = Path(path) / (EXR_NAMES if hdr is not None and hdr.ending == ".exr" else FOLDER_NAMES)
    path = Path(path)
    ending = path.suffix.lower()
    many = num_frames > 0 and ending in NUMBERED and NUMBER.search(path.name) is not None
    if ending not in _fitting(num_frames) and not many:
        raise MediaError(_unfit(path, num_frames))
    chosen = FORMATS[ending]
    own = hdr.codec if hdr is not None and hdr.codec in chosen.codecs else chosen.codecs[0]
    name = codec or own
    if name not in chosen.codecs:
        told = f"codec is {name!r}, and {ending} takes {' or '.join(chosen.codecs)}; choose one of them"
        raise UnusedCodingError(told, "codec") if name in CODECS else MediaError(told)
    found = Output(path, chosen, CODECS[name], quality, many, hdr)
    if ending == ".exr":
        from soundstage.media.exr import check_exr

        check_exr(hdr)
    _check_encoders(found, name, num_frames)
    if quality is not None:
        _check_quality(quality, found.codec, f"{ending} with {name}" if len(chosen.codecs) > 1 else ending)
    return found


def endings(num_frames: int) -> tuple[str, ...]:
    """Return the endings that a clip can have here, the usual one first. num_frames: 0 for sound alone."""
    return tuple(e for e in _fitting(num_frames) if all(map(_has_encoder, _encoders(FORMATS[e]))))


def numbered(name: str, index: int) -> str:
    """Return the name of a frame's picture; the first frame, of index 0, has number 1, or 0 in EXR."""

    def number(found: re.Match[str]) -> str:
        return str(index + NUMBERED[Path(name).suffix.lower()]).rjust(
            int(found[2] or 0), "0" if found[1] else " "
        )

    return NUMBER.sub(number, name, count=1)


def _fitting(num_frames: int) -> list[str]:
    kinds: set[Kind] = {"film", "animation"} if num_frames else {"sound"}
    if num_frames == 1:
        kinds.add("picture")
    return [ending for ending, form in FORMATS.items() if form.kind in kinds]


def _unfit(path: Path, num_frames: int) -> str:
    known = FORMATS.get(path.suffix.lower())
    why = ""
    if known is not None and known.kind == "picture" and num_frames > 1:
        why = f", one picture, and the clip has {num_frames} frames"
    elif known is not None:
        why = ", a sound, and the clip has pictures" if num_frames else ", and the clip is sound alone"
    listed = list(endings(num_frames))
    if num_frames > 1:
        listed.append(f"{FOLDER_NAMES} for a picture of each frame")
    return f"output is {path}{why}; give a name ending in {_either(listed)}"


def _either(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last


def _encoders(form: FileFormat, codec: Codec | None = None) -> list[str]:
    picture = codec or CODECS[form.codecs[0]]
    sound = picture.sound or form.sound
    return [name for name in (picture.encoder, CODECS[sound].encoder if sound else "") if name]


def _check_encoders(found: Output, name: str, num_frames: int) -> None:
    needed = _encoders(found.format, found.codec)
    missing = [encoder for encoder in needed if not _has_encoder(encoder)]
    if missing:
        raise MediaError(
            f"output is {found.path}, and this PyAV has no encoder {missing[0]} for {name}; "
            f"give a name ending in {_either(endings(num_frames))}"
        )


@functools.cache
def _has_encoder(name: str) -> bool:
    import av

    try:
        av.Codec(name, "w")
    except ValueError:
        return False
    return True


def _check_quality(quality: int, codec: Codec, what: str) -> None:
    if codec.lowest is None:
        told = f"quality is {quality}, and {what} has one quality only; leave it out"
        raise UnusedCodingError(told, "quality")
    if isinstance(quality, bool) or not isinstance(quality, int) or not 1 <= quality <= 100:
        raise MediaError(f"quality is {quality!r}; give a whole number from 1 to 100")
