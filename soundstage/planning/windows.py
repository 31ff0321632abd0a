"""The windows of a long take: where each begins and ends, and what it shares with the one before.

A window is an ordinary request for a shorter clip. Its first latent frames are the last ones of the window
before, given clean, so that motion, picture and sound go on. In time it is counted from its own start:

    local time = time in the take - offset_s,    offset_s = 8 * start / fps

so that all latent frames but the first stand where they stand in any clip. The first covers eight frames
of the take, [-7, 1) / fps, and not one as the first of a clip does; nothing is made there, it is given.
Sound has 25 latents a second, which do not fall on the picture's grid; a window's sound begins at the latent
that lets it end where the take's sound ends at that time, and its times are moved by audio_shift_s, within
60 ms, to what they are in the take. So every latent of either stream belongs to one place, and no sound is
lost or doubled.

Source of the overlap: the looping sampler, docs/model/conditioning.md, "Long takes", which has no sound.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from soundstage.errors import RequestError
from soundstage.request.take import Take
from soundstage.types import AUDIO_LATENTS_PER_S, TIME_SCALE, audio_latent_length

MAX_TAKE_S = 120.0
# Latent frames two windows share: the first is only the one before the window's time 0.
MIN_OVERLAP = 2
MIN_AUDIO_OVERLAP = 2  # latents of sound
OVERLAP_SHARE = 4  # of a window's latent frames, one in four is given


@dataclass(frozen=True)
class Window:
    """Latent frames [start, stop) of the picture and latents [audio_start, audio_stop) of the sound.

    overlap, audio_overlap: how many of them, from the start, the window before has made; 0 for the first.
    """

    index: int
    start: int
    stop: int
    overlap: int
    audio_start: int
    audio_stop: int
    audio_overlap: int
    fps: float

    @property
    def num_frames(self) -> int:
        """Return the frames of the window's clip, 8k + 1."""
        return TIME_SCALE * (self.stop - self.start - 1) + 1

    @property
    def offset_frames(self) -> int:
        return TIME_SCALE * self.start

    @property
    def offset_s(self) -> float:
        """Return the time in the take at which the window's own time begins."""
        return self.offset_frames / self.fps

    @property
    def end_s(self) -> float:
        """Return the time in the take at which the window ends."""
        return self.offset_s + self.num_frames / self.fps

    @property
    def audio_offset_s(self) -> float:
        """Return the time in the take at which the window's sound begins."""
        return self.audio_start / AUDIO_LATENTS_PER_S

    @property
    def audio_shift_s(self) -> float:
        """Return the seconds by which the sound's times are moved to stand beside the picture's."""
        return self.audio_offset_s - self.offset_s

    def owns_frame(self, frame: int) -> bool:
        """Return whether a frame of the take is new in this window."""
        return self.start + self.overlap <= latent_of(frame) < self.stop


def latent_frames(num_frames: int) -> int:
    return (num_frames - 1) // TIME_SCALE + 1


def latent_of(frame: int) -> int:
    """Return the latent frame that holds a frame: 0 for the first, then one for every eight."""
    return (frame + TIME_SCALE - 1) // TIME_SCALE


def plan_windows(num_frames: int, fps: float, *, window: int, overlap: int) -> tuple[Window, ...]:
    """Cut a take of num_frames (8k + 1) into windows of at most `window` latent frames.

    overlap: latent frames two neighbours share. The windows' new parts differ by one latent frame at most,
    so that no short rest remains at the end. Raises RequestError where windows would add nothing.
    """
    total = latent_frames(num_frames)
    if total <= window:
        return (_window(0, 0, total, 0, None, fps),)
    _check_overlap(window, overlap)
    count = -(-(total - overlap) // (window - overlap))
    windows: list[Window] = []
    start = 0
    for index, new in enumerate(_even(total - overlap, count)):
        before = windows[-1] if windows else None
        windows.append(_window(index, start, start + overlap + new, overlap if before else 0, before, fps))
        start += new
    return tuple(windows)


def endless_windows(num_frames: int, fps: float, take: Take) -> Iterator[Window]:
    """Yield windows of num_frames (8k + 1) each, one after the other without an end."""
    window = latent_frames(num_frames)
    overlap = overlap_of(take, window)
    _check_overlap(window, overlap)
    before = None
    for index in itertools.count():
        start = index * (window - overlap)
        before = _window(index, start, start + window, overlap if before else 0, before, fps)
        yield before


def cut_take(take: Take, num_frames: int, fps: float, default_frames: int) -> tuple[Window, ...]:
    """Return the windows of a take. default_frames: the model's length of a window, 8k + 1."""
    window = latent_frames(take.window_frames or default_frames)
    return plan_windows(num_frames, fps, window=window, overlap=overlap_of(take, window))


def overlap_of(take: Take, window: int) -> int:
    """Return how many latent frames two windows of `window` latent frames share."""
    if take.overlap_frames is None:
        return max(MIN_OVERLAP, window // OVERLAP_SHARE)
    return take.overlap_frames // TIME_SCALE


def given_frames(window: Window) -> int:
    """Return how many frames of the window's clip the window before has shown."""
    return 0 if window.overlap == 0 else TIME_SCALE * (window.overlap - 1) + 1


def _check_overlap(window: int, overlap: int) -> None:
    if not MIN_OVERLAP <= overlap <= window // 2:
        raise RequestError(
            f"windows of {TIME_SCALE * (window - 1) + 1} frames cannot overlap by {TIME_SCALE * overlap}; "
            f"let the overlap be between {TIME_SCALE * MIN_OVERLAP} frames and half a window",
            field="take",
        )


def window_seed(seed: int, window: Window) -> int:
    """Return a window's seed: the request's own for the first, another for every other."""
    return int((seed + window.start) % 2**63)


def _window(index: int, start: int, stop: int, overlap: int, before: Window | None, fps: float) -> Window:
    local = audio_latent_length(TIME_SCALE * (stop - start - 1) + 1, fps)
    audio_stop = audio_latent_length(TIME_SCALE * (stop - 1) + 1, fps)
    audio_start = audio_stop - local
    audio_overlap = 0 if before is None else before.audio_stop - audio_start
    if before is not None and audio_overlap < MIN_AUDIO_OVERLAP:
        raise RequestError(
            f"an overlap of {TIME_SCALE * overlap} frames at {fps:g} fps is too short for sound to go on; "
            "make it longer",
            field="take",
        )
    return Window(index, start, stop, overlap, audio_start, audio_stop, audio_overlap, fps)


def _even(total: int, count: int) -> Sequence[int]:
    """Split `total` into `count` parts that differ by one at most, the larger first."""
    small, larger = divmod(total, count)
    return [small + (i < larger) for i in range(count)]
