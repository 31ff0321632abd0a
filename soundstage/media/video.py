"""Frames of a video file by their times, as a player shows them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from soundstage.errors import MediaError
from soundstage.media.container import NEAR_START_S, Decoder, media_errors
from soundstage.media.interlaced import whole_frames
from soundstage.media.tracks import PictureTrack, tracks
from soundstage.types import JUST_UNDER_HALF

Pixels = NDArray[np.uint8]

FAR_S = 5.0  # it is worth to seek anew for a frame so much later
HELD_S = 0.5  # so long a damaged stretch is bridged by the frame before it


def video_frames(path: Path, times_s: Sequence[float]) -> Iterator[Pixels]:
    """Yield the frame (H, W, 3) that is shown at each of these seconds, one by one.

    That is the last one whose time is not after it by more than half of the stream's usual step, so that a
    clip asked for at its own rate gives its own frames, and one of another constant rate the nearest. Frames
    are decoded from the keyframe before the first time on; of them only those shown become RGB.
    Raises MediaError for a time after the end, and for a stretch that is damaged.
    """
    found = tracks(path)
    if found.picture is None:
        raise MediaError(
            found.unread[0] if found.unread else f"{path} holds no picture; give a file that does"
        )
    for run in _runs(times_s):
        with media_errors(path):
            yield from _run(path, found.picture, found.zero_s, run)


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


def _run(path: Path, track: PictureTrack, zero_s: float, times_s: list[float]) -> Iterator[Pixels]:
    step_s = float(1 / track.fps)
    reach_s = zero_s + step_s * JUST_UNDER_HALF
    decoder = Decoder(path, "video")
    start = None if times_s[0] < NEAR_START_S else times_s[0] + reach_s
    with closing(whole_frames(decoder.frames(start))) as frames:
        ahead = next(frames, None)
        shown = ahead
        picture: Pixels | None = None
        for time_s in times_s:
            while ahead is not None and ahead[0] <= time_s + reach_s:
                shown, picture = ahead, None
                ahead = next(frames, None)
            _check_there(
                path, track, zero_s, time_s, None if shown is None else shown[0], decoder.num_damaged
            )
            assert shown is not None
            if picture is None:
                picture = track.display.picture(shown[1])
            yield picture


def _check_there(
    path: Path, track: PictureTrack, zero_s: float, time_s: float, shown_s: float | None, num_damaged: int
) -> None:
    """Raise MediaError if there is nothing to show at a time. shown_s: of the frame that would be."""
    step_s = float(1 / track.fps)
    if zero_s + time_s > track.end_s + step_s / 2:
        end_s = track.end_s - zero_s
        cut = "" if track.listed_end_s is None else f" of its {track.listed_end_s - zero_s:.4g} s"
        raise MediaError(
            f"{path} can be read up to {end_s:.4g} s{cut}, and the picture at {time_s:.4g} s was asked for; "
            "give an earlier one"
        )
    gone_s = float("inf") if shown_s is None else zero_s + time_s - shown_s
    if (num_damaged and gone_s > max(HELD_S, 2 * step_s)) or shown_s is None:
        raise MediaError(
            f"{path} is damaged at {time_s:.4g} s: {num_damaged} packets before it cannot be decoded; "
            "give another stretch, or repair the file"
        )
