"""Plans of requests of any length: one clip, or windows that are joined.

A window's plan is the plan of an ordinary request: the prompt's parts that fall in it, the guides and LoRA
spans that fall in its new part, its share of a driving sound, a seed of its own. What it is given by the
window before is added when it runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from soundstage.errors import RequestError, SoundstageError
from soundstage.library.model_files import ModelSet
from soundstage.planning.grid import cover_frames, frames_over, snap_frames
from soundstage.planning.lengths import SOUND_TOLD, TOLD_S, driving_s, length_notice
from soundstage.planning.plan import Plan, Snap
from soundstage.planning.planner import make_plan
from soundstage.planning.resolve import shown_fps
from soundstage.planning.seeds import seed_of, seeded
from soundstage.planning.windows import MAX_TAKE_S, Window, cut_take, window_seed
from soundstage.prompts.timeline import PromptTimeline, parse_timeline
from soundstage.request.defaults import Defaults
from soundstage.request.inputs import Audio, Guide, Lora, Span
from soundstage.request.recipe import Recipe
from soundstage.request.recipes import recipe_named
from soundstage.request.request import Request
from soundstage.request.take import Take


def plan_request(request: Request, model: ModelSet) -> Plan:
    """Return the plan of a request of any length. Raises RequestError with all problems.

    A clip that is longer than the model makes at once, or than a window of its take, is planned in windows. A
    seed that is left out is drawn here, so that the same plan always makes the same clip.
    """
    request = seeded(request)
    try:
        recipe = recipe_named(request.recipe)
    except SoundstageError:
        return make_plan(request, model)  # which tells this and all other problems
    asked = request.duration_s is not None or request.num_frames is not None
    sound_s = driving_s(request)
    follows = not asked and sound_s > 0  # the film is as long as its sound
    length_s = sound_s if follows else _length_s(request, recipe, model.defaults)
    if request.take is None and length_s <= model.defaults.max_duration_s:
        return make_plan(request, model, recipe)
    if length_s > MAX_TAKE_S:
        _refuse_length(request, model, length_s)
    fps = shown_fps(request, recipe, model.defaults) * request.thin
    shown = frames_over(length_s, fps, request.thin) if follows else None
    num_frames = snap_frames(round(length_s * fps)) if shown is None else cover_frames(shown)
    windows = cut_take(request.take or Take(), num_frames, fps, model.defaults.num_frames)
    if len(windows) == 1:
        return make_plan(request, model, recipe)
    problems = _problems(request, recipe, length_s, sound_s) + _beyond(request, windows)
    try:
        timeline = parse_timeline(
            request.prompt, num_frames=num_frames, fps=fps, lengths=request.lengths, relay=request.relay
        )
        first = make_plan(window_request(request, windows[0], windows, timeline), model, recipe)
    except RequestError as problem:
        problems.append(problem)
    _raise(problems)
    rest = (make_plan(window_request(request, w, windows, timeline), model, recipe) for w in windows[1:])
    joined = _joined(request, (first, *rest), windows, timeline, shown)
    return replace(joined, notices=_notices(joined, None if follows else sound_s))


def _refuse_length(request: Request, model: ModelSet, length_s: float) -> None:
    """Raise, without cutting thousands of windows, and with what else is wrong."""
    told = f"the clip would last {length_s:.4g} s; the longest take is {MAX_TAKE_S:g} s"
    sentence = f"{told}, so give a shorter duration"
    problems = [RequestError(sentence, field="duration_s")]
    try:
        short = {"duration_s": None, "num_frames": model.defaults.num_frames, "take": None}
        make_plan(request.model_copy(update=short), model)
    except RequestError as problem:
        problems.append(problem)
    _raise(problems)


def _raise(problems: Sequence[RequestError]) -> None:
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise RequestError("; ".join(str(problem) for problem in problems))


def window_request(
    request: Request, window: Window, windows: Sequence[Window], timeline: PromptTimeline
) -> Request:
    """Return the request of one window of a take, as a clip of its own."""
    values: dict[str, Any] = {name: getattr(request, name) for name in Request.model_fields}
    values.update(
        prompt=timeline.cut(window.offset_s, window.end_s).prompt(),
        lengths=None,
        take=None,
        source=None,
        references=(),
        controls=(),
        duration_s=None,
        num_frames=window.num_frames,
        fps=window.fps,
        thin=1,
        seed=window_seed(seed_of(request), window),
        guides=tuple(_guides(request, window, windows)),
        loras=tuple(_loras(request.loras, window)),
        audio=_audio(request.audio, window),
    )
    return Request(**values)


def _length_s(request: Request, recipe: Recipe, defaults: Defaults) -> float:
    """Return the seconds asked for; 0 where the length is that of an input, which makes one clip."""
    if request.duration_s is not None:
        return request.duration_s
    if request.num_frames is None:
        return 0.0 if request.take is None else defaults.num_frames / defaults.fps
    return request.num_frames / shown_fps(request, recipe, defaults)


def _problems(request: Request, recipe: Recipe, length_s: float, sound_s: float) -> list[RequestError]:
    """Return what of a request windows cannot do. sound_s: how long a driving sound lasts, 0 without one."""
    told = f"a clip of {length_s:.4g} s is made in windows"
    rules = [
        (request.source is not None, "source", f"{told}, which cannot start from a source; make it shorter"),
        (
            0 < sound_s < length_s - TOLD_S,
            "audio",
            f"{told}, and {SOUND_TOLD} only {sound_s:.4g} s; give a longer sound or no length",
        ),
        (bool(request.references), "references", f"{told}, which cannot see references; make it shorter"),
        (bool(request.controls), "controls", f"{told}, which cannot see controls; make it shorter"),
        (
            any(pass_.time != 1 for pass_ in recipe.passes),
            "recipe",
            f"{told}, and recipe '{recipe.name}' changes the frame rate between its passes; use another",
        ),
    ]
    return [RequestError(sentence, field=field) for wrong, field, sentence in rules if wrong]


def _beyond(request: Request, windows: Sequence[Window]) -> list[RequestError]:
    """Return a problem for each guide and span that no window would have."""
    end_s, found = windows[-1].end_s, []
    for i, guide in enumerate(request.guides):
        frame = _frame(guide, windows, request.thin)
        if frame is not None and not 0 <= frame < windows[-1].offset_frames + windows[-1].num_frames:
            told = f"guides[{i}] is at {frame / windows[0].fps:.4g} s, but the clip ends at {end_s:.4g} s"
            found.append(RequestError(f"{told}; give an earlier time or 'last'", field="guides"))
    for i, lora in enumerate(request.loras):
        if lora.span is not None and lora.span.start_s >= end_s:
            told = f"loras[{i}] begins at {lora.span.start_s:g} s, but the clip ends at {end_s:.4g} s"
            found.append(RequestError(f"{told}; give an earlier span", field="loras"))
    return found


def _frame(guide: Guide, windows: Sequence[Window], thin: int) -> int | None:
    """Return the frame of the take, before thinning, where a guide begins; None for "before" and "last"."""
    if isinstance(guide.at, str):
        return None
    if guide.frame is None:
        return round((guide.at or 0.0) * windows[0].fps)
    last = windows[-1].offset_frames + windows[-1].num_frames - 1
    return guide.frame * thin if guide.frame >= 0 else last + (guide.frame + 1) * thin


def _guides(request: Request, window: Window, windows: Sequence[Window]) -> list[Guide]:
    """Return the guides that begin in the window's new part, at the window's own frames."""
    found = []
    for guide in request.guides:
        frame = _frame(guide, windows, request.thin)
        if frame is None and window.index == (0 if guide.at == "before" else len(windows) - 1):
            found.append(guide)
        elif frame is not None and window.owns_frame(frame):
            found.append(replace(guide, at=None, frame=frame - window.offset_frames))
    return found


def _loras(loras: Sequence[Lora], window: Window) -> list[Lora]:
    """Return the LoRAs that hold in the window, their spans in its own time."""
    found = []
    for lora in loras:
        if lora.span is None:
            found.append(lora)
            continue
        start_s = max(lora.span.start_s - window.offset_s, 0.0)
        end_s = min(lora.span.end_s, window.end_s) - window.offset_s
        if end_s > start_s:
            found.append(replace(lora, span=Span(start_s, end_s)))
    return found


def _audio(audio: Audio | None, window: Window) -> Audio | None:
    """Return a driving sound from where the window's sound begins; a voice is the same in all windows."""
    if audio is None or audio.mode != "driving":
        return audio
    return replace(audio, start_s=audio.start_s + window.audio_offset_s)


def _joined(
    request: Request,
    clips: tuple[Plan, ...],
    windows: tuple[Window, ...],
    timeline: PromptTimeline,
    shown: int | None,
) -> Plan:
    """Return the plan of the whole take: that of its first window, over the take's length.

    shown: how many frames the result has where it is as long as its driving sound, else None.
    """
    first, last = clips[0], windows[-1]
    num_frames = last.offset_frames + last.num_frames
    snaps = [snap for snap in first.snaps if snap.field not in ("duration", "frames")]
    made_s = num_frames / first.fps
    if request.duration_s is not None and abs(made_s - request.duration_s) > 1e-9:
        rule = f"{num_frames} frames at {first.fps:g} fps, 8k+1"
        snaps.append(Snap("duration", f"{request.duration_s:g} s", f"{made_s:.4g} s", rule))
    return replace(
        first,
        request=request,
        num_frames=num_frames,
        thin=request.thin,
        timeline=timeline,
        snaps=tuple(snaps),
        windows=windows,
        clips=clips,
        shown_frames=None if shown == num_frames else shown,
        whole_sound=shown is not None,
    )


def _notices(joined: Plan, sound_s: float | None) -> tuple[str, ...]:
    """Return the notices of all windows, each once; about a driving sound, the one for the whole take.

    sound_s: how long a driving sound lasts, 0 without one; None where the take is as long.
    """
    told = dict.fromkeys(notice for clip in joined.clips for notice in clip.notices)
    heard = None if sound_s is None else length_notice(sound_s, joined.duration_s)
    own = () if heard is None else (heard,)
    return (*(notice for notice in told if not notice.startswith(SOUND_TOLD)), *own)
