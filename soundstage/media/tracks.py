"""The picture and the sound of a file in numbers: size, rate, where each begins and ends on one time line.

Found without decoding more than a few frames: headers are believed only where they can be checked, and ends
are read from the last packets. What was found is kept as long as the file stays the same.

Time 0 is where a player begins: the first picture, or the first sound if there is no picture. A sound that
begins earlier is cut to the picture where that is less than 0.1 s (what encoders put in front), otherwise the
first picture is held until its time.
"""

from __future__ import annotations

import functools
import math
import statistics
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from soundstage.errors import MediaError
from soundstage.files import known_file
from soundstage.media.container import (
    JOINABLE,
    Decoder,
    best_track,
    cause,
    check_is_file,
    holds_frame,
    only,
    opened,
    packets,
    seconds,
    signed_duration,
)
from soundstage.media.display import Display, display_of
from soundstage.types import JUST_UNDER_HALF, Modality

HEAD_PACKETS = 120  # from which the rate is found
TAIL_S = (3.0, 30.0)  # before a file's end: where its last packets are looked for
CUT_SOUND_S = 0.1
MISSING_S = 0.25  # less at the end of a file than its index lists is no damage
FILLING_S = 0.2  # at most so much of a track's last packets is not to be heard
SHORTEST_S = 1e-3  # for which a picture is shown
MAX_SCANNED_BYTES = 2**27
MAX_FPS = 1000
STANDARD_RATES = tuple(
    Fraction(n, d)
    for n, d in (
        (24000, 1001), (24, 1), (25, 1), (30000, 1001), (30, 1), (48, 1), (50, 1), (60000, 1001), (60, 1),
        (90, 1), (100, 1), (120000, 1001), (120, 1), (240, 1), (10, 1), (12, 1), (15, 1), (20, 1),
    )
)  # fmt: skip


@dataclass(frozen=True)
class PictureTrack:
    """start_s, end_s: in the file's own time. fps: a constant rate; frames are shown by their times.

    last_s: when the last frame begins. listed_end_s: where the file's index has the end, if the file was cut
    off before it. joined: see `container.Decoder`.
    """

    display: Display
    fps: Fraction
    start_s: float
    last_s: float
    end_s: float
    listed_end_s: float | None
    joined: bool


@dataclass(frozen=True)
class SoundTrack:
    """A track of sound, with the fields of a picture's track. rate_hz: rate of its first samples."""

    rate_hz: int
    start_s: float
    end_s: float
    listed_end_s: float | None
    joined: bool


@dataclass(frozen=True)
class Tracks:
    """zero_s: the file's own time that is shown as 0. unread: why a track that is there cannot be read."""

    picture: PictureTrack | None
    sound: SoundTrack | None
    zero_s: float
    unread: tuple[str, ...]

    @property
    def picture_s(self) -> float:
        """Seconds from 0 to the end of the picture."""
        return 0.0 if self.picture is None else self.picture.end_s - self.zero_s

    @property
    def sound_s(self) -> float:
        """Seconds from 0 to the end of the sound."""
        return 0.0 if self.sound is None else max(0.0, self.sound.end_s - self.zero_s)

    @property
    def listed_s(self) -> float | None:
        """Seconds that a file which was cut off states to last; None for a whole one."""
        ends = [t.listed_end_s for t in (self.picture, self.sound) if t is not None and t.listed_end_s]
        return max(ends) - self.zero_s if ends else None

    @property
    def num_frames(self) -> int:
        """Frames at the constant rate, so many that the last one is among them."""
        if self.picture is None:
            return 0
        last = self.picture.last_s if self.picture.last_s < self.picture.end_s else self.zero_s
        nearest = math.floor((last - self.zero_s) * self.picture.fps + JUST_UNDER_HALF)
        return max(1, round(self.picture_s * self.picture.fps), nearest + 1)


def tracks(path: Path) -> Tracks:
    """Return what a file holds. Raises MediaError for one that holds neither picture nor sound to be read."""
    check_is_file(path)
    try:
        known = known_file(path)
    except OSError as error:
        raise MediaError(f"{path} cannot be opened ({cause(error)}); check the name") from error
    return _tracks(path, *known)


@functools.lru_cache(maxsize=256)
def _tracks(path: Path, absolute: str, stamp: tuple[int, ...]) -> Tracks:
    """absolute, stamp: what is another where the name stands for another file."""
    with opened(path) as container:
        has = {kind: _has(container, kind) for kind in ("video", "audio")}
    unread: list[str] = []
    picture = sound = None
    try:
        picture = _picture(path) if has["video"] else None
    except MediaError as error:
        unread.append(str(error))
    try:
        sound = _sound(path) if has["audio"] else None
    except MediaError as error:
        unread.append(str(error))
    if picture is None and sound is None:
        nothing = f"{path} holds neither picture nor sound; give a file of video or sound"
        raise MediaError(unread[0] if unread else nothing)
    return Tracks(picture, sound, _zero(picture, sound), tuple(unread))


def _has(container: Any, kind: Modality) -> bool:
    try:
        return best_track(container, kind) is not None
    except MediaError:
        return True  # a track without a decoder: reading it says so


def _zero(picture: PictureTrack | None, sound: SoundTrack | None) -> float:
    if picture is None:
        return 0.0 if sound is None else sound.start_s
    if sound is None or sound.start_s > picture.start_s - CUT_SOUND_S:
        return picture.start_s
    held = math.floor((picture.start_s - sound.start_s) * picture.fps)
    return picture.start_s - float(held / picture.fps)


# --- Picture ----------------------------------------------------------------------------------------


def _picture(path: Path) -> PictureTrack:
    aspects: list[Fraction | None] = []
    decoder = Decoder(path, "video", prepare=lambda _, track: aspects.append(track.sample_aspect_ratio))
    start_s, first = _first(decoder, "picture")
    head = _read_head(path, "video")
    fps = _constant_rate(head)
    end = _end(path, "video", head, float(1 / fps), start_s)
    display = display_of(first, aspects[0], str(path))
    return PictureTrack(display, fps, start_s, end.last_s, end.end_s, end.listed_end_s, end.joined)


def _first(decoder: Decoder, what: str) -> tuple[float, Any]:
    with closing(decoder.frames()) as frames:
        first = next(frames, None)
    if first is None:
        raise MediaError(f"{decoder.path} holds no {what} that can be decoded; is it complete?")
    return first


@dataclass(frozen=True)
class _Head:
    """Of a track: the times of its first packets, in ticks of `base`, in order; what its header says."""

    stamps: list[int]
    base: Fraction
    rates: tuple[Fraction | None, ...]
    listed_s: float | None
    guessed_end_s: float | None
    indexed: bool


def _read_head(path: Path, kind: Modality) -> _Head:
    with opened(path) as container:
        track = best_track(container, kind)
        assert track is not None
        only(container, track)
        begin_s = seconds(track.start_time, track.time_base)
        length_s = seconds(track.duration, track.time_base)
        listed_s = None if length_s is None else (begin_s or 0.0) + length_s
        guess_s = listed_s
        if guess_s is None and container.duration:
            guess_s = ((container.start_time or 0) + container.duration) / 1e6
        if container.format.name in JOINABLE and container.size <= MAX_SCANNED_BYTES:
            guess_s = None  # it may be several recordings, which only a look at all of it tells
        rates: tuple[Fraction | None, ...] = ()
        stamps: list[int] = []
        if kind == "video":
            rates = (track.average_rate, track.guessed_rate, track.base_rate)
            for packet in packets(container, track):
                if packet.pts is not None and not packet.is_discard:
                    stamps.append(packet.pts)
                if len(stamps) >= HEAD_PACKETS:
                    if packet.dts is not None:  # of what is shown later, packets are still to come
                        stamps = [stamp for stamp in stamps if stamp <= packet.dts] or stamps
                    break
        indexed = container.format.name.startswith("mov")
        return _Head(sorted(set(stamps)), track.time_base, rates, listed_s, guess_s, indexed)


def _constant_rate(head: _Head) -> Fraction:
    """Return the track's own rate if it is constant, else one on which its usual step falls."""
    stated = [r for r in head.rates if r and 0 < r <= MAX_FPS]
    steps = [b - a for a, b in zip(head.stamps, head.stamps[1:], strict=False)]
    if not steps:
        return stated[-1] if stated and len(stated) == 1 else (stated[1] if len(stated) > 1 else Fraction(25))
    usual = Fraction(statistics.median_low(steps)) * head.base
    tick = head.base
    if max(steps) - min(steps) <= 2:
        mean = Fraction(head.stamps[-1] - head.stamps[0], len(steps)) * head.base
        rounding = min(tick / len(steps), usual / 10)  # of the mean: stamps are whole ticks
        for rate in stated:
            if abs(1 / rate - mean) <= 2 * rounding:
                return _standard(rate, Fraction(1, 10**6)) or rate
        near = _standard(1 / mean, max(Fraction(1, 2000), rounding / mean))
        return near or (1 / mean).limit_denominator(1001)
    alike = [step for step in steps if abs(step * tick - usual) <= tick]
    usual = Fraction(sum(alike), len(alike)) * tick
    for rate in stated:
        if rate in STANDARD_RATES and abs(1 / rate - usual) <= tick / len(alike):
            return rate
    near = _standard(1 / usual, max(Fraction(1, 50), tick / usual))
    return near or max(Fraction(1), Fraction(round(1 / usual)))


def _standard(rate: Fraction, within: Fraction) -> Fraction | None:
    """Return the nearest usual rate, if it is near enough. within: a share of the rate."""
    nearest = min(STANDARD_RATES, key=lambda usual: abs(usual - rate))
    return nearest if abs(nearest - rate) <= within * rate else None


# --- Ends -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Tail:
    """begin_s, end_s: times of the packet that is shown last. whole: the last packet in the index was there.

    joined: see `container.Decoder`.
    """

    begin_s: float
    end_s: float
    whole: bool
    joined: bool


@dataclass(frozen=True)
class _End:
    """last_s: when the last packet begins. listed_end_s: stated end where the file was cut off before it."""

    last_s: float
    end_s: float
    listed_end_s: float | None
    joined: bool


def _end(path: Path, kind: Modality, head: _Head, step_s: float, start_s: float) -> _End:
    """Return where a track ends.

    step_s: length of a packet that states none.
    """
    tail = None
    for back in TAIL_S if head.guessed_end_s is not None else ():
        assert head.guessed_end_s is not None
        if head.guessed_end_s - back > start_s + back:
            tail = _tail(path, kind, head.guessed_end_s - back, step_s, start_s)
        if tail is not None:
            break
    tail = (
        tail
        or _tail(path, kind, None, step_s, start_s)
        or _Tail(start_s, start_s + step_s, whole=False, joined=False)
    )
    end_s, lost_s = tail.end_s, None
    if head.indexed and head.listed_s is not None:
        if tail.whole:  # its index knows best how long the last picture is shown, if it is shown at all
            end_s = head.listed_s if head.listed_s > tail.begin_s + SHORTEST_S else max(end_s, head.listed_s)
        elif head.listed_s - end_s > max(MISSING_S, 2 * step_s):
            lost_s = head.listed_s
    return _End(tail.begin_s, max(end_s, start_s + step_s), lost_s, tail.joined)


def _tail(path: Path, kind: Modality, from_s: float | None, step_s: float, start_s: float) -> _Tail | None:
    """Read the packets from a time on, None for all; None if there are none to be read."""
    import av

    with opened(path) as container:
        track = best_track(container, kind)
        assert track is not None
        only(container, track)
        if from_s is not None:
            try:
                container.seek(int(from_s / track.time_base), stream=track)
            except (av.FFmpegError, OverflowError):
                return None
        tick_s = float(track.time_base)
        last: tuple[float, float] | None = None  # when it is shown, and how long
        stored, count = None, 0
        joins: list[float] = []
        for packet in packets(container, track, joins):
            dts, pts = packet.dts, packet.pts
            if packet.is_corrupt or not (packet.size or holds_frame(packet)):
                continue
            stored = stored if dts is None else dts
            if packet.is_discard:
                continue
            stamp = dts if pts is None else pts
            shown_s = start_s + count * step_s if stamp is None else stamp * tick_s
            length = signed_duration(packet)  # 1 is what AVI has where its ticks are finer than its frames
            now = (shown_s, step_s if length in (0, 1) else length * tick_s)
            last = now if last is None else max(last, now)
            count += 1
        if last is None:
            return None
        entries = track.index_entries
        whole = bool(len(entries)) and stored is not None and stored >= entries[len(entries) - 1].timestamp
        return _Tail(last[0], sum(last), whole, bool(joins))


# --- Sound ------------------------------------------------------------------------------------------


def _sound(path: Path) -> SoundTrack:
    start_s, first = _first(Decoder(path, "audio"), "sound")
    head = _read_head(path, "audio")
    length_s = first.samples / first.sample_rate
    end = _end(path, "audio", head, length_s, start_s)
    heard_s = _last_sample(Decoder(path, "audio", joined=end.joined), end.end_s - 0.5, start_s) or end.end_s
    if heard_s < end.end_s - FILLING_S:  # its last packets are damaged
        heard_s = end.end_s
    # FFmpeg's decoders do not cut what an MP4's index leaves out of the last packet.
    end_s = min(heard_s, head.listed_s or heard_s) if head.indexed else heard_s
    return SoundTrack(int(first.sample_rate), start_s, end_s, end.listed_end_s, end.joined)


def _last_sample(decoder: Decoder, from_s: float, start_s: float) -> float | None:
    """Return where the last sample ends; an encoder fills its last packet up with what is not to be heard."""
    end_s = None
    with closing(decoder.frames(from_s if from_s > start_s + 1 else None)) as frames:
        for time_s, frame in frames:
            end_s = time_s + frame.samples / frame.sample_rate
    return end_s
