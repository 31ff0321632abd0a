"""Containers of video and sound, opened in one way and read packet by packet, through PyAV.

`opened` is the only place where a container is opened for reading: by its absolute path, with FFmpeg allowed
no protocol but plain files and no format that names other files (playlists, concatenations). `decoded` gives
the frames of one track with their times, from a time on, and reads no more of the file than it must.

Whatever PyAV raises becomes a MediaError that names the file and the cause.
"""

from __future__ import annotations

import codecs
import heapq
import itertools
import os
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from soundstage.errors import MediaError
from soundstage.types import Modality

TimedFrames = Generator[tuple[float, Any], None, None]  # seconds and PyAV's frame

# Every demuxer that may be chosen, by FFmpeg's names. Those that open other files by what they read (hls,
# dash, concat, image2, sdp, webm_dash_manifest, ...) and devices are left out.
DEMUXERS = """
    aac ac3 aiff alaw amr amrnb amrwb ape asf au av1 avi caf cavsvideo daud dirac dnxhd dsf dts dtshd dv eac3
    evc flac flv gsm gxf h261 h263 h264 hevc iamf iff ircam ivf loas lxf m4v matroska,webm mjpeg mlp
    mov,mp4,m4a,3gp,3g2,mj2 mp3 mpc mpc8 mpeg mpegts mpegvideo mulaw mxf nsv nut nuv obu ogg oma pva qcp rm
    shn smjpeg sox swf tak truehd tta voc vc1 vvc w64 wav wsaud wtv wv xwma yuv4mpegpipe
""".split()  # noqa: SIM905 - a list of 80 lines is no easier to read
# What a file that FFmpeg does not know may be, and how lists of other files begin.
IS_TEXT = "it is text"
OTHER_KIND = "it is of a kind that is not read"
LISTS = "it is a list of other files, which is not followed"
LIST_MARKS = (b"#EXTM3U", b"ffconcat version", b"<MPD", b"v=0")
# A seek may land after the wanted time, or between two keyframes: then it is tried again so much earlier.
SEEK_MARGINS_S = (0.5, 12.0)
NEAR_START_S = 1.0  # from here on it is not worth to seek
# Containers that may be joined by writing one behind the other, and what is no gap in their times any more.
JOINABLE = ("mpegts", "mpeg")
JUMP_BACK_S, JUMP_AHEAD_S = 0.5, 10.0
# Each packet of these is one frame; others have packets that show nothing.
FRAME_PER_PACKET = ("h264", "hevc", "av1", "libdav1d", "mpeg2video", "mjpeg", "prores", "ffv1")
# AVI has no times of presentation, and of these FFmpeg does not find them: packets are shown out of order.
REORDERED = ("h264", "hevc")
# FFmpeg's own decoders of these leave transparency out.
TRANSPARENT_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
MAX_FRAME_PIXELS = 2**27  # as of a picture
# Packets that are held while a place is looked for in a file that cannot seek: a long group of pictures.
MAX_HELD_PACKETS = 4000


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open a file of video or sound. Raises MediaError for one that is missing, a folder, or no such file.

    What PyAV raises within the block is turned into a MediaError too.
    """
    import av

    check_is_file(path)
    options = {"protocol_whitelist": "file", "format_whitelist": ",".join(DEMUXERS)}
    with media_errors(path):
        name = f"file:{os.path.abspath(path)}"
        # Tags in another encoding than UTF-8 are common in old files; none of them matters here.
        try:
            container = av.open(name, container_options=options, metadata_errors="replace")
        except av.ArgumentError as error:  # what FFmpeg says of a format that is not in the list
            raise MediaError(f"{path} cannot be read as a picture, video or sound ({_kind(path)})") from error
        except av.InvalidDataError as error:
            if _kind(path) != IS_TEXT:
                raise
            raise MediaError(f"{path} cannot be read as a picture, video or sound ({IS_TEXT})") from error
        with container:
            for track in container.streams.video:
                limit_pixels(track.codec_context)
            yield container


def limit_pixels(codec: Any | None) -> None:
    """Have a decoder refuse frames of more than 134 megapixels: they may grow within a file."""
    if codec is not None:
        codec.options = {**codec.options, "max_pixels": str(MAX_FRAME_PIXELS)}


def read_metadata(path: Path) -> dict[str, str]:
    """Return the container's tags, without decoding. Raises MediaError for a file that is no media file."""
    with opened(path) as container:
        return dict(container.metadata)


def _kind(path: Path) -> str:
    """Return what a file is that is no media, by its first bytes."""
    with path.open("rb") as file:
        head = file.read(1024)
    if any(mark in head for mark in LIST_MARKS):
        return LISTS
    plain = set(range(32, 256)) - {127} | set(b"\t\n\r\f")
    return IS_TEXT if plain.issuperset(head) and _is_utf8(head) else OTHER_KIND


def _is_utf8(head: bytes) -> bool:
    """Return whether bytes are UTF-8, the last letter of which may be cut off."""
    text = codecs.getincrementaldecoder("utf-8")()
    try:
        text.decode(head)
    except UnicodeDecodeError:
        return False
    return True


def check_is_file(path: Path) -> None:
    """Raise MediaError for a path that is no file, or an empty one."""
    try:
        if path.is_dir():
            raise MediaError(f"{path} is a folder; give the name of a file in it")
        if not path.is_file():
            raise MediaError(f"there is no file {path}; check the name")
        size = path.stat().st_size
    except (OSError, ValueError) as error:
        raise MediaError(f"{path} cannot be opened ({cause(error)}); check the name") from error
    if size == 0:
        raise MediaError(f"{path} is empty (0 bytes); is it complete?")


@contextmanager
def media_errors(path: Path) -> Iterator[None]:
    """Turn whatever PyAV raises into a MediaError."""
    try:
        yield
    except MediaError:
        raise
    except MemoryError as error:
        raise MediaError(f"{path} needs more memory than there is; give a smaller or shorter one") from error
    except PermissionError as error:
        raise MediaError(f"{path} may not be read ({cause(error)}); check its permissions") from error
    except (
        Exception
    ) as error:  # damaged bytes make PyAV raise ValueError, UnicodeDecodeError, OverflowError, ...
        raise MediaError(
            f"{path} cannot be read as a picture, video or sound ({cause(error)}); is it complete?"
        ) from error


def cause(error: Exception) -> str:
    """Return what an exception says, in one line, without the path."""
    said = getattr(error, "strerror", None) or str(error)
    return " ".join(str(said).split())[:160] or type(error).__name__


def best_track(container: Any, kind: Modality) -> Any | None:
    """Return the track a player would choose; None where there is none. A sound's cover is no video.

    Raises MediaError for a file whose only track of this kind needs a decoder that is not there.
    """
    import av

    tracks = container.streams.video if kind == "video" else container.streams.audio
    still = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails
    shown = [s for s in tracks if not s.disposition & still]
    known = [s for s in shown if s.codec_context is not None]
    if shown and not known:
        raise MediaError(f"{_name(container)} holds {kind} in a coding that cannot be decoded; convert it")
    if not known:
        return None
    best = container.streams.best(kind)
    if best in known:
        return best
    preferred = [s for s in known if s.disposition & av.stream.Disposition.default]
    return (preferred or known)[0]


def only(container: Any, track: Any) -> None:
    """Have the demuxer leave out all other tracks' packets."""
    import av

    for other in container.streams:
        if other.index != track.index:
            other.discard = av.stream.Discard.all


def seconds(stamp: int | None, base: Any) -> float | None:
    """Return a time stamp in seconds; None stays None."""
    return None if stamp is None or base is None else float(stamp * base)


def holds_frame(packet: Any) -> bool:
    """Return whether a packet without bytes stands for a frame that is the one before again (Theora, AVI)."""
    return packet.size == 0 and packet.pts is not None and packet.stream.type == "video"


def signed_duration(packet: Any) -> int:
    """Return a packet's length in ticks, below 0 where what is cut off at an end is longer than the packet.

    FFmpeg's Ogg reader writes such a length without its sign.
    """
    duration = int(packet.duration or 0)
    return duration - 2**32 if 2**31 <= duration < 2**32 else duration


def packets(container: Any, track: Any, joins: list[float] | None = None) -> Iterator[Any]:
    """Yield the packets of a track, and at the end the empty one that empties the decoder.

    A damage that the demuxer cannot step over ends the track, as it does for a player. joins: gets the
    seconds at which one recording follows another whose times were different.
    """
    import av

    demuxed = container.demux(track)
    steady = _SteadyTimes(float(track.time_base)) if container.format.name in JOINABLE else None
    unordered = has_no_shown_times(track)
    while True:
        try:
            packet = next(demuxed, None)
        except av.FFmpegError:
            return
        if packet is None:
            return
        if steady is not None and steady.jumped(packet) and joins is not None:
            joins.append(float(packet.dts * packet.time_base))
        if unordered:
            packet.pts = packet.dts
        yield packet


def has_no_shown_times(track: Any) -> bool:
    """Return whether packets say only when they are decoded; the n-th frame has the n-th of these times."""
    return bool(track.container.format.name == "avi" and track.codec_context.name in REORDERED)


class _SteadyTimes:
    """Times that go on where recordings were joined end to end."""

    def __init__(self, tick_s: float) -> None:
        self.tick_s = tick_s
        self.offset = 0
        self.expected: int | None = None

    def jumped(self, packet: Any) -> bool:
        """Set a packet's times right; return whether they jumped before it."""
        stored = packet.dts
        if stored is None:
            return False
        jumped = False
        if self.expected is not None:
            ahead_s = (stored + self.offset - self.expected) * self.tick_s
            jumped = not -JUMP_BACK_S <= ahead_s <= JUMP_AHEAD_S
            if jumped:
                self.offset = self.expected - stored
        if self.offset:
            packet.dts = stored + self.offset
            packet.pts = None if packet.pts is None else packet.pts + self.offset
        self.expected = stored + self.offset + signed_duration(packet)
        return jumped


class Decoder:
    """The frames of one track of a file, in the order they are shown.

    joined: the file is several recordings one behind the other, so that its times say nothing of the place.
    prepare: called with the container and the track before anything is read. num_damaged: packets so far
    that could not be decoded. Raises MediaError from all methods.
    """

    def __init__(
        self,
        path: Path,
        kind: Modality,
        *,
        joined: bool = False,
        prepare: Callable[[Any, Any], None] | None = None,
    ) -> None:
        self.path = path
        self.kind: Modality = kind
        self.joined = joined
        self.prepare = prepare
        self.num_damaged = 0

    def frames(self, from_s: float | None = None) -> TimedFrames:
        """Yield (seconds, frame) from the last keyframe at or before from_s, in the file's own time.

        from_s: None is the file's start. Seeks, and where the file cannot, leaves out the decoding.
        """
        if from_s is None:
            yield from self._frames(None, None)
            return
        for margin in () if self.joined else SEEK_MARGINS_S:
            frames = self._frames(from_s, margin)
            first = next(frames, None)
            if first is not None and first[0] <= from_s:
                yield from itertools.chain([first], frames)
                return
            frames.close()
        yield from self._frames(from_s, None)

    def _frames(self, from_s: float | None, margin: float | None) -> TimedFrames:
        """Seek so much before from_s; a margin of None reads on from the file's start."""
        with opened(self.path) as container:
            track = self._track(container)
            only(container, track)
            found = packets(container, track)
            if from_s is not None and margin is not None and not _seek(container, track, from_s - margin):
                return
            if from_s is not None and margin is None:
                found = _from_keyframe(found, from_s)
            yield from self._timed(found, track)

    def _track(self, container: Any) -> Any:
        track = best_track(container, self.kind)
        if track is None:
            what = "picture" if self.kind == "video" else "sound"
            raise MediaError(f"{self.path} holds no {what}; give a file that does")
        if self.prepare is not None:
            self.prepare(container, track)
        return track

    def _timed(self, found: Iterator[Any], track: Any) -> TimedFrames:
        """Yield the decoded frames with their times; those without a stamp follow the one before."""
        expected: float | None = None
        clean = False
        decode = _decoder(track)
        in_order = has_no_shown_times(track)
        one_each = track.codec_context.name in FRAME_PER_PACKET and not in_order
        awaited = _Awaited() if one_each else None
        stamps: list[int] = []  # of packets whose time no frame has yet
        for packet in found:
            if awaited is not None:
                awaited.packet(packet)
            damaged = self.num_damaged
            made = self._decode(packet, decode)
            if in_order and packet.size and packet.dts is not None and self.num_damaged == damaged:
                heapq.heappush(stamps, packet.dts)
            for frame in made:
                if stamps:
                    frame.pts = heapq.heappop(stamps)
                # A track may begin between keyframes, where pictures are made up until the first.
                clean = clean or not (self.kind == "video" and frame.is_corrupt)
                stamp = frame.pts if frame.pts is not None else frame.dts
                time_s = seconds(stamp, frame.time_base)
                if time_s is None:
                    time_s = expected if expected is not None else 0.0
                expected = time_s + _length_s(frame, track)
                if clean:
                    self.num_damaged += awaited.frame(frame) if awaited is not None else 0
                    yield time_s, frame
        self.num_damaged += awaited.left() if awaited is not None else 0

    def _decode(self, packet: Any, decode: Callable[[Any], list[Any]]) -> list[Any]:
        import av

        if holds_frame(packet):  # a decoder takes it for the track's end
            return []
        try:
            return decode(packet)
        except av.MemoryError:
            raise
        except av.EOFError:  # emptied already
            return []
        except av.FFmpegError:
            self.num_damaged += 1
            return []


class _Awaited:
    """Packets whose frame has not come: decoders leave out what is damaged without a word."""

    def __init__(self) -> None:
        self.stamps: set[int] = set()
        self.first: int | None = None

    def packet(self, packet: Any) -> None:
        if packet.size and packet.pts is not None and not packet.is_discard:
            self.stamps.add(packet.pts)

    def frame(self, frame: Any) -> int:
        """Return how many packets before this frame came to nothing."""
        if frame.pts is None or frame.interlaced_frame:  # two packets may be the fields of one frame
            self.stamps.clear()
            return 0
        if self.first is None:
            self.first = frame.pts
        gone = {stamp for stamp in self.stamps if stamp <= frame.pts}
        self.stamps -= gone
        return sum(stamp not in (frame.pts, self.first) and stamp > self.first for stamp in gone)

    def left(self) -> int:
        return len(self.stamps) if self.first is not None else 0


def _decoder(track: Any) -> Callable[[Any], list[Any]]:
    """Return what makes frames of a track's packets."""
    import av

    if track.type == "video":
        track.thread_type = "AUTO"
    name = TRANSPARENT_DECODERS.get(track.codec_context.name)
    if track.metadata.get("alpha_mode") == "1" and name in av.codec.codecs_available:
        with_alpha: Any = av.CodecContext.create(name, "r")
        if track.codec_context.extradata:
            with_alpha.extradata = track.codec_context.extradata
        limit_pixels(with_alpha)
        decode: Callable[[Any], list[Any]] = with_alpha.decode
        return decode
    return lambda packet: list(packet.decode())


def _length_s(frame: Any, track: Any) -> float:
    if hasattr(frame, "samples"):
        return float(frame.samples / frame.sample_rate)
    return seconds(frame.duration or None, frame.time_base) or float(1 / (track.guessed_rate or 25))


def _seek(container: Any, track: Any, to_s: float) -> bool:
    """Return whether the file could seek."""
    import av

    try:
        container.seek(int(to_s / track.time_base), stream=track)
    except (av.FFmpegError, OverflowError):
        return False
    return True


def _from_keyframe(found: Iterator[Any], from_s: float) -> Iterator[Any]:
    """Yield the packets from the last keyframe at or before from_s; those before need no decoding."""
    held: list[Any] = []
    for packet in found:
        shown, stored = packet.pts, packet.dts if packet.dts is not None else packet.pts
        if stored is None:  # no times: nothing can be left out
            yield from (*held, packet)
            break
        if packet.is_keyframe and shown is not None and float(shown * packet.time_base) <= from_s:
            held = []
        held.append(packet)
        if float(stored * packet.time_base) > from_s or len(held) >= MAX_HELD_PACKETS:
            yield from held
            break
    else:
        yield from held
    yield from found


def _name(container: Any) -> str:
    return str(container.name).removeprefix("file:")
