"""Write a clip as MP4 (H.264 and AAC) or its sound as WAV, with metadata, all or nothing."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from soundstage.errors import MediaError
from soundstage.files import whole_file
from soundstage.media.arrays import Frames, Waveform

if TYPE_CHECKING:
    import av

CRF = 19  # near-transparent H.264
PRESET = "veryfast"
# Below this FFmpeg's AAC encoder breaks up pure tones: a 440 Hz sine of 0.5 comes back with errors up to
# 0.40 at 128 kb/s, 0.39 at 256 and 0.013 at 320.
AUDIO_BITS_PER_S = 320_000
BT709 = 1  # FFmpeg's number for primaries, transfer and matrix alike
LIMITED_RANGE = 1
NTSC = Fraction(1000, 1001)


def frame_rate(fps: float) -> Fraction:
    """Return the exact rate a container stores: 24 -> 24, 23.976 -> 24000/1001, 12.5 -> 25/2."""
    ntsc = round(fps / NTSC) * NTSC
    if fps != round(fps) and abs(float(ntsc) - fps) < 1e-3:
        return ntsc
    return Fraction(fps).limit_denominator(1001)


def fit_audio(waveform: Waveform, num_samples: int) -> Waveform:
    """Pad samples (2, n) with silence, or cut them at the end, to (2, num_samples)."""
    if waveform.shape[1] >= num_samples:
        return waveform[:, :num_samples]
    return np.pad(waveform, ((0, 0), (0, num_samples - waveform.shape[1])))


def write_mp4(
    path: Path,
    frames: Frames,
    fps: float,
    *,
    waveform: Waveform | None = None,
    sample_rate_hz: int = 48_000,
    metadata: Mapping[str, str] | None = None,
    overwrite: bool = True,
) -> None:
    """Write frames (F, H, W, 3) RGB with even sides, and a waveform (2, n) fitted to F / fps seconds.

    waveform: in [-1, 1]. metadata: container tags such as "title" and "comment". The index is at the front,
    for streaming. overwrite: see `whole_file`. Raises MediaError for shapes that do not fit, samples that are
    not finite, or a file that cannot be written.
    """
    import av

    _check_frames(frames)
    rate = frame_rate(fps)
    if waveform is not None:
        _check_waveform(waveform)
        waveform = fit_audio(waveform, round(len(frames) * sample_rate_hz / rate))
    with whole_file(path, overwrite=overwrite) as part, _av_errors(path):
        options = {"movflags": "+faststart"}
        with av.open(file_url(part), "w", format="mp4", options=options) as container:
            container.metadata.update(_tags(metadata))
            video = _video_track(container, frames, rate)
            audio = None if waveform is None else container.add_stream("aac", rate=sample_rate_hz)
            if audio is not None:
                audio.layout, audio.bit_rate = "stereo", AUDIO_BITS_PER_S
            for i, frame in enumerate(frames):
                container.mux(video.encode(_picture(frame, i, rate)))
            container.mux(video.encode(None))
            if audio is not None and waveform is not None:
                container.mux(audio.encode(_sound(waveform, sample_rate_hz, "fltp")))
                container.mux(audio.encode(None))


def write_wav(
    path: Path,
    waveform: Waveform,
    *,
    sample_rate_hz: int = 48_000,
    metadata: Mapping[str, str] | None = None,
    overwrite: bool = True,
) -> None:
    """Write 16-bit stereo. waveform: (2, n), clipped to [-1, 1]. Raises MediaError as `write_mp4`."""
    import av

    _check_waveform(waveform)
    samples = (np.clip(waveform, -1, 1) * 32767).astype(np.int16)  # truncates, as the reference does
    with (
        whole_file(path, overwrite=overwrite) as part,
        _av_errors(path),
        av.open(file_url(part), "w", format="wav") as container,
    ):
        container.metadata.update(_tags(metadata))
        track = container.add_stream("pcm_s16le", rate=sample_rate_hz)
        track.layout = "stereo"
        container.mux(track.encode(_sound(samples.T.reshape(1, -1), sample_rate_hz, "s16")))
        container.mux(track.encode(None))


def file_url(path: Path) -> str:
    """Return a file's name as FFmpeg takes it; 'concat:a' alone would be no file to it."""
    return f"file:{os.path.abspath(path)}"


def _tags(metadata: Mapping[str, str] | None) -> dict[str, str]:
    """Metadata that a container can hold: UTF-8 without zero bytes, what is neither marked by U+FFFD."""
    return {
        key: re.sub("[\0\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", value)
        for key, value in (metadata or {}).items()
    }


def _video_track(container: Any, frames: Frames, rate: Fraction) -> Any:
    track = container.add_stream("libx264", rate=rate, options={"crf": str(CRF), "preset": PRESET})
    track.height, track.width = frames.shape[1:3]
    track.pix_fmt = "yuv420p"
    context = track.codec_context
    context.color_primaries = context.color_trc = context.colorspace = BT709
    context.color_range = LIMITED_RANGE
    return track


def _picture(frame: NDArray[np.uint8], index: int, rate: Fraction) -> av.VideoFrame:
    import av

    rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
    picture = rgb.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
    picture.pts, picture.time_base = index, 1 / rate
    return picture


def _sound(samples: NDArray[Any], sample_rate_hz: int, layout: str) -> av.AudioFrame:
    import av

    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format=layout, layout="stereo")
    frame.sample_rate, frame.pts = sample_rate_hz, 0
    return frame


def _check_frames(frames: Frames) -> None:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or len(frames) == 0:
        raise MediaError(f"frames are {frames.dtype} {frames.shape}; pass uint8 (F, H, W, 3) with F >= 1")
    if frames.shape[1] % 2 or frames.shape[2] % 2:
        raise MediaError(f"frames are {frames.shape[2]}x{frames.shape[1]}; H.264 needs even sides")


def _check_waveform(waveform: Waveform) -> None:
    if waveform.ndim != 2 or waveform.shape[0] != 2:
        raise MediaError(f"the waveform has shape {waveform.shape}; pass stereo, (2, samples)")
    bad = waveform.size - int(np.isfinite(waveform).sum())
    if bad:
        raise MediaError(
            f"the waveform has {bad} samples that are NaN or infinite, so the audio decoder went wrong; "
            "run it in float32"
        )


@contextmanager
def _av_errors(path: Path) -> Iterator[None]:
    """FFmpeg's errors as ours; those that are also OSError are left to `whole_file`."""
    import av

    try:
        yield
    except av.FFmpegError as error:
        if isinstance(error, OSError):
            raise
        raise MediaError(f"cannot encode {path} ({error})") from error
