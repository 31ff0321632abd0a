"""Films and sounds with the traits of real ones, written with PyAV for tests of reading."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

SIZE = (96, 64)
RATE_HZ = 48_000
TICKS = Fraction(1, 90_000)


def grays(values: Iterable[int], size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    """Flat frames (F, H, W, 3), one of each grey."""
    return np.stack([np.full((size[1], size[0], 3), value, np.uint8) for value in values])


def gray_of(frames: NDArray[np.uint8]) -> list[int]:
    """The grey in the middle of each frame."""
    return [int(frame[frame.shape[0] // 2, frame.shape[1] // 2].mean().round()) for frame in frames]


def corners(size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    """One frame (1, H, W, 3): top left red, top right green, bottom left blue, bottom right white."""
    width, height = size
    frame = np.full((height, width, 3), 230, np.uint8)
    frame[: height // 2, : width // 2] = (220, 20, 20)
    frame[: height // 2, width // 2 :] = (20, 200, 20)
    frame[height // 2 :, : width // 2] = (20, 20, 220)
    return frame[None]


def tone(
    length_s: float, rate_hz: int = RATE_HZ, channels: int = 2, level: float = 0.5
) -> NDArray[np.float32]:
    time = np.arange(round(length_s * rate_hz)) / rate_hz
    return np.tile((level * np.sin(2 * np.pi * 440 * time)).astype(np.float32), (channels, 1))


def click(at_s: float, length_s: float, rate_hz: int = RATE_HZ) -> NDArray[np.float32]:
    """Silence but for 20 ms of 1 kHz."""
    wave = np.zeros((2, round(length_s * rate_hz)), np.float32)
    first = round(at_s * rate_hz)
    wave[:, first : first + rate_hz // 50] = 0.8 * np.sin(
        2 * np.pi * 1000 * np.arange(rate_hz // 50) / rate_hz
    )
    return wave


def click_time(wave: NDArray[np.float32], rate_hz: int) -> float:
    return float(np.flatnonzero(np.abs(wave).max(axis=0) > 0.2)[0] / rate_hz)


def write_film(
    path: Path | io.BytesIO,
    frames: NDArray[Any] | None = None,
    fps: float = 24,
    *,
    size: tuple[int, int] | None = None,
    times_s: Sequence[float] | None = None,
    start_s: float = 0.0,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    tags: Mapping[str, Any] | None = None,
    options: Mapping[str, str] | None = None,
    from_format: str = "rgb24",
    frame_flags: Callable[[Any], None] | None = None,
    rotation: tuple[float, bool, bool] | None = None,
    waves: Sequence[NDArray[np.float32]] = (),
    audio_codec: str = "pcm_s16le",
    rate_hz: int = RATE_HZ,
    layout: str | None = None,
    sound_start_s: float = 0.0,
    container: Mapping[str, str] | None = None,
    form: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write frames and sounds.

    size: of frames that are given as planes. times_s: of each frame, at fps where None. waves: one audio
    stream of each. tags: attributes of the video's codec context, as its colours. rotation: degrees and flips
    of the display matrix.
    """
    target = str(path) if isinstance(path, Path) else path
    with av.open(target, "w", format=form, container_options=dict(container or {})) as out:
        out.metadata.update(metadata or {})
        video = None
        if frames is not None:
            video = out.add_stream(
                codec, rate=Fraction(fps).limit_denominator(1001), options=dict(options or {})
            )
            video.width, video.height = size or frames.shape[2:0:-1]
            video.pix_fmt = pix_fmt
            ticks = 1 / video.codec_context.framerate if codec.startswith("mpeg") else TICKS
            video.codec_context.time_base = video.time_base = ticks
            for name, value in (tags or {}).items():
                setattr(video.codec_context, name, value)
            if rotation is not None:
                video.set_display_rotation(rotation[0], hflip=rotation[1], vflip=rotation[2])
        sounds = [_sound_stream(out, wave, audio_codec, rate_hz, layout) for wave in waves]
        for i, array in enumerate(frames if frames is not None else ()):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format=from_format)
            frame = frame.reformat(format=pix_fmt)
            if frame_flags is not None:
                frame_flags(frame)
            time_s = i / fps if times_s is None else times_s[i]
            frame.pts, frame.time_base = round((time_s + start_s) / ticks), ticks
            assert video is not None
            out.mux(video.encode(frame))
        if video is not None:
            out.mux(video.encode(None))
        for wave, sound in zip(waves, sounds, strict=True):
            _write_sound(out, wave, sound, rate_hz, layout, sound_start_s)


def _layout(wave: NDArray[np.float32], layout: str | None) -> str:
    return layout or {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}[len(wave)]


def _sound_stream(out: Any, wave: NDArray[np.float32], codec: str, rate_hz: int, layout: str | None) -> Any:
    stream = out.add_stream(codec, rate=rate_hz)
    stream.layout = _layout(wave, layout)
    return stream


def _write_sound(
    out: Any, wave: NDArray[np.float32], stream: Any, rate_hz: int, layout: str | None, start_s: float
) -> None:
    """The encoder's sample format and frame size are met by a resampler."""
    packed = np.ascontiguousarray(wave.T.reshape(1, -1))
    whole = av.AudioFrame.from_ndarray(packed, format="flt", layout=_layout(wave, layout))
    whole.sample_rate, whole.pts, whole.time_base = rate_hz, 0, Fraction(1, rate_hz)
    resampler = av.AudioResampler(
        format=stream.codec_context.format,
        layout=stream.codec_context.layout,
        rate=rate_hz,
        frame_size=stream.frame_size or 1024,
    )
    at = round(start_s * rate_hz)
    for piece in (*resampler.resample(whole), *resampler.resample(None)):
        piece.pts, piece.time_base = at, Fraction(1, rate_hz)
        at += piece.samples
        out.mux(stream.encode(piece))
    out.mux(stream.encode(None))


def copied(source: Path, target: Path, *, shift_s: float = 0.0, form: str | None = None) -> None:
    """Write the packets of a file anew, all times moved by shift_s; what is before 0 is hidden by an MP4."""
    with av.open(str(source)) as given, av.open(str(target), "w", format=form) as out:
        streams = {s.index: out.add_stream_from_template(s) for s in given.streams}
        for packet in given.demux():
            if packet.dts is None:
                continue
            ticks = round(shift_s / packet.time_base)
            packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
            packet.stream = streams[packet.stream_index]
            out.mux(packet)


class Pipe(io.RawIOBase):
    """Bytes that are written one after the other, as to a browser: nothing can be filled in later."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def write(self, data: Any) -> int:
        self.data += bytes(data)
        return len(data)
