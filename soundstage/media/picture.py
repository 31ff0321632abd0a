"""Pictures and animations in files, as a viewer shows them, through Pillow.

What a file is, its first bytes say and not its ending. A GIF, WebP, APNG or AVIF of several frames is a clip:
each frame is shown for its own time, on a constant rate that all of them fall on. The pages of a TIFF and the
second picture of a phone's JPEG are no clip; the first is read.

Whatever Pillow raises becomes a MediaError that names the file and the cause.
"""

from __future__ import annotations

import bisect
import functools
import io
import itertools
import math
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from soundstage.errors import MediaError
from soundstage.files import known_file
from soundstage.media.durations import FRAME_DURATIONS
from soundstage.media.jpeg_end import completed
from soundstage.media.pixels import orientation, rgb_pixels

if TYPE_CHECKING:
    from PIL import Image

# 134 megapixels. A picture takes 4 bytes a pixel while it is decoded, so 0.5 GB at most for one copy.
MAX_PIXELS = 2**27
# 34 megapixels, four times a film of 2160p. What is larger is averaged down by a whole factor.
MAX_KEPT_PIXELS = 2**25
SHORTEST_S, STANDARD_S = (
    Fraction(11, 1000),
    Fraction(1, 10),
)  # a shorter frame is shown for 0.1 s, as browsers do
MAX_FPS, MIN_FPS = 60, 8
JITTER_S = Fraction(1, 100)  # a GIF counts in hundredths: 30 fps are frames of 3, 3 and 4 of them
SAME_TIME_S = 1e-4

SIGNATURES: tuple[tuple[int, bytes, str], ...] = (  # at byte, these bytes, are this format of Pillow's
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"GIF87a", "GIF"),
    (0, b"GIF89a", "GIF"),
    (8, b"WEBP", "WEBP"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"II+\0", "TIFF"),
    (0, b"MM\0+", "TIFF"),
    (0, b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG2000"),
    (0, b"qoif", "QOI"),
    (0, b"8BPS", "PSD"),
    (0, b"DDS ", "DDS"),
)
# Kinds of pictures that are refused by name.
UNREADABLE: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\xff\x0a", "a JPEG XL picture"),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL picture"),
    (0, b"\x76\x2f\x31\x01", "an OpenEXR picture"),
    (0, b"#?RADIANCE", "a Radiance HDR picture"),
    (0, b"#?RGBE", "a Radiance HDR picture"),
    (0, b"<svg", "an SVG drawing"),
    (0, b"%PDF", "a PDF"),
    (0, b"%!PS", "a PostScript page"),
    (0, b"gimp xcf", "a GIMP picture"),
    (0, b"FUJIFILMCCD-RAW", "a camera's raw picture"),
    (0, b"IIU\0", "a camera's raw picture"),
    (0, b"IIRO", "a camera's raw picture"),
    (8, b"CR\x02\0", "a camera's raw picture"),
    (4, b"ftypcrx ", "a camera's raw picture"),
)
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
DNG_VERSION, NEW_SUBFILE_TYPE, SUB_IFDS = 50706, 254, 330
BMP_HEADER_BYTES = (12, 16, 40, 52, 56, 64, 108, 124)
HEAD_BYTES = 512
COMMENT_KEYS = ("Comment", "comment")  # of PNG; of GIF and JPEG
IMAGE_DESCRIPTION = 270  # the EXIF tag, which holds a WebP's comment
MJPEG_SEARCH_BYTES = 2**20

_quiet = threading.RLock()


@dataclass(frozen=True)
class PictureInfo:
    """width, height: pixels, as shown. num_frames: 1 for a still. fps: None for a still; an animation has
    num_frames at this constant rate, from 8 to 60 per second. notices: what is changed when it is read, for
    its user."""

    width: int
    height: int
    num_frames: int
    fps: float | None
    notices: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Timing:
    """starts_s: when each frame of an animation begins. skipped: pictures in the file before the first."""

    starts_s: tuple[Fraction, ...]
    length_s: Fraction
    fps: Fraction
    skipped: int


def is_picture(path: Path) -> bool:
    """Return whether a file's first bytes are those of a picture or an animation, one that we read or not.

    False for a file that is missing or is no regular file.
    """
    try:
        return path.is_file() and (_format(path) is not None or _unreadable(_head(path)) is not None)
    except OSError:
        return False


def picture_info(path: Path) -> PictureInfo:
    """Return size, length and rate of a picture or animation.

    Its first frame is decoded, so that damage is found before work is spent on what needs the picture. Raises
    MediaError for a file that cannot be read, or has more than 134 megapixels.
    """
    with _reading(path):
        first = _first_picture(path, *known_file(path))
    timing = _timing(path)
    if timing is None:
        return first
    count = max(1, round(timing.length_s * timing.fps))
    return replace(first, num_frames=count, fps=float(timing.fps))


def picture_frames(path: Path, times_s: Sequence[float] | None = None) -> Iterator[NDArray[np.uint8]]:
    """Yield the frames (H, W, 3) shown at these seconds, one by one; a still is shown at all times.

    times_s: None is every frame of the constant rate that `picture_info` states. Decodes no further than the
    last of them. A picture of more than 34 megapixels is averaged down by a whole factor. Raises MediaError
    as `picture_info`.
    """
    timing = _timing(path)
    if times_s is None:
        count = 1 if timing is None else max(1, round(timing.length_s * timing.fps))
        times_s = [0.0] if timing is None else [float(i / timing.fps) for i in range(count)]
    with _opened(path) as picture:
        size: tuple[int, int] | None = None
        for index, group in itertools.groupby(times_s, lambda time: _shown_at(timing, time)):
            with _reading(path):
                if timing is not None:
                    picture.seek(timing.skipped + index)
                frame = _decoded(picture)
            size = size or frame.shape[:2]
            frame = frame[: size[0], : size[1]]  # one of a GIF may reach beyond the first
            if frame.shape[:2] != size:
                raise MediaError(f"{path} has a frame that is smaller than its first; convert it to a video")
            for _ in group:
                yield frame


def picture_header(path: Path) -> tuple[str, int, int]:
    """Return Pillow's name of a picture's format, its width and height, without decoding it.

    Raises MediaError as `picture_info`.
    """
    with _opened(path) as picture:
        return str(picture.format), *picture.size


def picture_comment(path: Path) -> str:
    """Return the comment in a picture's file, empty if there is none. Raises MediaError as `picture_info`."""
    with _opened(path) as picture, _reading(path):
        found = [picture.info.get(key) for key in COMMENT_KEYS]
        found.append(picture.getexif().get(IMAGE_DESCRIPTION))
        comment = next((one for one in found if one), "")
    return comment.decode(errors="replace") if isinstance(comment, bytes) else str(comment)


def _decoded(picture: Image.Image) -> NDArray[np.uint8]:
    picture.draft(None, _draft_size(picture))
    return rgb_pixels(picture, MAX_KEPT_PIXELS)


def _draft_size(picture: Image.Image) -> tuple[int, int]:
    """Return the size to decode at: a large JPEG comes at 1/2, 1/4 or 1/8 at no cost in memory."""
    factor = next((f for f in (1, 2, 4) if picture.width * picture.height <= f * f * MAX_KEPT_PIXELS), 8)
    return picture.width // factor, picture.height // factor


# --- Opening ----------------------------------------------------------------------------------------


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Yield the file opened by Pillow, its header read and its size known to be within the limit."""
    from PIL import Image

    with _reading(path):
        kind = _format(path)
        what = _unreadable(_head(path))
        if kind is None or what is not None:
            raise MediaError(
                f"{path} is {what or 'no picture that is known'}, which cannot be read; "
                "convert it to PNG, TIFF or JPEG"
            )
        Image.init()
        if kind not in Image.OPEN:
            raise MediaError(f"{path} is {kind}, which this Pillow cannot read; convert it to PNG or JPEG")
        data = completed(path) if kind == "JPEG" else None
        file = path if data is None else io.BytesIO(data)
        picture = Image.open(file, formats=["JPEG", "MPO"] if kind == "JPEG" else [kind])
    with picture:
        with _reading(path):
            _check_size(picture, path)
            _check_raw(picture, path)
        yield picture


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn whatever Pillow raises into a MediaError, and silence its warnings.

    One thread at a time: Python's warning filters are shared by all of them.
    """
    from PIL import Image, UnidentifiedImageError

    with _quiet, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except MediaError:
            raise
        except Image.DecompressionBombError:
            raise MediaError(
                f"{path} has more than the {MAX_PIXELS // 10**6} megapixels that are read; make it smaller"
            ) from None
        except UnidentifiedImageError as error:
            raise MediaError(
                f"{path} cannot be read as a picture (its header is damaged or of a kind not known); "
                "is it complete?"
            ) from error
        except MemoryError as error:
            raise MediaError(f"{path} needs more memory than there is; make it smaller") from error
        except Exception as error:
            raise MediaError(
                f"{path} cannot be read as a picture ({_cause(error)}); is it complete?"
            ) from error


def _cause(error: Exception) -> str:
    """Return an error's message as one short line."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    words = " ".join(str(said).split())[:160]
    return words if " " in words else f"{type(error).__name__}{': ' if words else ''}{words}"


def _check_size(picture: Image.Image, path: Path) -> None:
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise MediaError(
            f"{path} is {width}x{height}, {width * height / 1e6:.0f} megapixels; "
            f"at most {MAX_PIXELS // 10**6} are read, so make it smaller"
        )
    if width < 1 or height < 1:
        raise MediaError(f"{path} is {width}x{height}; a picture needs at least one pixel")


def _check_raw(picture: Any, path: Path) -> None:
    """Refuse a camera's raw file: it is a TIFF whose first picture is only a small preview."""
    tags = getattr(picture, "tag_v2", {})
    preview = SUB_IFDS in tags and tags.get(NEW_SUBFILE_TYPE, 0) == 1
    if DNG_VERSION in tags or preview:
        raise MediaError(
            f"{path} is a camera's raw picture, which cannot be read; develop it to TIFF or JPEG"
        )


@functools.lru_cache(maxsize=64)
def _first_picture(path: Path, absolute: str, stamp: tuple[int, ...]) -> PictureInfo:
    """Return what the first picture is, as a still."""
    notices: list[str] = []
    with _opened(path) as picture:
        own = picture.size
        pages = getattr(picture, "n_frames", 1) if picture.format == "TIFF" else 1
        picture.draft(None, _draft_size(picture))
        rgb_pixels(picture, MAX_KEPT_PIXELS, notices)
        if picture.format == "TIFF":  # Pillow turns it while it loads, and then says so
            own = picture.size
        width, height = own[::-1] if orientation(picture) >= 5 else own
    if width * height > MAX_KEPT_PIXELS:
        notices.append(f"its {width * height / 1e6:.0f} megapixels are averaged down to at most 34")
    if _format(path) == "JPEG" and completed(path) is not None:
        notices.append("the end of the file is missing, but all rows of the picture are there")
    if pages > 1:
        notices.append(f"only the first of its {pages} pages is read")
    return PictureInfo(width, height, 1, None, tuple(notices))


# --- What a file is ---------------------------------------------------------------------------------


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)


def _format(path: Path) -> str | None:
    """Return the name Pillow has for the format of these bytes; None for no picture that we read."""
    head = _head(path)
    for offset, signature, name in SIGNATURES:
        if head.startswith(signature, offset):
            if name == "WEBP" and not head.startswith(b"RIFF"):
                continue
            return None if name == "JPEG" and _motion_jpeg(path) else name
    if head.startswith(b"BM") and int.from_bytes(head[14:18], "little") in BMP_HEADER_BYTES:
        return "BMP"
    if head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace():
        return "PPM"
    if head.startswith(b"\0\0\1\0") and head[9:10] == b"\0":
        return "ICO"
    brands = _brands(head)
    return "AVIF" if b"avif" in brands or b"avis" in brands else None


def _unreadable(head: bytes) -> str | None:
    """Return what a picture is that is known but not read."""
    brands = _brands(head)
    if any(brand in brands for brand in HEIF_BRANDS) and not {b"avif", b"avis"} & set(brands):
        return "an HEIF picture"
    if head.lstrip().startswith((b"<?xml", b"<!DOCTYPE svg")) and b"<svg" in head:
        return "an SVG drawing"
    return next((what for at, start, what in UNREADABLE if head.startswith(start, at)), None)


def _brands(head: bytes) -> list[bytes]:
    """Return the brands of an ISO file whose first is a picture's; compatible ones of films do not count."""
    if head[4:8] != b"ftyp" or head[8:12] not in (*HEIF_BRANDS, b"avif", b"avis"):
        return []
    end = min(len(head), int.from_bytes(head[:4], "big"))
    return [head[8:12], *(head[i : i + 4] for i in range(16, end, 4))]


def _motion_jpeg(path: Path) -> bool:
    """Return whether one JPEG follows another without the index of a phone's multi-picture file."""
    with path.open("rb") as file:
        start = file.read(MJPEG_SEARCH_BYTES)
    return b"\xff\xd9\xff\xd8\xff" in start and b"MPF\0" not in start


# --- Animations -------------------------------------------------------------------------------------


def _timing(path: Path) -> _Timing | None:
    with _reading(path):
        return _timing_of(path, *known_file(path))


@functools.lru_cache(maxsize=64)
def _timing_of(path: Path, absolute: str, stamp: tuple[int, ...]) -> _Timing | None:
    """Return when the frames of an animation are shown; None for a still."""
    find = FRAME_DURATIONS.get(_format(path) or "")
    skipped, durations_s = (0, []) if find is None else find(path)
    if len(durations_s) < 2:
        return None
    durations_s = [d if d >= SHORTEST_S else STANDARD_S for d in durations_s]
    length_s = sum(durations_s, Fraction(0))
    steady = max(durations_s) - min(durations_s) <= JITTER_S
    if steady:
        durations_s = [length_s / len(durations_s)] * len(durations_s)
    starts_s = tuple(itertools.accumulate(durations_s[:-1], initial=Fraction(0)))
    return _Timing(starts_s, length_s, _rate(durations_s), skipped)


def _rate(durations_s: list[Fraction]) -> Fraction:
    """Return a rate on which every frame is seen: all begin on it, or none is shorter than its step."""
    step = functools.reduce(_common_step, durations_s)
    rate = 1 / step
    if rate > MAX_FPS:
        rate = min(Fraction(MAX_FPS), 1 / min(durations_s))
    return rate * math.ceil(MIN_FPS / rate) if rate < MIN_FPS else rate


def _common_step(a: Fraction, b: Fraction) -> Fraction:
    """Return the greatest common divisor."""
    shared = math.lcm(a.denominator, b.denominator)
    return Fraction(math.gcd(int(a * shared), int(b * shared)), shared)


def _shown_at(timing: _Timing | None, time_s: float) -> int:
    if timing is None:
        return 0
    return max(0, bisect.bisect_right(timing.starts_s, time_s + SAME_TIME_S) - 1)
