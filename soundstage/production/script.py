"""A script: everything that a film is made from, as one record that people write in YAML. No torch.

    title: Two balls
    cast:
      Ada: {description: a small red ball, voice: bright}
    shots:
      - Ada rolls to the right in a meadow on a clear day.
      - {action: Ada bounces twice., camera: The camera pushes in., lines: [{Ada: Watch this.}]}

reading.py reads files, faults.py finds what does not fit together, shots.py makes requests of the shots.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from soundstage.editing.timeline import Music, RoomTone, Title, VoiceOver
from soundstage.errors import nearest, shown
from soundstage.fields.record import Share, record, unit
from soundstage.request.inputs import Fps, LoraList, PathText, Seconds
from soundstage.request.request import Request
from soundstage.review.policy import SoundPolicy

MAX_SHOTS = 1000
PREVIOUS = "previous"  # a reference to the shot before
CastName = Annotated[str, Field(min_length=1, max_length=80)]
Text = Annotated[str, Field(min_length=1)]
ShotSeconds = Annotated[float, Field(gt=0, le=3600), unit("seconds")]
ShotName = Annotated[int | str, Field(union_mode="left_to_right")]


def _words(key: str) -> BeforeValidator:
    """Return the part of a record's type that takes plain words for one of its fields."""
    return BeforeValidator(lambda value: {key: value} if isinstance(value, str) else value)


def fields_of_request(value: Any) -> Any:
    """Return fields of a request. Raises ValueError for one that a request does not have."""
    if isinstance(value, Mapping):
        names = [str(key) for key in value]
        for name in names:
            if name not in Request.model_fields:
                near = nearest(name, Request.model_fields)
                meant = f"did you mean {near[0]}?" if near else "`soundstage generate --help` lists them"
                raise ValueError(f"request has {shown(name)}, which is not a field of a request; {meant}")
    return value


def shot_id(value: str) -> str:
    """Return the id of a shot. Raises ValueError for one that cannot name files."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,59}", value):
        raise ValueError(
            f"id is {shown(value)}; give one that begins with a letter and has letters, digits, - and _, "
            "at most 60"
        )
    return value


RequestFields = Annotated[Mapping[str, Any], BeforeValidator(fields_of_request)]


@record
class FilmFormat:
    """The model, size, rate and recipe of every shot."""

    model: str = "nano"
    """The model: a name, a folder or a file."""
    size: tuple[int, int] | str | None = None
    """Size of the film, as a request takes it: 192x128, landscape, 720p. Left out, the model's own."""
    fps: Fps | None = None
    """Frame rate of the film. Left out, the model's own."""
    seconds: ShotSeconds | None = None
    """Length of a shot that gives none. Left out, the model's own."""
    recipe: PathText = "single"
    """The recipe that shots are made with: its name, or a .yaml file."""
    draft_recipe: PathText = "draft"
    """The recipe for a quick look before that."""
    request: RequestFields = field(default_factory=dict, hash=False)
    """Other fields of the request of every shot, such as steps or guidance."""


@record
class Look:
    """The look of a whole film."""

    style: str = ""
    """Genre, film stock and texture, such as "1970s documentary, film grain"; put in every prompt once."""
    grade: str = ""
    """Colours of the whole film in words, such as "warm highlights, teal shadows"; put in every prompt."""
    loras: LoraList = ()
    """LoRAs that are on in every shot."""


@record
class CastMember:
    """One of the cast: how they look and sound, in every shot they are in."""

    description: Text
    """What is seen of them, which stands in prompts in place of their name: "a tall woman in a red coat"."""
    short: str = ""
    """Words for later mentions in one prompt, such as "the woman". Left out, the first of the description."""
    voice: str = ""
    """How they sound, such as "deep" or "a calm voice with a Scottish accent". nano knows deep, warm and
    bright."""
    face: PathText | None = None
    """A picture of them."""
    face_use: Literal["before", "reference"] = "before"
    """How the picture is used: before shows it to the model as a frame just before the shot; reference beside
    it, for a LoRA that follows references."""
    face_strength: Share = 1.0
    """How closely shots keep to the picture."""
    voice_clip: PathText | None = None
    """About 5 seconds of their voice, for an identity LoRA."""
    loras: LoraList = ()
    """LoRAs that are on in every shot they are in."""


@record
class FilmPlace:
    """A place of the film."""

    description: Text
    """What is seen of it: "in a tiled room", "a narrow kitchen with green tiles, morning light"."""
    sounds: str = ""
    """What is heard in it, such as "rain against the window"."""
    image: PathText | None = None
    """A picture of it, shown to the model as a frame just before each shot in it."""
    image_strength: Share = 1.0
    """How closely shots keep to the picture."""


@record
class ScriptLine:
    """A line that is spoken."""

    who: CastName
    """Who speaks: one of the cast."""
    says: Text
    """The words, without quotation marks."""
    how: str = ""
    """How it is said, such as whispering, or "slowly, with a smile"."""
    off_screen: bool = False
    """Whether the speaker is heard but not seen."""


def line_fields(value: Any) -> Any:
    """Return the fields of a line for `Ada: words` and `Ada (softly): words`, as a mapping or as text."""
    if isinstance(value, Mapping) and len(value) == 1 and not set(value) & {"who", "says"}:
        ((who, says),) = value.items()
        return _speaker(str(who)) | {"says": says}
    if isinstance(value, str):
        who, colon, says = value.partition(":")
        if not colon or not says.strip():
            raise ValueError(f"{shown(value)} names no speaker; write WHO: WORDS, such as Ada: Hello.")
        return _speaker(who) | {"says": says.strip()}
    return value


def _speaker(text: str) -> dict[str, Any]:
    name, bracket, rest = text.partition("(")
    how = rest.rpartition(")")[0] if ")" in rest else rest
    return {"who": name.strip()} | manner(how if bracket else "")


def manner(how: str) -> dict[str, Any]:
    """Return the fields of a ScriptLine for what stands in brackets after a name: a manner, V.O. or O.S."""
    kept, off = [], False
    for part in how.split(","):
        is_off = part.strip().lower().replace(".", "").replace(" ", "") in ("vo", "os", "oc", "offscreen")
        off = off or is_off
        kept += [] if is_off else [part]
    said = ",".join(kept).strip()
    return ({"how": said} if said else {}) | ({"off_screen": True} if off else {})


def _lines(value: Any) -> Any:
    """Return a list of lines where one is written, or several as the entries of one mapping."""
    if isinstance(value, Mapping) and not set(value) & {"who", "says"}:
        return [{who: says} for who, says in value.items()]
    return [value] if isinstance(value, str | Mapping | ScriptLine) else value


ScriptLines = Annotated[
    tuple[Annotated[ScriptLine, BeforeValidator(line_fields)], ...], BeforeValidator(_lines)
]


@record
class Shot:
    """A shot: one clip of the film."""

    action: Text
    """What is seen and happens, in the present tense. Names of the cast stand for their descriptions."""
    id: Annotated[str, AfterValidator(shot_id)] | None = None
    """A name of its own, which files and seeds go by: letters, digits, - and _. Left out, the first words of
    the action."""
    heading: str = ""
    """Where and when, as a screenplay says it: "INT. KITCHEN - NIGHT"."""
    place: str | None = None
    """One of the places. Left out, the one whose name is in the heading."""
    camera: str = ""
    """What the camera does: "The camera pushes in.", "close-up, handheld"."""
    lines: ScriptLines = ()
    """Who says which words, in this order."""
    sounds: str = ""
    """What else is heard, such as "a thud with each bounce"."""
    seconds: ShotSeconds | None = None
    """Length. Left out, that of the format, or longer where its lines need it."""
    transition: Literal["cut", "dissolve", "fade"] = "cut"
    """How the film comes to this shot from the one before: cut, dissolve, or fade through black."""
    transition_s: Annotated[float, Field(gt=0, le=30), unit("seconds")] = 0.5
    """Length of the dissolve or fade."""
    sound_lead_s: Seconds = 0.0
    """How much earlier than its picture the shot's sound begins (a J cut)."""
    sound_lag_s: Seconds = 0.0
    """How much longer than its picture the shot's sound goes on (an L cut)."""
    continues: ShotName | None = None
    """An earlier shot, by its number or id, or previous: this one goes on from its last frames and sound."""
    same_place_as: ShotName | None = None
    """An earlier shot in the same place: its place in words is kept, its colours are matched in the cut, and
    the model sees its first frame just before this shot."""
    same_place_strength: Share = 0.5
    """How closely the shot keeps to that frame; 0 shows none, and the shot is made without the other."""
    match_audio_of: ShotName | None = None
    """An earlier shot that this one sounds like: its sounds in words are kept, and with an identity LoRA its
    voice."""
    sound: SoundPolicy | None = None
    """What may be heard in this shot, in place of the film's own policy."""
    loras: LoraList = ()
    """LoRAs that are on in this shot."""
    recipe: PathText | None = None
    """The recipe of this shot. Left out, that of the format."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    """Seed of this shot. Left out, worked out from the seed of the film and the shot's id."""
    request: RequestFields = field(default_factory=dict, hash=False)
    """Other fields of the shot's request, which win over everything above."""


@record
class FilmMix:
    """The additions of the cut: titles, music and voices from files, room tone, captions."""

    titles: tuple[Title, ...] = ()
    """Titles, by their times in the film."""
    music: tuple[Music, ...] = ()
    """Music under the film, from files."""
    voice_over: tuple[VoiceOver, ...] = ()
    """Voices over the film, from files."""
    room_tone: RoomTone | None = None
    """What fills the silence between shots."""
    burn_captions: bool = False
    """Draw the lines that are spoken into the picture."""
    fade_out_s: Annotated[float, Field(ge=0, le=60), unit("seconds")] = 0.0
    """How long picture and sound take to fade at the end of the film."""


AnyCast = Mapping[str, Annotated[CastMember, _words("description")]]
AnyPlaces = Mapping[str, Annotated[FilmPlace, _words("description")]]
AnyShot = Annotated[Shot, _words("action")]


def _shots(value: Any) -> Any:
    return [value] if isinstance(value, str | Mapping | Shot) else value


@record
class Script:
    """A film: its title, its look and sound, who is in it and where, and its shots."""

    title: Text
    """Title of the film."""
    shots: Annotated[tuple[AnyShot, ...], Field(min_length=1, max_length=MAX_SHOTS), BeforeValidator(_shots)]
    """The shots, in the order of the film. A shot may be words alone: its action."""
    format: FilmFormat = field(default_factory=lambda: FilmFormat())
    """The model, size, rate and recipe of every shot."""
    look: Annotated[Look, _words("style")] = field(default_factory=lambda: Look())
    """How the whole film looks. Words alone are its style."""
    cast: AnyCast = field(default_factory=dict, hash=False)
    """The cast by name. Words alone are a description."""
    places: AnyPlaces = field(default_factory=dict, hash=False)
    """The places by name. Words alone are a description."""
    sound: SoundPolicy | None = None
    """What may be heard in every shot."""
    mix: FilmMix = field(default_factory=lambda: FilmMix())
    """What the cut adds to the shots, as a timeline has it."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of the film, which those of its shots are worked out from."""

    def place_of(self, shot: Shot) -> FilmPlace | None:
        """Return the place that a shot names itself, by its place or in its heading."""
        if shot.place is not None:
            return self.places.get(shot.place)
        heading = shot.heading.lower()
        found = [name for name in self.places if name.lower() in heading]
        return self.places[max(found, key=len)] if found else None
