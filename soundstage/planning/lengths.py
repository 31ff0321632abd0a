"""The length of a film: frames that are made, and frames of the result, as asked or as long as its inputs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from soundstage.errors import MediaError
from soundstage.media.probe import probe
from soundstage.planning.grid import cover_frames, frames_at, frames_over, snap_frames
from soundstage.planning.resolve import ResolvedRequest
from soundstage.request.request import Request

SOUND_TOLD = "audio.file lasts"
TOLD_S = 0.05  # a smaller difference between a sound and its film gets no notice


@dataclass(frozen=True)
class Length:
    """Frames before thinning.

    made: those that the model makes, a multiple of its step plus 1. shown: those of the result, fewer where
    the rest only fills the last latent. whole_sound: the result keeps a given sound to its own end.
    """

    made: int
    shown: int
    whole_sound: bool = False


def film_length(resolved: ResolvedRequest, fps: float) -> Length:
    """Return the length of the film at `fps`, before thinning; too long a one is a problem."""
    request = resolved.request
    asked = request.num_frames is not None or request.duration_s is not None
    given = None if asked else _given_frames(resolved, fps)
    if given is not None:
        length = Length(
            cover_frames(given, resolved.frame_step), given, whole_sound=not resolved.extension()[1]
        )
    else:
        length = _asked(resolved, fps)
        heard = length_notice(driving_s(request), length.shown / fps)
        if heard:
            resolved.notice(heard)
    limit = resolved.defaults.max_duration_s
    if (length.made - 1) / fps > limit + 1e-9:  # 20 s at 24 fps are 481 frames, 20.04 s
        resolved.problem(
            "duration_s",
            f"the clip would last {length.shown / fps:.4g} s; this model makes at most {limit:g} s at once, "
            "so give a shorter duration or fewer frames",
        )
        made = snap_frames(
            int(limit * fps), resolved.frame_step
        )  # what follows is checked with the longest there is
        return Length(made, made)
    return length


def driving_s(request: Request) -> float:
    """Return how long a driving sound lasts, with which the film ends if nothing else says; 0 without one."""
    audio = request.audio
    if audio is None or audio.mode != "driving" or request.source is not None:
        return 0.0
    try:
        sound_s = probe(audio.file).sound_s
    except MediaError:
        return 0.0
    return max(0.0, (sound_s or 0.0) - audio.start_s)


def length_notice(sound_s: float, film_s: float) -> str | None:
    """Return the notice for a driving sound that is longer or shorter than the film was asked to be."""
    if sound_s > film_s + TOLD_S:
        return f"{SOUND_TOLD} {sound_s:.4g} s, of which the first {film_s:.4g} s are heard"
    if 0 < sound_s < film_s - TOLD_S:
        return f"{SOUND_TOLD} {sound_s:.4g} s, and the rest of the {film_s:.4g} s is silent"
    return None


def _given_frames(resolved: ResolvedRequest, fps: float) -> int | None:
    """Return the frames of the inputs with what is made around them; None where no input has a length."""
    source = resolved.source
    if source is None:
        seconds = driving_s(resolved.request)
        return frames_over(seconds, fps, resolved.request.thin) if seconds else None
    taken = resolved.source_frames(fps)
    if taken < 1 and not {"source.video", "source.audio"} & set(resolved.infos):
        return None  # a problem already
    if taken < 1:
        resolved.problem("source", f"source.start_s is {source.start_s:g}, past the source's end")
        return None
    return taken + sum(resolved.extension())


def _asked(resolved: ResolvedRequest, fps: float) -> Length:
    """Return the length asked for, or the model's own, at the nearest that can be made."""
    request, step = resolved.request, resolved.frame_step
    if request.num_frames is not None:
        asked = request.thin * (request.num_frames - 1) + 1
    else:
        own_s = resolved.defaults.num_frames / resolved.defaults.fps
        asked = max(1, round((request.duration_s or own_s) * fps))
        relit = None if request.duration_s is not None else _relit_frames(resolved, fps)
        asked = asked if relit is None else relit
    used = snap_frames(asked, step)
    there = _there(resolved, fps)
    if there is not None and asked <= there < used:  # all that is given, and not beyond it
        return Length(used, asked)
    if request.duration_s is not None and not math.isclose(used / fps, request.duration_s, rel_tol=1e-9):
        rule = f"{used} frames at {fps:g} fps, {step}k+1"
        resolved.snap("duration", f"{request.duration_s:.4g} s", f"{used / fps:.4g} s", rule)
    if request.num_frames is not None and used != asked:
        resolved.snap("frames", str(request.num_frames), str((used - 1) // request.thin + 1), f"{step}k+1")
    return Length(used, used)


def _relit_frames(resolved: ResolvedRequest, fps: float) -> int | None:
    """Return the frames of a film with light that is as long as its reference, not beyond its end."""
    if resolved.relit is None or resolved.relit.num_frames < 2:
        return None
    count = frames_at(resolved.relit, fps, resolved.made_fps)
    return max(count - 1, resolved.frame_step) // resolved.frame_step * resolved.frame_step + 1


def _there(resolved: ResolvedRequest, fps: float) -> int | None:
    """Return the source's frames from its start on, with what is made around them; None without a source."""
    if resolved.source is None or resolved.source_info is None:
        return None
    return resolved.source_frames(fps) + sum(resolved.extension())
