"""Write films and sounds through PyAV, with metadata, all or nothing."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from soundstage.errors import MediaError
from soundstage.files import whole_file
from soundstage.media.arrays import Light, Pixels, Waveform
from soundstage.media.clip_pieces import ClipPieces, frame_rate
from soundstage.media.formats import Codec, Output
from soundstage.media.hdr import Hdr, light_of, shown
from soundstage.media.light import matrix_between, to_hlg, to_logc3

if TYPE_CHECKING:
    import av

# FFmpeg's numbers of primaries, transfer and matrix, by `Codec.light`. There is none for LogC3.
COLOURS = {"": (1, 1, 1), "logc3": (1, 2, 1), "hlg": (9, 18, 9)}
SCALER_MATRICES = {"": 1, "logc3": 1, "hlg": 9}  # as FFmpeg's scaler counts them
LIMITED_RANGE = 1
FAST_START = ("mp4", "mov", "ipod")  # containers whose index can be put in front
# Rates that an encoder takes, the one for all others first.
SOUND_RATES_HZ = {
    "libopus": (48_000, 24_000, 16_000),
    "libmp3lame": (48_000, 44_100, 32_000, 24_000, 22_050, 16_000),
    "aac": (48_000, 96_000, 88_200, 64_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000),
}


def write_film(
    output: Output, pieces: ClipPieces, *, metadata: Mapping[str, str] | None = None, overwrite: bool = True
) -> None:
    """Write frames, and sound fitted to their length.

    metadata: container tags such as "title" and "comment". The index is at the front of an MP4, for
    streaming. An odd side is made even where the encoder needs it. overwrite: see `whole_file`. Raises
    MediaError for samples that are not finite, or a file that cannot be written.
    """
    pieces = pieces.of_size(*output.size(*pieces.size))
    assert pieces.frames is not None
    rate = frame_rate(pieces.fps)
    with _container(output, metadata, overwrite) as container:
        video = _video_track(container, output, pieces.size, rate)
        sound = None
        if pieces.sound is not None:
            sound = _SoundTrack(container, output.sound, pieces.sample_rate_hz, None, pieces.fitted_sound())
        for i, frame in enumerate(pieces.frames):
            container.mux(video.encode(_picture(frame, i, rate, output)))
            if sound is not None:
                sound.write_until((i + 1) / rate)
        container.mux(video.encode(None))
        if sound is not None:
            sound.end()


def write_sound(
    output: Output, pieces: ClipPieces, *, metadata: Mapping[str, str] | None = None, overwrite: bool = True
) -> None:
    """Write stereo, of 16 bits where the codec is lossless. Samples of whole numbers are clipped to [-1, 1].

    Raises MediaError as `write_film`.
    """
    with _container(output, metadata, overwrite) as container:
        sound = pieces.checked_sound()
        _SoundTrack(container, output.codec, pieces.sample_rate_hz, output.quality, sound).end()


def write_sounds(
    outputs: Sequence[Output],
    blocks: Iterable[Sequence[Waveform]],
    sample_rate_hz: int,
    *,
    overwrite: bool = True,
) -> None:
    """Write several sounds of one length at once. blocks: a piece (2, n) of each, one after the other.

    Raises MediaError for a file that cannot be written; then none of them is.
    """
    with ExitStack() as open_files:
        tracks = []
        for output in outputs:
            container = open_files.enter_context(_container(output, None, overwrite))
            tracks.append(_SoundTrack(container, output.codec, sample_rate_hz, output.quality, iter(())))
        for pieces in blocks:
            for track, piece in zip(tracks, pieces, strict=True):
                track.write(piece)
        for track in tracks:
            track.end()


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


def _video_track(container: Any, output: Output, size: tuple[int, int], rate: Fraction) -> Any:
    codec = output.codec
    options = dict(codec.options)
    if codec.lowest is not None:
        options["crf"] = str(codec.figure(output.quality))
    if codec.encoder == "libsvtav1":
        os.environ.setdefault("SVT_LOG", "1")  # it prints its settings otherwise, past FFmpeg's own log
    track = container.add_stream(codec.encoder, rate=rate, options=options)
    track.width, track.height = size
    track.pix_fmt = codec.layout
    context = track.codec_context
    if codec.encoder == "libvpx-vp9":
        track.bit_rate = 0  # else the rate is limited to FFmpeg's default
    if codec.encoder == "libx265" and output.format.container in FAST_START:
        context.codec_tag = "hvc1"  # Apple's players know no other
    if not _is_rgb(codec.layout):
        context.color_primaries, context.color_trc, context.colorspace = COLOURS[codec.light]
        context.color_range = LIMITED_RANGE
    return track


class _SoundTrack:
    """A stereo track that is written piece by piece. PyAV resamples to its rate."""

    def __init__(
        self,
        container: Any,
        codec: Codec,
        sample_rate_hz: int,
        quality: int | None,
        pieces: Iterator[Waveform],
    ) -> None:
        self._container, self._layout, self._rate = container, codec.layout, sample_rate_hz
        self._pieces, self._written = pieces, 0
        known = SOUND_RATES_HZ.get(codec.encoder, (sample_rate_hz,))
        self._track = container.add_stream(
            codec.encoder, rate=sample_rate_hz if sample_rate_hz in known else known[0]
        )
        self._track.layout = "stereo"
        if codec.lowest is not None:
            self._track.bit_rate = codec.figure(quality) * 1000

    def write_until(self, time_s: Fraction) -> None:
        """Write pieces until they reach a time, or end."""
        while self._written < time_s * self._rate:
            piece = next(self._pieces, None)
            if piece is None:
                return
            self.write(piece)

    def end(self) -> None:
        """Write what is left."""
        for piece in self._pieces:
            self.write(piece)
        self._container.mux(self._track.encode(None))

    def write(self, piece: Waveform) -> None:
        """Write a piece (2, n)."""
        frame = _sound(piece, self._rate, self._layout)
        frame.pts, frame.time_base = self._written, Fraction(1, self._rate)
        self._container.mux(self._track.encode(frame))
        self._written += piece.shape[1]


def _picture(frame: Pixels | Light, index: int, rate: Fraction, output: Output) -> av.VideoFrame:
    import av

    layout, light = output.codec.layout, output.codec.light
    if light:
        rgb = av.VideoFrame.from_ndarray(_codes(light_of(frame), light), format="rgb48le")
    else:
        flat = shown(frame, output.hdr or Hdr())
        rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(flat), format="rgb24")
    if _is_rgb(layout):
        picture = rgb.reformat(format=layout)
    else:
        matrix = SCALER_MATRICES[light]
        picture = rgb.reformat(format=layout, dst_colorspace=matrix, dst_color_range="MPEG")
    if light:  # ProRes takes them from here
        picture.color_primaries, picture.color_trc, picture.colorspace = COLOURS[light]
    picture.pts, picture.time_base = index, 1 / rate
    return picture


def _codes(light: Light, curve: str) -> NDArray[np.uint16]:
    """Return light (H, W, 3) as 16-bit codes of HLG, whose primaries are BT.2020's, or of LogC3."""
    wide = np.maximum(light @ matrix_between("bt709", "bt2020").T, 0) if curve == "hlg" else light
    codes = to_hlg(wide) if curve == "hlg" else to_logc3(wide)
    whole: NDArray[np.uint16] = np.rint(codes * 65535).astype(np.uint16)
    return whole


def _is_rgb(layout: str) -> bool:
    return not layout.startswith("yuv")


def _sound(waveform: Waveform, sample_rate_hz: int, layout: str) -> av.AudioFrame:
    import av

    samples: NDArray[Any] = waveform
    if layout == "s16":
        samples = _in_16_bits(waveform).T.reshape(1, -1)
    elif layout == "flt":
        samples = np.asarray(waveform, np.float32).T.reshape(1, -1)
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format=layout, layout="stereo")
    frame.sample_rate = sample_rate_hz
    return frame


def _in_16_bits(waveform: Waveform) -> NDArray[np.int16]:
    """Return samples as whole numbers: those of a file of 16 bits as they were, others cut toward 0."""
    stored = waveform * 32768
    if np.array_equal(stored, np.rint(stored)):
        return np.clip(stored, -32768, 32767).astype(np.int16)
    whole: NDArray[np.int16] = (np.clip(waveform, -1, 1) * 32767).astype(np.int16)  # as the reference does
    return whole


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
