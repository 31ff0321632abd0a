"""Check a script before anything is made: each shot's prompt, length, time and memory, and what to better.

Nothing is rendered and no torch is loaded: shots are planned as `soundstage plan` does. A shot that goes on
from another is planned with a blank in place of that clip.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from soundstage.editing import Timeline, planned_notices, planned_refusals
from soundstage.editing.grid import PLAIN_FPS, PLAIN_SIZE
from soundstage.errors import ConfigError, MediaError, RequestError
from soundstage.media.in_memory import InMemory
from soundstage.media.probe import Info
from soundstage.production.cutting import ShotLength, cut_refusals, film_frames
from soundstage.production.film import timeline_of
from soundstage.production.names import alike
from soundstage.production.script import Script
from soundstage.production.shots import ShotRequest, shot_requests
from soundstage.production.wording import heard_in, seen_in, words_said
from soundstage.prompts.lint import lint
from soundstage.prompts.rules_sound import WORDS_PER_S
from soundstage.prompts.vocabulary import Vocabulary

if TYPE_CHECKING:
    from soundstage.engine import Engine
    from soundstage.planning.placement import Choice
    from soundstage.planning.plan import Plan
    from soundstage.request.request import Request

SOUND_RATE_HZ = 48_000


@dataclass(frozen=True)
class ScriptFinding:
    """Something that could be better.

    severity: warning or info. rule: its name. span: the words that it is about, if some are.
    """

    severity: str
    rule: str
    why: str
    span: str = ""
    rewrite: str | None = None


@dataclass(frozen=True)
class CheckedShot:
    """A shot as it would be made. frames: those of its clip that are in the film."""

    made: ShotRequest
    plan: Plan
    choice: Choice
    frames: int
    findings: tuple[ScriptFinding, ...]

    @property
    def seconds(self) -> float:
        return self.frames / self.plan.fps

    @property
    def notices(self) -> tuple[str, ...]:
        """Return what is told of the shot and its plan."""
        return (*self.made.notices, *self.plan.notices)

    def to_dict(self) -> dict[str, Any]:
        """Return the shot as JSON-ready values."""
        price = self.choice.price
        return {
            "number": self.made.number,
            "id": self.made.id,
            "seed": self.made.seed,
            "prompt": self.plan.request.prompt,
            "seconds": self.seconds,
            "frames": self.frames,
            "lead_frames": self.made.lead_frames,
            "size": [self.plan.width, self.plan.height],
            "recipe": self.plan.recipe,
            "depends_on": list(self.made.depends_on),
            "transition": self.made.shot.transition,
            "time_s": price.seconds,
            "device_bytes": price.device_bytes,
            "host_bytes": price.host_bytes,
            "snapped": [str(snap) for snap in self.plan.snaps],
            "notices": list(self.notices),
            "findings": [asdict(finding) for finding in self.findings],
        }


@dataclass(frozen=True)
class ScriptCheck:
    """A whole script as it would be made.

    frames: those of the film, in which dissolving shots overlap. notices: what is told of its cut and mix.
    """

    script: Script
    shots: tuple[CheckedShot, ...]
    frames: int
    notices: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Return the length of the film."""
        return self.frames / self.shots[0].plan.fps

    @property
    def time_s(self) -> float:
        """Return the seconds of computing and reading for all shots, one after the other."""
        return sum(shot.choice.price.seconds for shot in self.shots)

    @property
    def host_bytes(self) -> float:
        return max(shot.choice.price.host_bytes for shot in self.shots)

    @property
    def device_bytes(self) -> float:
        return max(shot.choice.price.device_bytes for shot in self.shots)

    def to_dict(self) -> dict[str, Any]:
        """Return the check as JSON-ready values."""
        return {
            "title": self.script.title,
            "seconds": self.seconds,
            "frames": self.frames,
            "time_s": self.time_s,
            "device_bytes": self.device_bytes,
            "host_bytes": self.host_bytes,
            "notices": list(self.notices),
            "shots": [shot.to_dict() for shot in self.shots],
        }


def check_film(
    script: Script, stage: Engine, *, draft: bool = False, standing_in: Collection[int] = ()
) -> ScriptCheck:
    """Plan every shot of a script with an engine, and read its prompts.

    draft: as for a quick look. standing_in: numbers of shots whose refusals say nothing. Raises ConfigError,
    whose `sentences` name each shot that cannot be made, and each part of the cut and mix that does not fit.
    """
    requests = shot_requests(script, stage.model, draft=draft)
    choices = []

    def planned(request: Request) -> Plan:
        plan = stage.plan(request)
        choices.append(stage.choose(plan))
        return plan

    plans = checked_plans(script, requests, planned, standing_in=standing_in)
    lengths = _lengths(requests, plans)
    vocabulary = Vocabulary.of_folder(stage.model.folder)
    found = []
    for length, plan, choice in zip(lengths, plans.values(), choices, strict=True):
        made = length.made
        findings = [*_of_script(script, made), *_of_prompt(made, plan, vocabulary)]
        if vocabulary is not None:  # its prompts do not say the words
            findings += _of_lines(made, plan)
        found.append(CheckedShot(made, plan, choice, length.frames, tuple(findings)))
    notices = () if standing_in else tuple(mix_notices(script, requests, plans))
    return ScriptCheck(script, tuple(found), film_frames(lengths), notices)


def checked_plans(
    script: Script,
    requests: Sequence[ShotRequest],
    planned: Callable[[Request], Plan],
    *,
    burn_captions: bool = False,
    standing_in: Collection[int] = (),
) -> dict[str, Plan]:
    """Return the plan of each shot by its id. planned: returns that of a request.

    standing_in: numbers of shots whose refusals say nothing. Raises ConfigError, with a sentence for each
    shot that cannot be made or is too short for its cuts, and for each part of the mix that does not fit.
    """
    expected, plans, refused = _plans(requests, planned, standing_in)
    lengths = _lengths(requests, expected)
    short = cut_refusals(lengths, standing_in)
    cut = [_plainly_cut(made) for made in requests] if short or standing_in else requests
    told = [*refused, *short, *_mix_refusals(script, cut, expected, burn_captions)]
    if told:
        raise ConfigError("; ".join(told), sentences=told)
    return plans


def _plainly_cut(made: ShotRequest) -> ShotRequest:
    """Return a shot without its transition, J cut and L cut, so that the mix can be looked at."""
    return replace(made, shot=replace(made.shot, transition="cut", sound_lead_s=0.0, sound_lag_s=0.0))


def _lengths(requests: Sequence[ShotRequest], plans: Mapping[str, Plan | ExpectedClip]) -> list[ShotLength]:
    return [
        ShotLength(made, plans[made.id].num_shown - made.lead_frames, plans[made.id].fps) for made in requests
    ]


def _mix_refusals(
    script: Script,
    requests: Sequence[ShotRequest],
    expected: Mapping[str, ExpectedClip],
    burn_captions: bool,
) -> list[str]:
    """Return what the editing would refuse of the film when its shots are there, in words of the script."""
    told: list[str] = []
    shown = replace(script, mix=replace(script.mix, fade_out_s=0.0))  # for a film that is not as long
    for tried in (script, shown):
        infos, timeline = _planned_timeline(tried, requests, expected, burn_captions)
        try:
            told += planned_refusals(timeline(), infos)
        except MediaError as error:
            told.append(str(error))
            continue
        break
    told = list(dict.fromkeys(told))
    return [_in_script(sentence, requests) for sentence in told]


def mix_notices(
    script: Script,
    requests: Sequence[ShotRequest],
    plans: Mapping[str, Plan],
    *,
    burn_captions: bool = False,
) -> list[str]:
    """Return what is told of a film's cut before its shots are made, such as letters that a font lacks."""
    expected = {name: _expected(plan) for name, plan in plans.items()}
    infos, timeline = _planned_timeline(script, requests, expected, burn_captions)
    return [_in_script(sentence, requests) for sentence in planned_notices(timeline(), infos)]


def _planned_timeline(
    script: Script,
    requests: Sequence[ShotRequest],
    expected: Mapping[str, ExpectedClip],
    burn_captions: bool,
) -> tuple[list[Info], Callable[[], Timeline]]:
    """Return what the clips will be, and a function that returns the timeline, which may not fit them."""
    infos = [_clip_info(expected[made.id]) for made in requests]
    clips = {made.id: Path(made.id) for made in requests}
    return infos, partial(timeline_of, script, requests, clips, burn_captions=burn_captions, infos=infos)


def _clip_info(clip: ExpectedClip) -> Info:
    """Return what a clip will be, as it is found in its file."""
    sound_s = clip.num_shown / clip.fps if clip.has_sound else None
    return Info(*clip.size, clip.num_shown, clip.fps, sound_s)


def _in_script(sentence: str, requests: Sequence[ShotRequest]) -> str:
    """Return a sentence of the editing with the fields of the script in place of those of a timeline."""

    def shot(found: re.Match[str]) -> str:
        return f"shot {int(found[1]) + 1} ({requests[int(found[1])].id})"

    sentence = re.sub(r"^cuts\[(\d+)\]\.", lambda found: f"{shot(found)}: ", sentence)
    sentence = re.sub(r"\bcuts\[(\d+)\]( \(.*?\))?", shot, sentence)
    return re.sub(r"^(titles|music|voice_over|room_tone|fade_out_s)\b", r"mix.\1", sentence)


@dataclass(frozen=True)
class ExpectedClip:
    """The clip of a shot as it will be made; of one that cannot be planned, as it is asked for."""

    num_shown: int
    fps: float
    size: tuple[int, int]
    has_sound: bool = True


def _plans(
    requests: Sequence[ShotRequest], planned: Callable[[Request], Plan], standing_in: Collection[int]
) -> tuple[dict[str, ExpectedClip], dict[str, Plan], list[str]]:
    """Return what the clip of each shot will be, its plan, and a sentence for each that cannot be made."""
    expected: dict[str, ExpectedClip] = {}
    plans: dict[str, Plan] = {}
    refused = []
    for made in requests:
        most = max((made.lead_frames, *(need.lead_frames + 1 for need in made.needs)))
        blanks = {name: _blank(expected[name], most) for name in made.depends_on}
        try:
            plan = planned(made.filled(blanks))
        except RequestError as error:
            expected[made.id] = _asked_clip(made, list(expected.values()))
            if made.number not in standing_in:
                refused.append(f"shot {made.number} ({made.id}): {error}")
            continue
        plans[made.id] = plan
        expected[made.id] = _expected(plan)
    return expected, plans, refused


def _expected(plan: Plan) -> ExpectedClip:
    size = plan.shown_size or (plan.width, plan.height)
    return ExpectedClip(plan.num_shown, plan.fps, size, "audio" in plan.modalities)


def _asked_clip(made: ShotRequest, others: Sequence[ExpectedClip]) -> ExpectedClip:
    """Return what a clip would be as it is asked for, with the size and rate of another."""
    like = others[-1] if others else ExpectedClip(1, PLAIN_FPS, PLAIN_SIZE)
    fps, asked = made.request.fps or like.fps, made.request
    frames = asked.num_frames or round((asked.duration_s or 1.0) * fps)
    return ExpectedClip(max(1, frames) + made.lead_frames, fps, like.size, like.has_sound)


def _blank(clip: ExpectedClip, num_frames: int) -> InMemory:
    """Return a black, silent clip in place of one that is not made yet, as long as what is taken of it."""
    width, height = clip.size
    frames = np.zeros((num_frames, height, width, 3), np.uint8)
    samples = np.zeros((2, round(len(frames) / clip.fps * SOUND_RATE_HZ)), np.float32)
    return InMemory(frames, samples, clip.fps)


def _of_script(script: Script, made: ShotRequest) -> Iterator[ScriptFinding]:
    """Yield what could be better in how the script puts a shot."""
    shot = made.shot
    voices = [name for name in heard_in(script, shot) if script.cast[name].voice_clip is not None]
    if len(voices) > 1:
        yield ScriptFinding(
            "warning",
            "one-voice",
            f"{' and '.join(voices)} have voice clips, and a shot is made with one: that of {voices[0]}",
        )
    if (
        shot.match_audio_of is not None
        and made.needed("match_audio_of") is None
        and made.request.audio is None
    ):
        why = "without an identity LoRA it has the sounds of that shot in words, and not its voice"
        yield ScriptFinding("info", "match-audio", why)
    policy = shot.sound or script.sound
    if policy is not None and policy.speech == "none" and shot.lines:
        yield ScriptFinding("warning", "policy", "the sound policy has speech none, and the shot has lines")
    for name in dict.fromkeys((*seen_in(script, shot), *heard_in(script, shot))):
        if script.cast[name].description.strip() == name:
            yield ScriptFinding("info", "described", f"{name} has no description that a model could see")
    for first, later in alike(script.shots):
        if later == made.number - 1:
            yield ScriptFinding(
                "info", "own-id", f"it begins like shot {first + 1}; give it an id, so that its seed stays"
            )


def _of_lines(made: ShotRequest, plan: Plan) -> Iterator[ScriptFinding]:
    """Yield that a shot is too short for its lines to be read, where no rule for prompts sees them."""
    spoken_s = words_said(made.shot.lines) / WORDS_PER_S
    if spoken_s > plan.duration_s:
        why = f"its lines need about {spoken_s:.1f} s and it lasts {plan.duration_s:.1f} s"
        yield ScriptFinding("warning", "speech-length", why)


def _of_prompt(made: ShotRequest, plan: Plan, vocabulary: Vocabulary | None) -> Iterator[ScriptFinding]:
    prompt = plan.request.prompt
    for found in lint(
        prompt,
        kind="image" if made.lead_frames else "text",
        seconds=plan.duration_s,
        sounds="audio" in plan.modalities,
        vocabulary=vocabulary,
    ):
        yield ScriptFinding(found.severity, found.rule, found.why, found.span, found.rewrite)
    hint = None if vocabulary is None else vocabulary.hint(plan.model, prompt)
    if hint is not None:
        yield ScriptFinding("warning", "vocabulary", hint)
