"""Write frames as GIF, WebP, PNG or JPEG through Pillow, each file whole and with its provenance."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from soundstage.errors import MediaError
from soundstage.files import whole_file
from soundstage.media.arrays import Light, Pixels
from soundstage.media.clip_pieces import ClipPieces, frame_rate
from soundstage.media.formats import Output
from soundstage.media.gif import write_gif
from soundstage.media.hdr import Hdr, light_of, shown
from soundstage.media.picture import COMMENT_KEYS, IMAGE_DESCRIPTION

if TYPE_CHECKING:
    from PIL import Image

MAX_GIF_FPS = 50  # browsers show a frame of one hundredth of a second for ten
TICKS_PER_S = {"GIF": 100, "WEBP": 1000}
MAX_JPEG_COMMENT = 65_000  # bytes; a JPEG's comment has a length of 16 bits


def write_pictures(output: Output, pieces: ClipPieces, *, comment: str, overwrite: bool = True) -> None:
    """Write frames as one animation, or each as a picture of its own.

    comment: ASCII, put into every file; a JPEG leaves out one over 65 kB. A GIF shows at most 50 frames per
    second, of a faster clip every second one or fewer. Raises MediaError for a file that cannot be written;
    numbered pictures that were made until then are removed.
    """
    assert pieces.frames is not None
    if output.numbered or pieces.num_frames == 1:
        _write_each(output, pieces, comment, overwrite)
        return
    step = frame_step(output, pieces.fps)
    frames = (shown(frame, output.hdr or Hdr()) for frame in itertools.islice(pieces.frames, 0, None, step))
    kind = output.format.container
    num_shown = len(range(0, pieces.num_frames, step))
    durations = _durations_ms(num_shown, pieces.fps / step, TICKS_PER_S[kind])
    with whole_file(output.path, overwrite=overwrite) as part, _pillow_errors(output.path):
        if kind == "GIF":
            colours = output.codec.figure(output.quality)
            with part.open("wb") as file:
                write_gif(file, frames, durations, size=pieces.size, comment=comment, colours=colours)
        else:
            _save(part, output, frames, comment, save_all=True, duration=durations, loop=0)


def frame_step(output: Output, fps: float) -> int:
    """Return how many frames of a clip come to one of the file: 2 for a GIF of a clip of 60 fps."""
    return math.ceil(fps / MAX_GIF_FPS) if output.format.container == "GIF" else 1


def _write_each(output: Output, pieces: ClipPieces, comment: str, overwrite: bool) -> None:
    """Write each frame as a picture. What ends this early removes those that were not there before."""
    assert pieces.frames is not None
    made: list[Path] = []
    try:
        for path, frame in zip(output.names(pieces.num_frames), pieces.frames, strict=True):
            new = not os.path.lexists(path) or path.stat().st_size == 0
            with whole_file(path, overwrite=overwrite) as part, _pillow_errors(path):
                if output.format.container == "EXR":
                    _save_exr(part, output, frame, pieces, comment)
                else:
                    _save(part, output, iter([frame]), comment)
            made += [path] if new else []
    except BaseException:
        for path in made:
            with contextlib.suppress(OSError):
                path.unlink()
        raise


def _save_exr(part: Path, output: Output, frame: Pixels | Light, pieces: ClipPieces, comment: str) -> None:
    from soundstage.media.exr import write_exr

    rate = frame_rate(pieces.fps) if output.numbered else None
    curve, hdr = output.codec.light, output.hdr or Hdr()
    write_exr(part, light_of(frame), curve=curve, hdr=hdr, fps=rate, comment=comment)


def save_picture(path: Path, picture: Image.Image, *, comment: str = "", overwrite: bool = True) -> None:
    """Write a PIL picture as PNG. Raises MediaError for a file that cannot be written."""
    told = _comment("PNG", comment) if comment else {}
    with whole_file(path, overwrite=overwrite) as part:
        picture.save(part, format="PNG", **told)


def _save(
    part: Path, output: Output, frames: Iterator[Pixels | Light], comment: str, **animated: Any
) -> None:
    kind = output.format.container
    options = {**_quality(output), **_comment(kind, comment), **animated}
    pictures = _pictures(output, frames)
    first = next(pictures)
    if animated:
        options["append_images"] = pictures
    first.save(part, format=kind, **options)


@contextmanager
def _pillow_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise MediaError(f"cannot encode {path} ({error})") from error


def _pictures(output: Output, frames: Iterator[Pixels | Light]) -> Iterator[Image.Image]:
    """Yield PIL pictures; a GIF has a palette."""
    from PIL import Image

    for frame in frames:
        picture = Image.fromarray(np.ascontiguousarray(shown(frame, output.hdr or Hdr())))
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

    if not comment or (kind == "JPEG" and len(comment) > MAX_JPEG_COMMENT):
        return {}
    if kind == "PNG":
        told = PngInfo()
        told.add_text(COMMENT_KEYS[0], comment)
        return {"pnginfo": told}
    if kind == "WEBP":
        exif = Image.Exif()
        exif[IMAGE_DESCRIPTION] = comment
        return {"exif": exif}
    return {"comment": comment.encode("ascii")}
