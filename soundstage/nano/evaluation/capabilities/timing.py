"""Measure time: prompts with parts, and takes longer than the model makes at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain

import numpy as np

from soundstage.media.arrays import Frames
from soundstage.nano.evaluation.backdrop import Floats
from soundstage.nano.evaluation.capabilities.case import (
    NUM_FRAMES,
    Case,
    Row,
    Section,
    Shown,
    first_new_frames,
    is_solo,
    request_of,
    scenes_where,
    shown_of,
    words,
)
from soundstage.nano.evaluation.capabilities.compare import changes, colors_seen, step_ratio
from soundstage.nano.evaluation.capabilities.given import recolored
from soundstage.nano.evaluation.measure import Outcome
from soundstage.nano.evaluation.picture import look
from soundstage.nano.evaluation.report import Samples, Target
from soundstage.nano.world.scene import Scene
from soundstage.planning.windows import cut_take
from soundstage.request.take import Take

# --- prompts with parts -----------------------------------------------------------------------------------

SWITCH_S = 1.0
SLACK_S = 0.25  # around a switch: most of a latent frame
SHARE = 0.8  # of a part's frames


def timed_cases(count: int, seed: int) -> list[Case]:
    """Return cases of a colour that changes after a second and, in turn, of stillness before a flash."""
    half = -(-count // 2)
    colors = scenes_where(lambda s: is_solo(s, "rest", "orbit") and s.camera == "static", half, seed)
    flashes = scenes_where(lambda s: is_solo(s, "blink") and s.camera == "static", half, seed)
    pairs = zip(map(_color_case, colors), map(_flash_case, flashes), strict=True)
    return list(chain.from_iterable(pairs))[:count]


def _timed(first: Scene, second: Scene) -> str:
    return f"[0-{SWITCH_S:g}s] {words(first)} [{SWITCH_S:g}-{2 * SWITCH_S:g}s] {words(second)}"


def _color_case(scene: Scene) -> Case:
    still = replace(scene, subjects=tuple(replace(s, delay_s=0.0) for s in scene.subjects))
    other = recolored(still)

    def truth() -> tuple[Shown, ...]:
        first, second = shown_of(still), shown_of(other)
        assert first.frames is not None
        assert second.frames is not None
        at = round(SWITCH_S * scene.fps)
        return (replace(first, frames=np.concatenate([first.frames[:at], second.frames[at:]])),)

    names = tuple(s.subjects[0].color for s in (still, other))
    return Case(still, (request_of(still, _timed(still, other)),), truth, {"colors": names})


def _flash_case(scene: Scene) -> Case:
    subject = replace(scene.subjects[0], action="blink", count=1, delay_s=0.0)
    flash = replace(scene, subjects=(subject,))
    rest = replace(scene, subjects=(replace(subject, action="rest", count=0),))
    later = replace(scene, subjects=(replace(subject, delay_s=SWITCH_S),))
    return Case(later, (request_of(later, _timed(rest, flash)),), lambda: (shown_of(later),))


def measure_timed(case: Case, shown: Sequence[Shown]) -> Mapping[str, Samples]:
    frames, fps = shown[0].frames, case.scene.fps
    assert frames is not None
    if "colors" in case.facts:
        right = _parts_in_color(frames, fps, case.facts["colors"])
        return {"colour in its part": Outcome(sum(right), len(right))}
    flashes = [event.time_s for event in look(frames, fps).events if event.kind == "chime"]
    in_time = bool(flashes) and min(flashes) >= SWITCH_S - SLACK_S
    return {"action in its part": Outcome(int(in_time), 1)}


def _parts_in_color(frames: Frames, fps: float, colors: tuple[str, str]) -> list[bool]:
    """Return for each part whether its own colour is seen in it and the other part's is not."""
    times = np.arange(len(frames)) / fps
    spans = (times < SWITCH_S - SLACK_S, times >= SWITCH_S + SLACK_S)
    seen = colors_seen(frames, fps)
    unseen = np.zeros(len(frames), dtype=bool)
    first, second = (seen.get(color, unseen) for color in colors)
    pairs = ((first, second, spans[0]), (second, first, spans[1]))
    return [bool((own & ~other)[span].mean() >= SHARE) for own, other, span in pairs]


TIMED = Section(
    "timed-prompts",
    (
        Row(
            "colour in its part",
            "parts of a prompt whose colour is seen in 80 % of their frames, a quarter second around the "
            "switch left out, and no other part's",
            Target(0.85),
        ),
        Row(
            "action in its part",
            "flashes asked for in the second part and seen only there, give or take a quarter second",
            Target(0.85),
        ),
    ),
    timed_cases,
    measure_timed,
)

# --- long takes -------------------------------------------------------------------------------------------

TAKE_S = 60.0
PIECE_FRAMES = 25
AROUND_FRAMES = 2
VISIBLE = 1.5  # times the 99th percentile of changes elsewhere
AUDIBLE = 2.0  # times the largest step between samples elsewhere


def take_cases(count: int, seed: int, length_s: float = TAKE_S) -> list[Case]:
    """Return cases of a thing that circles or swings for a minute."""
    scenes = scenes_where(
        lambda s: is_solo(s, "orbit", "swing") and s.camera == "static" and s.ambience in ("wind", "hum"),
        count,
        seed,
    )
    return [_take_case(scene, length_s) for scene in scenes]


def _take_case(scene: Scene, length_s: float) -> Case:
    num_frames = round(length_s * scene.fps) // 8 * 8 + 1
    whole = replace(scene, shape=replace(scene.shape, num_frames=num_frames))
    take = Take(window_frames=NUM_FRAMES)
    request = request_of(scene, num_frames=num_frames, take=take)

    def truth() -> tuple[Shown, ...]:
        windows = cut_take(take, num_frames, scene.fps, NUM_FRAMES)
        return (shown_of(whole, seams=first_new_frames((w.start, w.overlap) for w in windows)),)

    return Case(whole, (request,), truth)


def measure_take(case: Case, shown: Sequence[Shown]) -> Mapping[str, Samples]:
    made, fps = shown[0], case.scene.fps
    assert made.frames is not None
    firsts = range(0, len(made.frames) - PIECE_FRAMES + 1, PIECE_FRAMES)
    pieces = [made.frames[first : first + PIECE_FRAMES] for first in firsts]
    kept = [set(colors_seen(piece, fps)) == {case.scene.subjects[0].color} for piece in pieces]
    unseen = _quiet_seams(changes(made.frames), made.seams)
    rows: dict[str, Samples] = {
        "colour kept": Outcome(sum(kept), len(kept)),
        "seams unseen": Outcome(sum(unseen), len(unseen)),
    }
    if made.waveform is not None:
        sound = made.waveform
        unheard = [
            step_ratio(sound, (f / fps - 0.15, f / fps + 0.15), (f / fps + 0.2, f / fps + 0.6)) <= AUDIBLE
            for f in made.seams
        ]
        rows["seams unheard"] = Outcome(sum(unheard), len(unheard))
    return rows


def _quiet_seams(change: Floats, seams: Sequence[int]) -> list[bool]:
    """Return for each seam whether the picture changes at it no more than elsewhere.

    change[i]: the change from frame i to frame i + 1.
    """
    near = np.zeros(len(change), dtype=bool)
    windows = [slice(max(0, f - 1 - AROUND_FRAMES), f + AROUND_FRAMES) for f in seams]
    for window in windows:
        near[window] = True
    usual = float(np.percentile(change[~near], 99))
    return [float(change[window].max()) <= VISIBLE * usual for window in windows]


LONG_TAKE = Section(
    "long-take",
    (
        Row("colour kept", "stretches of 25 frames with a subject of the asked colour alone", Target(0.95)),
        Row(
            "seams unseen",
            "seams of windows where the picture changes no more than 1.5 times the 99th percentile of "
            "changes elsewhere",
            Target(0.95),
        ),
        Row(
            "seams unheard",
            "seams where the largest step between samples is at most twice that of the stretch after",
            Target(0.95),
        ),
    ),
    take_cases,
    measure_take,
    num_cases=1,
)
