"""Inputs of a request as arrays: pictures, stretches of clips, sounds.

Source: docs/model/conditioning.md, "Preparing pictures and clips".
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from soundstage.errors import MediaError
from soundstage.media.arrays import Frames, Light, Pixels, Waveform
from soundstage.media.exr_sequence import exr_frames, is_exr_clip
from soundstage.media.hdr import Hdr, shown
from soundstage.media.in_memory import File, InMemory
from soundstage.media.picture import is_picture, picture_frames
from soundstage.model.channels import stereo_gains
from soundstage.types import JUST_UNDER_HALF


def frames_shown(
    file: File, times_s: Sequence[float], own_fps: float = 24.0, at_least: tuple[int, int] | None = None
) -> Iterator[Pixels]:
    """Yield the frame (H, W, 3) that a clip or picture shows at each of these seconds, one by one.

    own_fps: rate of an array that states none. at_least: width and height that are enough; frames that
    are costly to convert may come smaller than they are, but no smaller than that. Only what is asked for is
    decoded and held. Raises MediaError for a file that cannot be read, or is shorter.
    """
    plain = Hdr()
    for frame in light_shown(file, times_s, own_fps, at_least, high=False):
        yield shown(frame, plain)


def light_shown(
    file: File,
    times_s: Sequence[float],
    own_fps: float = 24.0,
    at_least: tuple[int, int] | None = None,
    *,
    high: bool = True,
) -> Iterator[Pixels | Light]:
    """Yield what `frames_shown` does; frames of high dynamic range as light (H, W, 3).

    high: False is for OpenEXR alone: films of high dynamic range are then tone-mapped, and arrays in 8 bits.
    """
    if isinstance(file, InMemory):
        yield from _array_frames(file, times_s, own_fps, high)
    elif is_exr_clip(Path(file)):
        yield from exr_frames(Path(file), times_s)
    elif is_picture(Path(file)):
        yield from picture_frames(Path(file), times_s)
    else:
        from soundstage.media.video import video_frames

        yield from video_frames(Path(file), times_s, at_least, light=high)


def _array_frames(
    file: InMemory, times_s: Sequence[float], own_fps: float, high: bool
) -> Iterator[Pixels | Light]:
    if file.frames is None:
        raise MediaError("the array holds no picture; pass frames (F, H, W, 3)")
    fps = file.fps or own_fps
    for time_s in times_s:
        index = math.floor(time_s * fps + JUST_UNDER_HALF)
        if index >= len(file.frames) and len(file.frames) > 1:
            raise MediaError(
                f"the array ({file}) ends at {len(file.frames) / fps:.4g} s, and the picture at "
                f"{time_s:.4g} s was asked for; give an earlier one"
            )
        held = min(max(index, 0), len(file.frames) - 1)
        if high and file.light is not None:
            yield file.light[held].astype(np.float32)
        else:
            yield file.frames[held]


def load_sound(file: File, start_s: float = 0.0, length_s: float | None = None) -> tuple[Waveform, int]:
    """Return (2, n) samples from start_s on, at most length_s of them, and their rate in Hz.

    Raises MediaError for a file without sound, and for one that ends before start_s.
    """
    if not isinstance(file, InMemory):
        from soundstage.media.sound import sound_samples

        return sound_samples(Path(file), start_s, length_s)
    if file.waveform is None:
        raise MediaError("the array holds no sound; pass samples (channels, n)")
    rate = file.sample_rate_hz
    first = round(start_s * rate)
    piece = file.waveform[:, first : None if length_s is None else first + round(length_s * rate)]
    if piece.shape[1] == 0:
        raise MediaError(
            f"{file} lasts {file.waveform.shape[1] / rate:.4g} s, so nothing is left from {start_s:g} s on"
        )
    if len(piece) == 2:
        return piece, rate
    return np.array(stereo_gains(len(piece)), np.float32) @ piece, rate


def compress(picture: Frames, crf: int) -> Frames:
    """Return a picture (H, W, 3) after compression as one frame of H.264, as in the model's training.

    crf: 0 (returned as it is) to 51. Sides are cut to even ones.
    """
    height, width = (side // 2 * 2 for side in picture.shape[:2])
    if crf == 0 or min(height, width) < 2:
        return picture
    import av

    stored = io.BytesIO()
    with av.open(stored, "w", format="mp4") as container:
        options = {"crf": str(crf), "preset": "veryfast"}
        track = container.add_stream("libx264", rate=Fraction(1), options=options)
        track.width, track.height, track.pix_fmt = width, height, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[:height, :width]), format="rgb24")
        container.mux(track.encode(frame))
        container.mux(track.encode(None))
    stored.seek(0)
    with av.open(stored) as container:
        decoded: Frames = next(container.decode(video=0)).to_ndarray(format="rgb24")
    return decoded
