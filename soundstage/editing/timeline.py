"""The timeline of a film as records: cuts, titles, music, voice-over, room tone and captions.

A person writes it as YAML, and `read_timeline` reads it; names of files are relative to that file's folder.
Times of cuts are those of their sources; all other times are those of the film, from its first frame on.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, TypeAdapter

from soundstage.editing.by_line import counted
from soundstage.fields.record import Share, record, unit
from soundstage.fields.yaml_record import read_record
from soundstage.types import Crop

BLACK = Path("black")  # a source that is no file: black and silent
MAX_SIDE = 8192
LONGEST_S = 86_400.0

Kind = TypeVar("Kind")
TimeS = Annotated[float, Field(ge=0, le=LONGEST_S), unit("seconds")]
LengthS = Annotated[float, Field(gt=0, le=LONGEST_S), unit("seconds")]
Decibels = Annotated[float, Field(ge=-60, le=30), unit("dB")]
TransitionKind = Literal["cut", "dissolve", "fade"]
TitlePlace = Literal["center", "top", "bottom", "lower-third"]


@record
class Transition:
    """The way from the shot before to this one."""

    kind: TransitionKind = "cut"
    """A cut changes at once. A dissolve shows the end of the shot before and the beginning of this one over
    each other, so the film becomes shorter by its length. A fade goes through black: the shot before goes
    out in the first half, this one comes up in the second; the first shot of a film comes up in all of it."""
    seconds: Annotated[float, Field(ge=0, le=60), unit("seconds")] = 0.0
    """Its length, rounded to whole frames; 0 for a cut alone."""

    def __post_init__(self) -> None:
        if self.kind == "cut" and self.seconds:
            raise ValueError(f"transition.seconds is {self.seconds:g}, and a cut has no length; leave it out")
        if self.kind != "cut" and not self.seconds:
            raise ValueError(f"transition.seconds is missing for a {self.kind}; give its length, such as 0.5")


@record
class Cut:
    """One shot of the film: a part of a source, and how it follows the shot before it."""

    source: Path
    """A film, picture or sound of any kind that Soundstage reads; black for a black, silent picture."""
    start_s: TimeS = 0.0
    """Where the part begins in the source."""
    end_s: LengthS | None = None
    """Where the part ends in the source. Left out, at the source's end; a picture and black need one."""
    transition: Transition = Field(default_factory=Transition)
    """How the shot follows the one before it."""
    sound_lead_s: Annotated[float, Field(ge=0, le=60), unit("seconds")] = 0.0
    """J cut: the sound of the shot is heard so long before its picture is seen; taken from before start_s."""
    sound_lag_s: Annotated[float, Field(ge=0, le=60), unit("seconds")] = 0.0
    """L cut: the sound of the shot is heard so long after its picture has gone; taken from after end_s."""
    gain_db: Decibels = 0.0
    """How much louder the sound of the shot is made."""
    match_to: Annotated[int, Field(ge=1)] | None = None
    """Bring the colours of the shot to those of this cut, counted from 1. Left out, they stay."""
    caption: str = ""
    """What the storyboard and the contact sheet say of the shot."""


@record
class Title:
    """Text over the picture for a time; over the source black it is a title card."""

    text: str
    """The words; a new line begins a line."""
    start_s: TimeS
    """When it is seen first."""
    seconds: LengthS
    """How long it is seen, fades included."""
    place: TitlePlace = "center"
    """Where it stands: in the middle, at the top, at the bottom, or at the left above the bottom."""
    size: Annotated[float, Field(ge=0.01, le=0.5)] = 0.1
    """Height of a line, as a share of the picture's height."""
    color: str = "white"
    """Colour of the letters: a CSS name, or #rrggbb."""
    background: str | None = None
    """Colour of a box behind the letters. Left out, they have a dark edge."""
    font: Path | None = None
    """A TrueType or OpenType file. Left out, DejaVu Sans where it is installed, else Pillow's own font.
    Letters that it lacks are drawn in another font of this machine, which is told."""
    fade_s: Annotated[float, Field(ge=0, le=10), unit("seconds")] = 0.25
    """How long it takes to appear, and to go."""


@record
class Music:
    """Music under the film, from a file."""

    path: Path
    """A sound, or a film whose sound is taken."""
    start_s: TimeS = 0.0
    """When it begins in the film."""
    end_s: LengthS | None = None
    """When it ends in the film. Left out, with the film, or where the file ends."""
    from_s: TimeS = 0.0
    """Where it begins in the file."""
    loop: bool = False
    """Begin anew where the file ends, crossfaded, until end_s."""
    gain_db: Decibels = -12.0
    """How much louder it is made."""
    fade_in_s: TimeS = 0.5
    """How long it takes to come up."""
    fade_out_s: TimeS = 1.0
    """How long it takes to go at its end."""
    duck_db: Annotated[float, Field(ge=0, le=60), unit("dB")] = 9.0
    """How far it is lowered while somebody speaks: under voice-over, and in the time of captions."""
    duck_under: Literal["speech", "sound"] = "speech"
    """What lowers it: speech is voice-over and captions; sound is also every loud sound of the shots."""


@record
class VoiceOver:
    """A voice over the film, from a file."""

    path: Path
    """A sound, or a film whose sound is taken."""
    start_s: TimeS = 0.0
    """When it begins in the film."""
    from_s: TimeS = 0.0
    """Where it begins in the file."""
    seconds: LengthS | None = None
    """How much of it is heard. Left out, all."""
    gain_db: Decibels = 0.0
    """How much louder it is made."""
    fade_s: TimeS = 0.01
    """How long it takes to come up, and to go."""


@record
class RoomTone:
    """The sound of the place without speech, looped where shots fall silent."""

    path: Path | None = None
    """A sound to loop. Left out, the quietest stretch of a shot's sound."""
    cut: Annotated[int, Field(ge=1)] | None = None
    """The cut, counted from 1, whose quietest stretch is looped. Left out, the quietest of all shots."""
    gain_db: Decibels = 0.0
    """How much louder it is made."""
    under: Literal["cuts", "film"] = "cuts"
    """cuts fills what the sound of shots leaves at cuts and where they are silent; film lies under all."""

    def __post_init__(self) -> None:
        if self.path is not None and self.cut is not None:
            raise ValueError(f"room_tone.cut is {self.cut}, and room_tone.path is given too; keep one")


@record
class Caption:
    """A spoken line with its times, for subtitles and for the ducking of music."""

    start_s: TimeS
    """When it is said."""
    end_s: LengthS
    """When it has been said."""
    text: str
    """The words."""
    speaker: str = ""
    """Who says it."""

    def __post_init__(self) -> None:
        if self.end_s <= self.start_s:
            raise ValueError(f"end_s is {self.end_s:g}, and start_s is {self.start_s:g}; give a later end_s")


@record
class Timeline:
    """A film: its cuts in their order, and what is heard and read with them."""

    cuts: Annotated[tuple[Cut, ...], Field(min_length=1)]
    """The shots in their order."""
    width: Annotated[int, Field(ge=16, le=MAX_SIDE), unit("pixels")] | None = None
    """Width of the film. Left out, that of the first source with a picture."""
    height: Annotated[int, Field(ge=16, le=MAX_SIDE), unit("pixels")] | None = None
    """Height of the film. Left out, that of the first source with a picture."""
    fps: Annotated[float, Field(ge=1, le=240), unit("frames per second")] | None = None
    """Frame rate of the film; of a source with another, each frame is the nearest. Left out, that of
    the first film among the sources."""
    sample_rate_hz: Literal[44100, 48000, 96000] = 48000
    """Sample rate of the film's sound; sources with another are resampled."""
    fit: Crop = "pad"
    """How a source of another shape fills the picture: pad shows all of it on black, center cuts off what is
    over, stretch distorts."""
    titles: tuple[Title, ...] = ()
    """Titles; a later one lies over an earlier one."""
    music: tuple[Music, ...] = ()
    """Music; pieces that overlap are heard together."""
    voice_over: tuple[VoiceOver, ...] = ()
    """Voices over the film."""
    room_tone: RoomTone | None = None
    """What fills the silence between shots."""
    captions: tuple[Caption, ...] = ()
    """Spoken lines."""
    burn_captions: bool = False
    """Draw the captions into the picture."""
    fade_out_s: Annotated[float, Field(ge=0, le=60), unit("seconds")] = 0.0
    """How long picture and sound take to fade to black and silence at the end of the film."""
    match_strength: Share = 1.0
    """How far match_to goes: 1 all the way, within limits that keep a shot from being tinted."""


def read_timeline(path: str | Path) -> Timeline:
    """Read a timeline from a YAML file; files that it names are relative to its folder.

    Raises ConfigError whose `sentences` are all faults, each with its line, for one that does not fit.
    """
    path = Path(path)
    found = read_record(Timeline, path, counted)
    folder = path.parent
    tone = found.room_tone
    return replace(
        found,
        cuts=tuple(cut if cut.source == BLACK else _within(folder, cut, "source") for cut in found.cuts),
        titles=tuple(_within(folder, title, "font") for title in found.titles),
        music=tuple(_within(folder, piece, "path") for piece in found.music),
        voice_over=tuple(_within(folder, voice, "path") for voice in found.voice_over),
        room_tone=None if tone is None else _within(folder, tone, "path"),
    )


def as_json(timeline: Timeline) -> dict[str, Any]:
    """Return a timeline as JSON has it."""
    made: dict[str, Any] = TypeAdapter(Timeline).dump_python(timeline, mode="json")
    return made


def _within(folder: Path, made: Kind, name: str) -> Kind:
    """Return a record whose file of this field is named from a folder on."""
    given: Any = made
    path = getattr(given, name)
    return made if path is None else replace(given, **{name: folder / path})
