"""Write films and sounds through PyAV, with metadata, all or nothing."""

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
from soundstage.media.formats import Codec, Output

if TYPE_CHECKING:
    import av

BT709 = 1  # FFmpeg's number for primaries, transfer and matrix alike
LIMITED_RANGE = 1
NTSC = Fraction(1000, 1001)
FAST_START = ("mp4", "mov", "ipod")  # containers whose index can be put in front
# Rates that an encoder takes, the one for all others first.
SOUND_RATES_HZ = {
    "libopus": (48_000, 24_000, 16_000),
    "libmp3lame": (48_000, 44_100, 32_000, 24_000, 22_050, 16_000),
    "aac": (48_000, 96_000, 88_200, 64_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000),
}


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


def write_film(
    output: Output,
    frames: Frames,
    fps: float,
    *,
    waveform: Waveform | None = None,
    sample_rate_hz: int = 48_000,
    metadata: Mapping[str, str] | None = None,
    overwrite: bool = True,
) -> None:
    """Write frames (F, H, W, 3) RGB with even sides, and a waveform (2, n) fitted to F / fps seconds.

    waveform: in [-1, 1]. metadata: container tags such as "title" and "comment". The index is at the front of
    an MP4, for streaming. overwrite: see `whole_file`. Raises MediaError for shapes that do not fit, samples
    that are not finite, or a file that cannot be written.
    """
    _check_frames(frames)
    rate = frame_rate(fps)
    if waveform is not None:
        _check_waveform(waveform)
        waveform = fit_audio(waveform, round(len(frames) * sample_rate_hz / rate))
    with _container(output, metadata, overwrite) as container:
        video = _video_track(container, output, frames, rate)
        audio = None if waveform is None else _sound_track(container, output.sound, sample_rate_hz, None)
        for i, frame in enumerate(frames):
            container.mux(video.encode(_picture(frame, i, rate, output.codec.layout)))
        container.mux(video.encode(None))
        if audio is not None and waveform is not None:
            container.mux(audio.encode(_sound(waveform, sample_rate_hz, output.sound.layout)))
            container.mux(audio.encode(None))


def write_sound(
    output: Output,
    waveform: Waveform,
    *,
    sample_rate_hz: int = 48_000,
    metadata: Mapping[str, str] | None = None,
    overwrite: bool = True,
) -> None:
    """Write stereo, of 16 bits where the codec is lossless. waveform: (2, n), clipped to [-1, 1].

    Raises MediaError as `write_film`.
    """
    _check_waveform(waveform)
    with _container(output, metadata, overwrite) as container:
        track = _sound_track(container, output.codec, sample_rate_hz, output.quality)
        container.mux(track.encode(_sound(waveform, sample_rate_hz, output.codec.layout)))
        container.mux(track.encode(None))


@contextmanager
def _container(output: Output, metadata: Mapping[str, str] | None, overwrite: bool) -> Iterator[Any]:
    """Open a container to be written, all or nothing, with its tags."""
    import av

    kind = output.format.container
    options = {"movflags": "+faststart"} if kind in FAST_START else {}
    with (
        whole_file(output.path, overwrite=overwrite) as part,
        _av_errors(output.path),
        av.open(file_url(part), "w", format=kind, options=options) as container,
    ):
        container.metadata.update(_tags(metadata))
        yield container


def file_url(path: Path) -> str:
    """Return a file's name as FFmpeg takes it; 'concat:a' alone would be no file to it."""
    return f"file:{os.path.abspath(path)}"


def _tags(metadata: Mapping[str, str] | None) -> dict[str, str]:
    """Metadata that a container can hold: UTF-8 without zero bytes, what is neither marked by U+FFFD."""
    return {
        key: re.sub("[\0\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", value)
        for key, value in (metadata or {}).items()
    }


def _video_track(container: Any, output: Output, frames: Frames, rate: Fraction) -> Any:
    codec = output.codec
    options = dict(codec.options)
    if codec.lowest is not None:
        options["crf"] = str(codec.figure(output.quality))
    if codec.encoder == "libsvtav1":
        os.environ.setdefault("SVT_LOG", "1")  # it prints its settings otherwise, past FFmpeg's own log
    track = container.add_stream(codec.encoder, rate=rate, options=options)
    track.height, track.width = frames.shape[1:3]
    track.pix_fmt = codec.layout
    context = track.codec_context
    if codec.encoder == "libvpx-vp9":
        track.bit_rate = 0  # else the rate is limited to FFmpeg's default
    if codec.encoder == "libx265" and output.format.container in FAST_START:
        context.codec_tag = "hvc1"  # Apple's players know no other
    if not _is_rgb(codec.layout):
        context.color_primaries = context.color_trc = context.colorspace = BT709
        context.color_range = LIMITED_RANGE
    return track


def _sound_track(container: Any, codec: Codec, sample_rate_hz: int, quality: int | None) -> Any:
    """Add a stereo track. PyAV resamples to its rate."""
    known = SOUND_RATES_HZ.get(codec.encoder, (sample_rate_hz,))
    rate = sample_rate_hz if sample_rate_hz in known else known[0]
    track = container.add_stream(codec.encoder, rate=rate)
    track.layout = "stereo"
    if codec.lowest is not None:
        track.bit_rate = codec.figure(quality) * 1000
    return track


def _picture(frame: NDArray[np.uint8], index: int, rate: Fraction, layout: str) -> av.VideoFrame:
    import av

    rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
    if _is_rgb(layout):
        picture = rgb.reformat(format=layout)
    else:
        picture = rgb.reformat(format=layout, dst_colorspace="ITU709", dst_color_range="MPEG")
    picture.pts, picture.time_base = index, 1 / rate
    return picture


def _is_rgb(layout: str) -> bool:
    return not layout.startswith("yuv")


def _sound(waveform: Waveform, sample_rate_hz: int, layout: str) -> av.AudioFrame:
    import av

    samples: NDArray[Any] = waveform
    if layout == "s16":
        whole = (np.clip(waveform, -1, 1) * 32767).astype(np.int16)  # truncates, as the reference does
        samples = whole.T.reshape(1, -1)
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format=layout, layout="stereo")
    frame.sample_rate, frame.pts = sample_rate_hz, 0
    return frame


def _check_frames(frames: Frames) -> None:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or len(frames) == 0:
        raise MediaError(f"frames are {frames.dtype} {frames.shape}; pass uint8 (F, H, W, 3) with F >= 1")
    if frames.shape[1] % 2 or frames.shape[2] % 2:
        raise MediaError(f"frames are {frames.shape[2]}x{frames.shape[1]}; a film needs even sides")


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
