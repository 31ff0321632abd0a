"""Read how long each frame of an animated picture is shown, from the file's structure without decoding.

Each function returns how many pictures of the file come before the first frame, and the seconds of every
frame; none for a still. A file that is cut short gives the frames that begin before its end.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

Durations = tuple[int, list[Fraction]]
GIF_EXTENSION, GIF_IMAGE, GIF_END, GIF_CONTROL = 0x21, 0x2C, 0x3B, 0xF9


def gif_durations(path: Path) -> Durations:
    """Source: GIF89a, section 23 (hundredths of a second in the graphic control extension)."""
    found: list[Fraction] = []
    delay = Fraction(0)
    with _mapped(path) as data:
        try:
            at = 13 + _gif_table_bytes(data[10])
            while data[at] != GIF_END:
                if data[at] == GIF_EXTENSION:
                    if data[at + 1] == GIF_CONTROL:
                        delay = Fraction(int.from_bytes(data[at + 4 : at + 6], "little"), 100)
                    at = _after_blocks(data, at + 2)
                elif data[at] == GIF_IMAGE:
                    found.append(delay)
                    delay = Fraction(0)
                    at = _after_blocks(data, at + 10 + _gif_table_bytes(data[at + 9]) + 1)
                else:
                    at += 1
        except IndexError:
            pass  # cut short
    return 0, found


def png_durations(path: Path) -> Durations:
    """Source: APNG (fcTL chunks; a picture before the first of them is for viewers without animation)."""
    found: list[Fraction] = []
    animated, skipped = False, 0
    with _mapped(path) as data:
        for kind, at, _ in _chunks(data, 8, ">I4s", 4):
            animated |= kind == b"acTL"
            if kind == b"IDAT" and not animated:
                break
            if kind == b"IDAT" and not found:
                skipped = 1
            elif kind == b"fcTL" and at + 24 <= len(data):
                part, whole = struct.unpack_from(">HH", data, at + 20)
                found.append(Fraction(part, whole or 100))
    return skipped, found if animated else []


def webp_durations(path: Path) -> Durations:
    """Source: the WebP container (milliseconds in 24 bits of every ANMF chunk)."""
    with _mapped(path) as data:
        return 0, [
            Fraction(int.from_bytes(data[at + 12 : at + 15], "little"), 1000)
            for kind, at, _ in _chunks(data, 12, "<4sI", 0)
            if kind == b"ANMF"
        ]


def avif_durations(path: Path) -> Durations:
    """Ask Pillow, which decodes the frames for it."""
    from PIL import Image

    found: list[Fraction] = []
    with Image.open(path, formats=["AVIF"]) as picture:
        count = getattr(picture, "n_frames", 1)
        for index in range(count if count > 1 else 0):
            picture.seek(index)
            picture.load()
            found.append(Fraction(round(picture.info.get("duration", 0)), 1000))
    return 0, found


# By Pillow's name of the format.
FRAME_DURATIONS: dict[str, Callable[[Path], Durations]] = {
    "GIF": gif_durations,
    "PNG": png_durations,
    "WEBP": webp_durations,
    "AVIF": avif_durations,
}


def _gif_table_bytes(flags: int) -> int:
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def _after_blocks(data: mmap.mmap, at: int) -> int:
    """Return where a GIF's row of sub-blocks ends, each led by its length and the last of length 0."""
    while data[at]:
        at += data[at] + 1
    return at + 1


def _chunks(data: mmap.mmap, at: int, head: str, tail: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, place and length of the chunks of a PNG (each with a checksum behind it) or RIFF file."""
    while at + 8 <= len(data):
        first, second = struct.unpack_from(head, data, at)
        kind, length = (first, second) if isinstance(first, bytes) else (second, first)
        yield kind, at + 8, length
        at += 8 + length + (tail or length % 2)


@contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap]:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        yield data
