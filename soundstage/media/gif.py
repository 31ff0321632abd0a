"""Write a GIF frame by frame, so that memory does not grow with its length; Pillow would hold all frames."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import IO

import numpy as np

from soundstage.media.arrays import Pixels

FOREVER = b"!\xff\x0bNETSCAPE2.0\x03\x01\0\0\0"
COMMENT, END = b"!\xfe", b";"
BLOCK = 255  # bytes at most


def write_gif(
    file: IO[bytes],
    frames: Iterable[Pixels],
    durations_ms: Iterable[int],
    *,
    size: tuple[int, int],
    comment: str,
    colours: int,
) -> None:
    """Write an animation that repeats. Each frame has its own palette, and holds only what has changed.

    durations_ms: how long each frame is shown, in multiples of 10. comment: ASCII. colours: 2 to 256.
    """
    file.write(b"GIF89a" + b"".join(side.to_bytes(2, "little") for side in size) + b"\0\0\0" + FOREVER)
    if comment:
        file.write(COMMENT + b"".join(_blocks(comment.encode("ascii"))) + b"\0")
    for block in _frame_blocks(frames, durations_ms, colours):
        file.write(block)
    file.write(END)


def _blocks(data: bytes) -> Iterator[bytes]:
    for first in range(0, len(data), BLOCK):
        part = data[first : first + BLOCK]
        yield bytes([len(part)]) + part


def _frame_blocks(frames: Iterable[Pixels], durations_ms: Iterable[int], colours: int) -> Iterator[bytes]:
    """Yield the bytes of each frame; one like that before it makes that one longer."""
    from PIL import Image
    from PIL.GifImagePlugin import getdata

    held: Image.Image | None = None
    shown: Pixels | None = None
    left = top = length_ms = 0
    for frame, duration_ms in zip(frames, durations_ms, strict=True):
        picture = Image.fromarray(np.ascontiguousarray(frame)).quantize(colours)
        now = np.asarray(picture.convert("RGB"))
        box = _changed(shown, now)
        if box is None:
            length_ms += duration_ms
            continue
        if held is not None:
            yield from getdata(held, (left, top), duration=length_ms, include_color_table=True)
        left, top = box[:2]
        held, shown, length_ms = picture.crop(box), now, duration_ms
    if held is not None:
        yield from getdata(held, (left, top), duration=length_ms, include_color_table=True)


def _changed(before: Pixels | None, now: Pixels) -> tuple[int, int, int, int] | None:
    """Return the left, top, right and bottom of what differs; None where nothing does."""
    if before is None:
        return 0, 0, now.shape[1], now.shape[0]
    differs = (before != now).any(axis=2)
    rows, columns = np.flatnonzero(differs.any(axis=1)), np.flatnonzero(differs.any(axis=0))
    if len(rows) == 0:
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
