"""Inputs of a request as arrays: pictures, stretches of clips, sounds.

Source of the preprocessing: spec of the LTX-2.3 pipelines, section 4.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from soundstage.errors import MediaError
from soundstage.inputs import File, InMemory
from soundstage.media.picture import is_picture, picture_frames, picture_info
from soundstage.media.read import opened, stereo

Frames = NDArray[np.uint8]
Waveform = NDArray[np.float32]


def load_frames(file: File, indices: Sequence[int]) -> Frames:
    """Those frames of a clip or picture, (F, H, W, 3). Decodes no further than the last of them.

    Raises MediaError for a file that cannot be read or is shorter.
    """
    if isinstance(file, InMemory):
        if file.frames is None:
            raise MediaError("the array holds no picture; pass frames (F, H, W, 3)")
        return file.frames[list(indices)]
    path = Path(file)
    if is_picture(path):
        fps = picture_info(path).fps
        return np.stack(list(picture_frames(path, [i / fps if fps else 0.0 for i in indices])))
    wanted, last = set(indices), max(indices)
    found: dict[int, Frames] = {}
    with opened(path) as container:
        for i, frame in enumerate(container.decode(video=0)):
            if i in wanted:
                found[i] = frame.to_ndarray(format="rgb24")
            if i >= last:
                break
    if len(found) < len(wanted):
        raise MediaError(
            f"{path} has only {len(found)} of the {len(wanted)} frames asked for; is it complete?"
        )
    return np.stack([found[i] for i in indices])


def load_sound(file: File, start_s: float = 0.0, length_s: float | None = None) -> tuple[Waveform, int]:
    """(2, n) samples from start_s on, at most length_s of them, and their rate in Hz.

    Raises MediaError for a file without sound, and for one that ends before start_s.
    """
    waveform, rate = _sound(file)
    first = round(start_s * rate)
    end = None if length_s is None else first + round(length_s * rate)
    piece = waveform[:, first:end]
    if piece.shape[1] == 0:
        raise MediaError(
            f"{file} lasts {waveform.shape[1] / rate:.4g} s, so nothing is left from {start_s:g} s on"
        )
    return piece, rate


def _sound(file: File) -> tuple[Waveform, int]:
    if isinstance(file, InMemory):
        if file.waveform is None:
            raise MediaError("the array holds no sound; pass samples (channels, n)")
        pair = file.waveform if file.waveform.shape[0] == 2 else np.repeat(file.waveform[:1], 2, axis=0)
        return pair, file.sample_rate_hz
    with opened(Path(file)) as container:
        if not container.streams.audio:
            raise MediaError(f"{file} holds no sound; give a file that does")
        stream = container.streams.audio[0]
        frames = list(container.decode(stream))
        if not frames:
            raise MediaError(f"{file} holds a sound stream without samples; is it complete?")
        return stereo(frames), int(stream.rate)


def compress(picture: Frames, crf: int) -> Frames:
    """A picture (H, W, 3) after one frame of H.264, which the model's pictures were trained with.

    crf: 0 (returned as it is) to 51. Sides are cut to even ones.
    """
    height, width = (side // 2 * 2 for side in picture.shape[:2])
    if crf == 0 or min(height, width) < 2:
        return picture
    import av

    stored = io.BytesIO()
    with av.open(stored, "w", format="mp4") as container:
        options = {"crf": str(crf), "preset": "veryfast"}
        stream = container.add_stream("libx264", rate=Fraction(1), options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[:height, :width]), format="rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    stored.seek(0)
    with av.open(stored) as container:
        decoded: Frames = next(container.decode(video=0)).to_ndarray(format="rgb24")
    return decoded
