"""One OpenEXR picture: light of BT.709 in a file of 16-bit floating point, and back.

What a file says of its primaries is followed when it is read. What this engine writes besides is read back:
the LogC3 curve, another colour space, the frame rate, and how the clip was made.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soundstage.errors import MediaError, MissingExtraError
from soundstage.media.arrays import Light
from soundstage.media.hdr import Hdr
from soundstage.media.light import (
    ACES_WHITE,
    CHROMATICITIES,
    D65,
    from_acescg,
    from_logc3,
    matrix_between,
    to_logc3,
)
from soundstage.media.ocio import ACESCG, check_space, in_space

MAGIC = b"\x76\x2f\x31\x01"
LARGEST = 65504.0  # of 16-bit floating point
MAX_PIXELS = 2**27  # as of any picture
SAME = 2e-3  # chromaticities that differ by less are the same
CURVE, SPACE, COMMENT, RATE = "soundstageCurve", "soundstageSpace", "comments", "framesPerSecond"
LOGC3 = "logc3"


@dataclass(frozen=True)
class ExrHeader:
    """The header of a file. space: a colour space that its writer named, None for light of its primaries."""

    width: int
    height: int
    fps: float | None
    primaries: str
    curve: str | None
    space: str | None
    comment: str


def is_exr(path: Path) -> bool:
    """Return whether a file's first bytes are those of OpenEXR; False where there is no such file."""
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def require_openexr() -> Any:
    """Return the module that reads and writes the files. Raises MissingExtraError where it is absent."""
    try:
        import OpenEXR
    except ImportError as error:
        raise MissingExtraError("hdr", "OpenEXR files") from error
    return OpenEXR


def check_exr(hdr: Hdr | None) -> None:
    """Raise MissingExtraError where no EXR can be written, MediaError for a colour space that is unknown."""
    require_openexr()
    if hdr is not None:
        check_space(hdr.space, hdr.ocio)


def write_exr(
    path: Path, light: Light, *, curve: str, hdr: Hdr, fps: Fraction | None = None, comment: str = ""
) -> None:
    """Write light (H, W, 3) of BT.709 as 16-bit floating point, ZIP-compressed.

    curve: "linear", or "logc3" for codes instead of light. hdr: the colour space of linear files. comment:
    ASCII, kept in the header. Light beyond what the format holds is cut.
    """
    openexr = require_openexr()
    space = None if curve == LOGC3 else hdr.space
    values = to_logc3(light) if curve == LOGC3 else in_space(light, space, hdr.ocio)
    header: dict[str, Any] = {
        "compression": openexr.ZIP_COMPRESSION,
        "type": openexr.scanlineimage,
    }
    primaries = _primaries_of(hdr, space)
    if primaries is not None:
        header["chromaticities"] = tuple(
            float(x) for pair in (*CHROMATICITIES[primaries], _white(primaries)) for x in pair
        )
    if curve == LOGC3:
        header[CURVE] = LOGC3
    if space is not None:
        header[SPACE] = space
    if fps is not None:
        header[RATE] = fps
    if comment:
        header[COMMENT] = comment
    half = np.clip(values, -LARGEST, LARGEST).astype(np.float16)
    with _errors(path):
        openexr.File(header, {"RGB": np.ascontiguousarray(half)}).write(str(path))


def read_header(path: Path) -> ExrHeader:
    """Return what a file's header says. Raises MediaError for a damaged one, or one that is not read here."""
    openexr = require_openexr()
    with _errors(path):
        found = openexr.File(str(path), header_only=True).header()
    left_top, right_bottom = (np.asarray(corner) for corner in found["displayWindow"])
    width, height = (int(side) for side in right_bottom - left_top + 1)
    if not 0 < width * height <= MAX_PIXELS:
        raise MediaError(
            f"{path} would be {width}x{height}; pictures of at most {MAX_PIXELS:,} pixels are read"
        )
    rate = found.get(RATE)
    return ExrHeader(
        width,
        height,
        float(rate) if isinstance(rate, Fraction) else None,
        _known_primaries(path, found.get("chromaticities")),
        found.get(CURVE),
        found.get(SPACE),
        str(found.get(COMMENT, "")),
    )


def read_exr(path: Path) -> Light:
    """Return the light (H, W, 3) of a picture, BT.709, without transparency; below 0 it is cut.

    Raises MediaError for a file that is damaged, holds no colours, values that are not numbers, or a colour
    space that is not known.
    """
    openexr, header = require_openexr(), read_header(path)
    if header.space is not None and header.space != ACESCG:
        raise MediaError(
            f"{path} is in the colour space {header.space!r}, which is not read back; give linear BT.709"
        )
    with _errors(path):
        part = openexr.File(str(path)).parts[0]
        values = _placed(path, part, header)
    if not np.isfinite(values).all():
        count = int(values.size - np.isfinite(values).sum())
        raise MediaError(f"{path} has {count} values that are not numbers (NaN or infinity); mend it first")
    if header.curve == LOGC3:
        return from_logc3(values)
    if header.primaries == "ap1":
        return from_acescg(values)
    if header.primaries != "bt709":
        values = values @ matrix_between(header.primaries, "bt709").T
    return np.maximum(values, 0)


def _placed(path: Path, part: Any, header: ExrHeader) -> Light:
    """Return the pixels of a part (H, W, 3) within the window that is shown; black where there are none."""
    colours = _colours(path, part.channels)
    (left, top), _ = (np.asarray(corner) for corner in part.header["dataWindow"])
    (shown_left, shown_top), _ = (np.asarray(corner) for corner in part.header["displayWindow"])
    left, top = int(left - shown_left), int(top - shown_top)
    if (left, top) == (0, 0) and colours.shape[:2] == (header.height, header.width):
        return colours
    whole = np.zeros((header.height, header.width, 3), np.float32)
    inner = colours[max(0, -top) : header.height - top, max(0, -left) : header.width - left]
    top, left = max(0, top), max(0, left)
    whole[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
    return whole


def _colours(path: Path, channels: Any) -> Light:
    for name in ("RGBA", "RGB"):
        if name in channels:
            return np.asarray(channels[name].pixels[..., :3], np.float32)
    if "Y" in channels:
        return np.repeat(np.asarray(channels["Y"].pixels, np.float32)[..., None], 3, axis=-1)
    raise MediaError(f"{path} has the channels {', '.join(channels)}; give one with R, G and B")


def _primaries_of(hdr: Hdr, space: str | None) -> str | None:
    """Return the primaries of what is written, None for those of a config's space, which has its own name."""
    if space is None:
        return "bt709"
    return "ap1" if hdr.ocio is None else None


def _known_primaries(path: Path, stored: Any) -> str:
    """Return the name of a header's primaries; without any they are BT.709's."""
    if stored is None:
        return "bt709"
    values: NDArray[np.float32] = np.asarray(stored, np.float32)
    for name, corners in CHROMATICITIES.items():
        if np.abs(values - np.array([*corners, _white(name)]).ravel()).max() < SAME:
            return name
    told = " ".join(f"{value:.4g}" for value in values)
    raise MediaError(
        f"{path} has primaries that are not known ({told}); convert it to linear BT.709 or ACEScg"
    )


def _white(primaries: str) -> tuple[float, float]:
    return ACES_WHITE if primaries == "ap1" else D65


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    """Raise the library's errors as ours; MediaError passes."""
    try:
        yield
    except MediaError:
        raise
    except OSError:
        raise
    except Exception as error:
        raise MediaError(
            f"{path} cannot be used as OpenEXR ({' '.join(str(error).split())[:200]})"
        ) from error
