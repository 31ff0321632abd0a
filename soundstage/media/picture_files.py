"""Write frames as GIF, WebP, PNG or JPEG through Pillow, each file whole and with its provenance."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from soundstage.errors import MediaError
from soundstage.files import whole_file
from soundstage.media.arrays import Frames
from soundstage.media.formats import Output
from soundstage.media.picture import COMMENT_KEYS, IMAGE_DESCRIPTION

if TYPE_CHECKING:
    from PIL import Image

MAX_GIF_FPS = 50  # browsers show a frame of one hundredth of a second for ten
TICKS_PER_S = {"GIF": 100, "WEBP": 1000}
MAX_JPEG_COMMENT = 65_000  # bytes; a JPEG's comment has a length of 16 bits


def write_pictures(
    output: Output, frames: Frames, fps: float, *, comment: str, overwrite: bool = True
) -> None:
    """Write frames (F, H, W, 3) as one animation, or each as a picture of its own.

    comment: ASCII, put into every file; a JPEG leaves out one over 65 kB. A GIF shows at most 50 frames per
    second, of a faster clip every second one or fewer. Raises MediaError for a file that cannot be written.
    """
    kind = output.format.container
    if output.numbered or len(frames) == 1:
        for path, frame in zip(output.names(len(frames)), frames, strict=True):
            _save(path, output, [frame], comment, overwrite)
        return
    step = math.ceil(fps / MAX_GIF_FPS) if kind == "GIF" else 1
    shown = frames[::step]
    durations = _durations_ms(len(shown), fps / step, TICKS_PER_S[kind])
    _save(output.path, output, shown, comment, overwrite, save_all=True, duration=durations, loop=0)


def save_picture(path: Path, picture: Image.Image, *, overwrite: bool = True) -> None:
    """Write a PIL picture as PNG. Raises MediaError for a file that cannot be written."""
    with whole_file(path, overwrite=overwrite) as part:
        picture.save(part, format="PNG")


def _save(
    path: Path,
    output: Output,
    frames: Frames | list[NDArray[np.uint8]],
    comment: str,
    overwrite: bool,
    **animated: Any,
) -> None:
    kind = output.format.container
    options = {**_quality(output), **_comment(kind, comment), **animated}
    pictures = _pictures(output, frames)
    first = next(pictures)
    if animated:
        options["append_images"] = pictures
    with whole_file(path, overwrite=overwrite) as part:
        try:
            first.save(part, format=kind, **options)
        except ValueError as error:
            raise MediaError(f"cannot encode {path} ({error})") from error


def _pictures(output: Output, frames: Frames | list[NDArray[np.uint8]]) -> Iterator[Image.Image]:
    """Yield PIL pictures; those of a GIF each have a palette of their own."""
    from PIL import Image

    for frame in frames:
        picture = Image.fromarray(np.ascontiguousarray(frame))
        is_gif = output.format.container == "GIF"
        yield picture.quantize(output.codec.figure(output.quality)) if is_gif else picture


def _durations_ms(num_frames: int, fps: float, ticks_per_s: int) -> list[int]:
    """Return each frame's time in the container's ticks, so that the sum does not drift."""
    starts = [round(i * ticks_per_s / fps) for i in range(num_frames + 1)]
    return [(end - start) * 1000 // ticks_per_s for start, end in itertools.pairwise(starts)]


def _quality(output: Output) -> dict[str, Any]:
    kind = output.format.container
    if kind not in ("WEBP", "JPEG"):
        return {}
    quality = output.codec.figure(output.quality)
    return (
        {"quality": quality, "subsampling": 0} if kind == "JPEG" and quality >= 90 else {"quality": quality}
    )


def _comment(kind: str, comment: str) -> dict[str, Any]:
    """Return what Pillow takes to store a comment."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    if kind == "PNG":
        told = PngInfo()
        told.add_text(COMMENT_KEYS[0], comment)
        return {"pnginfo": told}
    if kind == "WEBP":
        exif = Image.Exif()
        exif[IMAGE_DESCRIPTION] = comment
        return {"exif": exif}
    if kind == "JPEG" and len(comment) > MAX_JPEG_COMMENT:
        return {}
    return {"comment": comment.encode("ascii")}
