"""Frames of a video file by their times, as a player shows them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soundstage.errors import MediaError
from soundstage.media.arrays import Light, Pixels
from soundstage.media.container import NEAR_START_S, Decoder, media_errors
from soundstage.media.interlaced import whole_frames
from soundstage.media.tracks import PictureTrack, tracks
from soundstage.types import JUST_UNDER_HALF

FAR_S = 5.0  # it is worth to seek anew for a frame so much later
HELD_S = 0.5  # so long a damaged stretch is bridged by the frame before it


@dataclass(frozen=True)
class ShownFrame:
    """The frame shown at a time. frame_s: the frame's own time, from the same 0. frame: PyAV's.

    bridged: it stands for frames that cannot be decoded, or is damaged itself.
    """

    time_s: float
    frame_s: float
    frame: Any
    bridged: bool


def video_frames(
    path: Path, times_s: Sequence[float], at_least: tuple[int, int] | None = None, *, light: bool = False
) -> Iterator[Pixels | Light]:
    """Yield the frame (H, W, 3) that is shown at each of these seconds, one by one.

    at_least: see `Display.picture`. light: frames of high dynamic range come as light, at their own size.

    That is the last one whose time is not after it by more than half of the track's usual step, so that a
    clip asked for at its own rate gives its own frames, and one of another constant rate the nearest. Frames
    are decoded from the keyframe before the first time on; of them only those shown become RGB.
    Raises MediaError for a time after the end, and for a stretch that is damaged.
    """
    display = _picture(path)[0].display
    before: ShownFrame | None = None
    picture: Pixels | Light
    for shown in shown_at(path, times_s):
        if before is None or shown.frame is not before.frame:
            with media_errors(path):
                high = light and display.high
                picture = display.light(shown.frame) if high else display.picture(shown.frame, at_least)
        before = shown
        yield picture


def shown_at(path: Path, times_s: Sequence[float]) -> Iterator[ShownFrame]:
    """Yield what `video_frames` shows, still as it was coded."""
    track, zero_s = _picture(path)
    for run in _runs(times_s):
        with media_errors(path):
            yield from _run(path, track, zero_s, run)


def _picture(path: Path) -> tuple[PictureTrack, float]:
    found = tracks(path)
    if found.picture is None:
        none = f"{path} holds no picture; give a file that does"
        raise MediaError(found.unread[0] if found.unread else none)
    return found.picture, found.zero_s


def _runs(times_s: Sequence[float]) -> Iterator[list[float]]:
    """Yield the times in stretches that are decoded without a gap."""
    run: list[float] = []
    for time_s in times_s:
        if run and not 0 <= time_s - run[-1] <= FAR_S:
            yield run
            run = []
        run.append(time_s)
    if run:
        yield run


def _run(path: Path, track: PictureTrack, zero_s: float, times_s: list[float]) -> Iterator[ShownFrame]:
    reach_s = zero_s + JUST_UNDER_HALF / float(track.fps)
    decoder = Decoder(path, "video", joined=track.joined)
    start = None if times_s[0] < NEAR_START_S else times_s[0] + reach_s
    with closing(whole_frames(decoder.frames(start))) as frames:
        shown = ahead = next(frames, None)
        num_damaged = 0  # before what is shown
        for time_s in times_s:
            while ahead is not None and ahead[0] <= time_s + reach_s:
                shown, num_damaged = ahead, decoder.num_damaged
                ahead = next(frames, None)
            _check_length(path, track, zero_s, time_s)
            if shown is None:
                raise _damaged(path, time_s)
            frame_s, frame = shown
            lost = decoder.num_damaged > num_damaged or (ahead is None and frame_s < track.last_s - 0.1)
            held_s = time_s + zero_s - frame_s
            if lost and held_s > max(HELD_S, 2 / float(track.fps)):
                raise _damaged(path, time_s)
            bridged = frame.is_corrupt or (lost and held_s > 1 / float(track.fps))
            yield ShownFrame(time_s, frame_s - zero_s, frame, bridged)


def _check_length(path: Path, track: PictureTrack, zero_s: float, time_s: float) -> None:
    end_s = track.end_s - zero_s
    if time_s <= end_s + 0.5 / float(track.fps):
        return
    cut = "" if track.listed_end_s is None else f" of its {track.listed_end_s - zero_s:.4g} s"
    raise MediaError(
        f"{path} can be read up to {end_s:.4g} s{cut}, and the picture at {time_s:.4g} s was asked for; "
        "give an earlier one"
    )


def _damaged(path: Path, time_s: float) -> MediaError:
    return MediaError(
        f"{path} is damaged at {time_s:.4g} s: its packets there cannot be decoded; give another stretch, or "
        "repair the file"
    )
