"""Measure picture and sound for each other: a given track, a silent clip, a sound asked against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from soundstage.clip import Clip
from soundstage.nano.evaluation.capabilities.case import (
    Case,
    Row,
    Section,
    Shown,
    is_solo,
    request_of,
    scenes_where,
    shown_of,
)
from soundstage.nano.evaluation.measure import Outcome
from soundstage.nano.evaluation.picture import look
from soundstage.nano.evaluation.report import Samples, Target
from soundstage.nano.evaluation.sound import EVENTS, Heard, listen
from soundstage.nano.world.motion import simulate
from soundstage.nano.world.scene import Scene
from soundstage.request.inputs import Audio, Source

SOUNDING = ("bounce", "blink")
# Delays of the given clips, in turn. The prompt does not tell them: only the given track or picture does.
LATE_S = (0.2, 0.35, 0.5)
BEAT_FRAMES, HEARD_FRAMES = 2, 1
ROUNDING_S = 1e-3


def _late_scenes(count: int, seed: int) -> list[tuple[Scene, Scene]]:
    """Return pairs of scenes: bounces and flashes as the prompt tells them, and the same some time later."""
    told = scenes_where(
        lambda s: is_solo(s, *SOUNDING) and not s.subjects[0].delay_s and _is_quiet(s), count, seed
    )
    return [(scene, _delayed(scene, LATE_S[i % len(LATE_S)])) for i, scene in enumerate(told)]


def _is_quiet(scene: Scene) -> bool:
    return scene.ambience == "silence" and scene.voice is None


def _delayed(scene: Scene, seconds: float) -> Scene:
    return replace(scene, subjects=tuple(replace(s, delay_s=seconds) for s in scene.subjects))


def _beats(scene: Scene) -> list[float]:
    return [event.time_s for event in simulate(scene).events if event.kind in EVENTS]


def _on_time(asked: Sequence[float], found: Sequence[float], slack_s: float) -> Outcome:
    """Return how many of the asked times have a found one near them; each found one counts once."""
    left, hits = list(found), 0
    for at in asked:
        near = [t for t in left if abs(t - at) <= slack_s + ROUNDING_S]
        if near:
            left.remove(min(near, key=lambda t: abs(t - at)))
            hits += 1
    return Outcome(hits, len(asked))


# --- picture to a given sound ---------------------------------------------------------------------------


def track_cases(count: int, seed: int) -> list[Case]:
    """Return cases in which a track of thuds or chimes drives the picture."""
    cases = []
    for told, given in _late_scenes(count, seed):
        clip = shown_of(given)
        audio = Audio(Clip(None, clip.waveform, given.fps))
        cases.append(Case(given, (request_of(told, audio=audio),), lambda clip=clip: (clip,)))  # type: ignore[misc]
    return cases


def measure_track(case: Case, shown: Sequence[Shown]) -> Mapping[str, Samples]:
    frames = shown[0].frames
    assert frames is not None
    seen = [event.time_s for event in look(frames, case.scene.fps).events]
    return {"beats seen": _on_time(_beats(case.scene), seen, BEAT_FRAMES / case.scene.fps)}


TRACK = Section(
    "audio-to-video",
    (
        Row(
            "beats seen",
            "beats of the given track with a bounce or flash seen within two frames",
            Target(0.85),
        ),
    ),
    track_cases,
    measure_track,
    num_cases=12,
)

# --- sound for a silent clip ----------------------------------------------------------------------------


def silent_cases(count: int, seed: int) -> list[Case]:
    """Return cases in which a silent clip of bounces or flashes is given."""
    cases = []
    for told, given in _late_scenes(count, seed):
        clip = shown_of(given)
        source = Source(Clip(clip.frames, None, given.fps), modalities=frozenset({"audio"}))
        request = request_of(told, source=source, size=None, num_frames=None)
        cases.append(Case(given, (request,), lambda clip=clip: (clip,)))  # type: ignore[misc]
    return cases


def measure_silent(case: Case, shown: Sequence[Shown]) -> Mapping[str, Samples]:
    heard = _heard(shown[0])
    kinds = {event.kind for event in simulate(case.scene).events}
    onsets = [at for kind, at in heard.onsets if kind in kinds]
    return {"events heard": _on_time(_beats(case.scene), onsets, HEARD_FRAMES / case.scene.fps)}


SILENT = Section(
    "video-to-audio",
    (
        Row(
            "events heard",
            "bounces and flashes of the silent clip with their sound within one frame",
            Target(0.85),
        ),
    ),
    silent_cases,
    measure_silent,
    num_cases=12,
)

# --- sounds asked against -------------------------------------------------------------------------------

AGAINST = ("rain", "hum")
NAG_SCALE = 11.0


def against_cases(count: int, seed: int) -> list[Case]:
    """Return cases with rain or a hum, made without and with NAG against it; audio guidance is off."""
    scenes = scenes_where(lambda s: s.ambience in AGAINST and is_solo(s, *SOUNDING), count, seed)
    return [_against_case(scene) for scene in scenes]


def _against_case(scene: Scene) -> Case:
    plain = request_of(scene, audio_guidance=1.0)
    against = request_of(
        scene,
        audio_guidance=1.0,
        audio_negative_prompt=scene.ambience,
        audio_scales={"nag": NAG_SCALE},
    )

    def truth() -> tuple[Shown, ...]:
        return shown_of(scene), shown_of(replace(scene, ambience="silence"))

    return Case(scene, (plain, against), truth)


def measure_against(case: Case, shown: Sequence[Shown]) -> Mapping[str, Samples]:
    plain, against = (_heard(one).classes for one in shown)
    name = case.scene.ambience
    rows: dict[str, Samples] = {}
    if name in plain:
        rows["removed"] = Outcome(int(name not in against), 1)
    others = plain - {name}
    if others:
        rows["others stay"] = Outcome(len(others & against), len(others))
    return rows


AGAINST_SOUND = Section(
    "sound-asked-against",
    (
        Row("removed", "clips in which the rain or hum heard without NAG is not heard with it", Target(0.8)),
        Row("others stay", "other sounds heard without NAG and still heard with it", Target(0.8)),
    ),
    against_cases,
    measure_against,
    num_cases=12,
)


def _heard(shown: Shown) -> Heard:
    return Heard(frozenset(), ()) if shown.waveform is None else listen(shown.waveform)
