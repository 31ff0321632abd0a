"""Shots as requests: prompts, faces, voices, adapters, seeds, and what each needs of other shots. No torch.

for made in shot_requests(read_script("film.yaml")):
    request = made.filled({"red-ball-rolls": "red-ball-rolls.mp4"})
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from soundstage.errors import RequestError, num_of
from soundstage.library.model_files import ModelSet, find_model
from soundstage.media.probe import probe
from soundstage.planning.grid import snap_frames
from soundstage.production.faults import check_script
from soundstage.production.names import index_of, shot_ids, shot_seed
from soundstage.production.script import FilmPlace, Script, Shot
from soundstage.production.stills import still
from soundstage.production.wording import hears_clip, prompt_of, seen_in, words_said
from soundstage.prompts.rules_sound import WORDS_PER_S
from soundstage.prompts.vocabulary import Vocabulary
from soundstage.request.defaults import Defaults
from soundstage.request.inputs import Audio, Guide, Lora, Reference, Source
from soundstage.request.recipes import recipe_named
from soundstage.request.request import Request

Use = Literal["continues", "same_place_as", "match_audio_of"]
USES: tuple[Use, ...] = get_args(Use)
LEAD_FRAMES = 25  # of the shot before, which a continuing one is made after: about a second
SPEECH_MARGIN_S = 0.5
LEVEL_FIELDS = ("steps", "schedule", "sigmas")  # of a request, which say its noise levels


@dataclass(frozen=True)
class ShotNeed:
    """Another shot whose clip a request is made with.

    id: that shot's. use: the field that says so. lead_frames: those of that clip which are not in the film.
    """

    id: str
    use: Use
    lead_frames: int = 0


@dataclass(frozen=True)
class ShotRequest:
    """A shot, and the request that makes it.

    number: its place in the film, from 1. request: without the inputs that come from other shots, see
    `filled`. lead_frames: frames at the beginning of its clip that are the end of the shot it continues, and
    are left out of the film. place: where it is, its own or that of the shot it refers to. notices: what of
    the script is left out of the request.
    """

    shot: Shot
    number: int
    id: str
    request: Request
    needs: tuple[ShotNeed, ...] = ()
    lead_frames: int = 0
    place: FilmPlace | None = None
    notices: tuple[str, ...] = ()

    @property
    def seed(self) -> int:
        """Return the seed of the shot."""
        return self.request.seed or 0

    @property
    def depends_on(self) -> tuple[str, ...]:
        """Return the ids of shots whose clips the request is made with."""
        return tuple(dict.fromkeys(need.id for need in self.needs))

    def needed(self, use: Use) -> str | None:
        """Return the id of the shot that is used so; None without one."""
        return next((need.id for need in self.needs if need.use == use), None)

    def filled(self, clips: Mapping[str, Any], folder: Path | None = None) -> Request:
        """Return the request with what it takes of other shots.

        clips: the clip of each shot it depends on, a path or in memory. folder: where pictures taken from
        them are written, so that the request has a JSON form; None keeps them in memory. Raises RequestError
        for a clip that is missing or too short.
        """
        fields: dict[str, Any] = {name: getattr(self.request, name) for name in self.request.model_fields_set}
        for need in self.needs:
            if need.id not in clips:
                raise RequestError(f"shot {self.number} needs the clip of {need.id}, which is not there")
            clip = clips[need.id]
            match need.use:
                case "continues":
                    fields |= self._continued(clip)
                case "same_place_as":
                    first = still(clip, need.lead_frames, folder and folder / f"{need.id}.png")
                    shown = Guide(first, "before", strength=self.shot.same_place_strength)
                    fields["guides"] = (shown, *fields.get("guides", ()))
                case "match_audio_of":
                    if fields.get("audio") is None and probe(Audio(clip).file).sound_s is not None:
                        fields["audio"] = Audio(clip, "identity")
        return Request(**fields)

    def _continued(self, clip: Any) -> dict[str, Any]:
        """Return the fields of a clip that goes on from the end of another, at that one's size and rate."""
        info = probe(Reference(clip).video)
        if info.num_frames < self.lead_frames or info.fps is None:
            raise RequestError(
                f"shot {self.number} continues a clip of {num_of(info.num_frames, 'frame')}; "
                f"it needs {self.lead_frames}"
            )
        start_s = (info.num_frames - self.lead_frames) / info.fps
        new_s = self.request.duration_s or (self.request.num_frames or 1) / info.fps
        source = Source(video=clip, start_s=start_s, extend_after_s=new_s, feather_s=0.0)
        fields: dict[str, Any] = {
            "source": source,
            "duration_s": None,
            "num_frames": None,
            "size": None,
            "fps": None,
        }
        space = recipe_named(self.request.recipe).passes[-1].space
        if space < 1:  # a draft, whose result is smaller than what is asked for
            fields["size"] = (round(info.width / space), round(info.height / space))
        return fields


def shot_requests(
    script: Script, model: ModelSet | None = None, *, draft: bool = False
) -> tuple[ShotRequest, ...]:
    """Return the request of each shot, in the order of the film.

    model: what makes the film; None finds the script's. draft: with the recipe for a quick look. Raises
    RequestError with all faults of the script, and for a model that is not there.
    """
    check_script(script)
    return _Shots(script, model or find_model(script.format.model), draft).made()


class _Shots:
    """Makes the requests of a script's shots, one after the other."""

    def __init__(self, script: Script, model: ModelSet, draft: bool) -> None:
        self.script, self.defaults, self.draft = script, model.defaults, draft
        self.captions = Vocabulary.of_folder(model.folder) is not None
        self.names = shot_ids(script.shots)

    def made(self) -> tuple[ShotRequest, ...]:
        found: list[ShotRequest] = []
        for i, shot in enumerate(self.script.shots):
            others = self._others(i, shot, found)
            shot, place = self._inherited(shot, others)
            before = others.get("continues")
            request = self._request(shot, self.names[i], place, before)
            needs = self._needs(shot, request, others)
            lead, left = self._lead(before), self._left_out(shot)
            told = (
                f"a draft leaves out {' and '.join(left)} of the script: its recipe has its own noise levels"
            )
            notices = (told,) if left else ()
            found.append(ShotRequest(shot, i + 1, self.names[i], request, needs, lead, place, notices))
        return tuple(found)

    def _needs(self, shot: Shot, request: Request, others: Mapping[Use, ShotRequest]) -> tuple[ShotNeed, ...]:
        """Return the shots whose clips are used; the others are followed in words alone."""
        used = {
            "continues": True,
            "same_place_as": shot.same_place_strength > 0,
            "match_audio_of": request.audio is None and self._follows_voices(request),
        }
        return tuple(ShotNeed(other.id, use, other.lead_frames) for use, other in others.items() if used[use])

    def _follows_voices(self, request: Request) -> bool:
        """Return whether a voice to speak with has an effect: by the model itself, or by an adapter."""
        return bool(request.loras) or "voices" in self.defaults.follows

    def _others(self, i: int, shot: Shot, found: Sequence[ShotRequest]) -> dict[Use, ShotRequest]:
        """Return the shots that a shot refers to, by the fields that do."""
        indexes = {use: index_of(getattr(shot, use), i, self.names) for use in USES if getattr(shot, use)}
        return {use: found[k] for use, k in indexes.items() if k is not None}

    def _inherited(self, shot: Shot, others: Mapping[Use, ShotRequest]) -> tuple[Shot, FilmPlace | None]:
        """Return the shot, and its place, with what it takes over from those it refers to in words."""
        place = self.script.place_of(shot)
        there = others.get("same_place_as") or others.get("continues")
        if there is not None and place is None and not shot.heading:
            place, shot = there.place, replace(shot, heading=there.shot.heading)
        heard = others.get("match_audio_of")
        if heard is not None:
            sounds, sound = shot.sounds or heard.shot.sounds, shot.sound or heard.shot.sound
            shot = replace(shot, sounds=sounds, sound=sound)
        return shot, place

    def _lead(self, before: ShotRequest | None) -> int:
        """Return the frames that a shot takes over from the one it continues; 0 without one."""
        if before is None:
            return 0
        asked = before.request
        fps = asked.fps or self.defaults.fps
        new = asked.num_frames or round((asked.duration_s or usual_s(self.defaults)) * fps)
        return min(LEAD_FRAMES, (before.lead_frames or 1) + snap_frames(new) - 1)

    def _seconds(self, shot: Shot) -> float:
        """Return how long a shot is: as asked, or the usual length, longer where its lines need it."""
        if shot.seconds is not None:
            return shot.seconds
        usual = self.script.format.seconds or usual_s(self.defaults)
        spoken = 0.0 if self.captions else words_said(shot.lines) / WORDS_PER_S
        needed = spoken + SPEECH_MARGIN_S if spoken else 0.0
        return max(usual, min(needed, self.defaults.max_duration_s))

    def _request(self, shot: Shot, name: str, place: FilmPlace | None, before: ShotRequest | None) -> Request:
        script = self.script
        member = hears_clip(script, shot)
        # Those who are seen in the shot that this one continues are in its last frames.
        known = () if before is None else seen_in(script, before.shot)
        seen = [script.cast[who] for who in seen_in(script, shot) if who not in known]
        stills = [] if before is not None or place is None or place.image is None else [place]
        faces = [one for one in seen if one.face is not None]
        guides = [Guide(one.image, "before", strength=one.image_strength) for one in stills]
        guides += [Guide(f.face, "before", strength=f.face_strength) for f in faces if f.face_use == "before"]
        asked = {
            "prompt": prompt_of(script, shot, place, captions=self.captions),
            "size": script.format.size,
            "fps": script.format.fps,
            "duration_s": self._seconds(shot),
            "recipe": script.format.draft_recipe if self.draft else shot.recipe or script.format.recipe,
            "seed": shot_seed(script, shot, name),
            "guides": guides,
            "references": [
                Reference(f.face, strength=f.face_strength) for f in faces if f.face_use == "reference"
            ],
            "audio": None if member is None else Audio(member.voice_clip, "identity"),
            "loras": self._loras(shot),
        }
        own = {} if shot.seconds is None else {"duration_s": shot.seconds}
        left = self._left_out(shot)
        layers = [
            {name: value for name, value in fields.items() if name not in left}
            for fields in (script.format.request, shot.request)
        ]
        request = Request(**_over(asked, layers[0], own, layers[1]))
        policy = shot.sound or script.sound
        return (
            request
            if policy is None
            else policy.applied(request, negative_prompt=self.defaults.negative_prompt)
        )

    def _left_out(self, shot: Shot) -> list[str]:
        """Return the fields of noise levels in the script that a draft with its own does without."""
        given = {**self.script.format.request, **shot.request}
        recipe = given.get("recipe") or self.script.format.draft_recipe
        if not self.draft or recipe_named(recipe).passes[0].sigmas is None:
            return []
        return [name for name in LEVEL_FIELDS if given.get(name) is not None]

    def _loras(self, shot: Shot) -> list[Lora]:
        """Return the LoRAs of a shot, each once; where one is named twice, the nearer to the shot counts."""
        script = self.script
        there = [name for name in script.cast if name in seen_in(script, shot) or _speaks(name, shot)]
        cast = [lora for name in there for lora in script.cast[name].loras]
        return list({lora.path: lora for lora in (*script.look.loras, *cast, *shot.loras)}.values())


def usual_s(defaults: Defaults) -> float:
    """Return the length of a clip of a model that is asked for none."""
    return defaults.num_frames / defaults.fps


def _over(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields of a request, later layers over earlier ones; of two lengths the later one stays."""
    fields: dict[str, Any] = {}
    for layer in layers:
        for length, other in (("num_frames", "duration_s"), ("duration_s", "num_frames")):
            if layer.get(length) is not None:
                fields.pop(other, None)
        fields |= layer
    return fields


def _speaks(name: str, shot: Shot) -> bool:
    return any(line.who == name for line in shot.lines)
