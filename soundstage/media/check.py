"""Check before any work that the needed part of a media file can be read."""

from __future__ import annotations

import functools
from pathlib import Path

from soundstage.files import known_file
from soundstage.media.exr_sequence import exr_frames, is_exr_clip
from soundstage.media.in_memory import File, InMemory
from soundstage.media.picture import is_picture

# A stretch of so many pixels is decoded whole, in about a second; of a larger one both ends.
CHEAP_PIXELS = 3e8


def picture_notice(file: File, first_s: float, last_s: float) -> str | None:
    """Return what of the pictures from first_s to last_s is damaged but bridged; None where all is well.

    Raises MediaError where they cannot be read.
    """
    if isinstance(file, InMemory):
        return None
    if is_exr_clip(Path(file)):
        for _ in exr_frames(Path(file), (first_s, last_s)):
            pass
        return None
    if is_picture(Path(file)):
        return None
    return _picture_notice(Path(file), *known_file(file), first_s, last_s)


def sound_notice(file: File, start_s: float, length_s: float) -> str | None:
    """Return what of the sound of a stretch is damaged and silent; None where all is well.

    Raises MediaError where it cannot be read.
    """
    if isinstance(file, InMemory):
        return None
    return _sound_notice(Path(file), *known_file(file), start_s, length_s)


@functools.lru_cache(maxsize=256)
def _picture_notice(
    path: Path, absolute: str, stamp: tuple[int, ...], first_s: float, last_s: float
) -> str | None:
    from soundstage.media.tracks import tracks
    from soundstage.media.video import shown_at

    track = tracks(path).picture
    times_s = [first_s, last_s]
    if track is not None:
        count = int((last_s - first_s) * track.fps) + 1
        if count * track.display.width * track.display.height <= CHEAP_PIXELS:
            times_s = [*(first_s + i / float(track.fps) for i in range(count)), last_s]
    damaged = [shown.time_s for shown in shown_at(path, times_s) if shown.bridged]
    if not damaged:
        return None
    return (
        f"{len(damaged)} pictures from {damaged[0]:.4g} s on are damaged; they are shown as far as they can "
        "be decoded, or the one before is held"
    )


@functools.lru_cache(maxsize=256)
def _sound_notice(
    path: Path, absolute: str, stamp: tuple[int, ...], start_s: float, length_s: float
) -> str | None:
    from soundstage.media.sound import missing_sound_s

    missing_s = missing_sound_s(path, start_s, length_s)
    return f"{missing_s:.3g} s of its sound are damaged and silent" if missing_s else None
