"""Inputs of a request besides words: pictures, clips, sounds, adapters, spans of time. No torch.

An input is a file's path, or something in memory: an array or tensor, a PIL picture, a `Clip`. Only paths
have a JSON form. Records are frozen and checked when they are made. Where a record is asked for, its file
alone will do, or the words of the command line: see words.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer

from soundstage.control.kinds import FILES, kind_named
from soundstage.errors import shown
from soundstage.fields.record import Share, record, unit
from soundstage.media.hdr import Hdr
from soundstage.media.in_memory import File, in_memory, is_media
from soundstage.request.words import (
    CANVAS_WORDS,
    CONTROL_WORDS,
    FILE_WORDS,
    GUIDE_WORDS,
    LORA_WORDS,
    SPAN_WORDS,
    canvas_fields,
    control_fields,
    file_fields,
    guide_fields,
    lora_fields,
    span_fields,
)
from soundstage.types import Crop, Group, Modality

MAX_SECONDS = 86_400.0  # a day; no clip is longer, and sums and products of times stay exact
MAX_FRAMES = 10_000_000
MAX_SIDE = 8192  # pixels
MAX_STEPS = 1000
MAX_SPEAKERS = 16
MAX_SPANS, MAX_GUIDES, MAX_REFERENCES, MAX_CONTROLS, MAX_LORAS = 100, 256, 16, 16, 64
BOTH: frozenset[Modality] = frozenset({"video", "audio"})

Modalities = Annotated[
    frozenset[Modality],
    BeforeValidator(
        lambda value: {value} if isinstance(value, str) else value,
        json_schema_input_type=frozenset[Modality] | Modality,
    ),
    PlainSerializer(sorted),
]
Multiplier = Annotated[float, Field(ge=-10, le=10)]
Seconds = Annotated[float, Field(ge=0, le=MAX_SECONDS), unit("seconds")]
TIME_FIELD = Field(
    le=MAX_SECONDS, json_schema_extra={"unit": "seconds", "minimum": 0}
)  # in one that takes words
Fps = Annotated[float, Field(ge=1, le=240, examples=[24]), unit("frames per second")]
Crf = Annotated[int, Field(ge=0, le=51)]
Steps = Annotated[int, Field(ge=1, le=MAX_STEPS, examples=[30]), unit("steps")]
Side = Annotated[int, Field(ge=1, le=MAX_SIDE), unit("pixels")]
PixelCount = Annotated[int, Field(ge=0, le=MAX_SIDE), unit("pixels")]


def _file(value: Any) -> File:
    if isinstance(value, (str, os.PathLike)):
        path = os.fsdecode(value)
        if not path.strip():
            raise ValueError("the path is empty; give a file")
        return path
    if isinstance(value, dict) and "sha256" in value:
        raise ValueError(
            "this was an array in memory, of which only a description was kept; pass the array again"
        )
    return in_memory(value)


def _path_text(value: Any) -> Any:
    return os.fsdecode(value) if isinstance(value, os.PathLike) else value


def _described(value: File) -> Any:
    return value if isinstance(value, str) else {"array": str(value), "sha256": value.sha256}


PathText = Annotated[str, BeforeValidator(_path_text)]
Media = Annotated[Any, BeforeValidator(_file), PlainSerializer(_described)]


def plain(kind: type, read: Callable[[Any], Any], words: str = "") -> BeforeValidator:
    """Return the part of a record's type that takes a plain value too.

    read: returns the record's fields for a value that is neither the record nor a mapping of its fields.
    words: the syntax of a text, for the JSON schema; empty where no text is right.
    """
    return BeforeValidator(
        lambda value: value if isinstance(value, (kind, Mapping)) else read(value),
        json_schema_input_type=_with_words(kind, words),
    )


def one_or_more(kind: type, most: int, words: str) -> BeforeValidator:
    """Return the part of a list's type that takes a single record or plain value too, outside of a list."""
    alone = (kind, Mapping, str, os.PathLike)
    one: Any = _with_words(kind, words)
    return BeforeValidator(
        lambda value: [value] if isinstance(value, alone) or is_media(value) else value,
        json_schema_input_type=Annotated[tuple[one, ...], Field(max_length=most)] | one,
    )


def _with_words(kind: Any, words: str) -> Any:
    return kind | Annotated[str, Field(description=f"{words}.")] if words else kind


def _span(value: Any) -> Any:
    return span_fields(value, "the part") if isinstance(value, str) else value


def _canvas(value: Any) -> Any:
    return canvas_fields(value, "the canvas") if isinstance(value, str) else value


@record
class Span:
    """A part of the clip, in time."""

    start_s: Seconds
    """Where the part starts, counted from the start of the clip."""
    end_s: Seconds
    """Where the part ends; later than its start."""

    def __post_init__(self) -> None:
        if self.end_s <= self.start_s:
            raise ValueError(
                f"the span from {self.start_s:g} to {self.end_s:g} s is empty; end it after it starts"
            )


AnySpan = Annotated[Span, plain(Span, _span, SPAN_WORDS)]
SpanList = Annotated[
    tuple[AnySpan, ...], Field(max_length=MAX_SPANS), one_or_more(Span, MAX_SPANS, SPAN_WORDS)
]


@record
class Guide:
    """A picture or clip that the result shows at a given time."""

    image: Media
    """The picture or clip to show."""
    at: Annotated[float, TIME_FIELD] | Literal["last", "before"] | None = None
    """When to show the picture, in seconds from the start; last is the last frame, before is just before the
    first."""
    frame: Annotated[int, Field(ge=-MAX_FRAMES, le=MAX_FRAMES)] | None = None
    """When to show the picture, as a frame number instead of a time; -1 is the last frame."""
    strength: Share = 1.0
    """How closely the result keeps to the picture: 1 keeps it exactly, 0 ignores it."""
    mode: Literal["replace", "guide"] | None = None
    """How the picture is used: replace puts it in place of the frames, guide adds its tokens beside those of
    the clip. Left out, replace at the first frame and guide elsewhere."""
    crf: Crf | None = None
    """H.264 compression that a picture gets before it is encoded, 0 for none. Left out, what the model was
    trained with: 33 for LTX-2.3, 0 for nano."""
    crop: Crop = "center"
    """How a picture or clip is fitted to the size of the result: center fills the frame and cuts off the
    rest, stretch distorts, pad shows all of it on black."""
    attention: Share = 1.0
    """How much the result attends to the tokens of the picture."""

    def __post_init__(self) -> None:
        if self.at is not None and self.frame is not None:
            raise ValueError(f"both at ({self.at}) and frame ({self.frame}) are given; keep one")
        if isinstance(self.at, float) and self.at < 0:
            raise ValueError(
                f"at is {self.at:g}; give seconds from the start, 'last', or 'before' (the first frame)"
            )
        if self.at == "before" and self.mode == "replace":
            raise ValueError(
                "mode is 'replace', but before the first frame nothing can be replaced; use 'guide'"
            )
        if self.attention < 1 and self.mode == "replace":
            raise ValueError(
                "attention is for guide tokens; a picture in place has none, so use mode 'guide'"
            )


@record
class Reference:
    """A clip that conditions the result without being shown, as in-context LoRAs use it."""

    video: Media
    """The clip to follow. Of a longer one, only the first frames are used, as many as the result has."""
    strength: Share = 1.0
    """How clean the reference is given to the model: 1 as it is; less lets the result drift from it."""
    attention: Share = 1.0
    """How much the result and the reference attend to each other."""
    downscale: Annotated[int, Field(ge=1, le=10)] | None = None
    """Encode the reference at the size of the result divided by this number. Left out, what the LoRA's file
    says, else 1."""
    temporal: Annotated[int, Field(ge=1, le=8)] | None = None
    """Use every n-th frame of the reference. Left out, what the LoRA's file says, else 1."""
    mask: Media | None = None
    """A picture or clip that is white where the result attends to the reference fully, and black where it
    does not."""
    crop: Crop = "center"
    """How the clip is fitted to the size of the result: center fills the frame and cuts off the rest, stretch
    distorts, pad shows all of it on black."""


@record
class Control:
    """A reference that is made from a clip, for in-context LoRAs that follow edges, depth, paths or masks."""

    kind: Annotated[str, Field(examples=["canny"])]
    """What is made of the clip: a name that `soundstage control list` prints."""
    file: Media
    """The clip to make the reference from. Of a longer one, only the first frames are used."""
    strength: Share = 1.0
    """How clean the reference is given to the model: 1 as it is; less lets the result drift from it."""
    attention: Share = 1.0
    """How much the result and the reference attend to each other."""
    downscale: Annotated[int, Field(ge=1, le=10)] | None = None
    """Encode the reference at the size of the result divided by this number. Left out, what the LoRA's file
    says, else what is usual for the kind."""
    temporal: Annotated[int, Field(ge=1, le=8)] | None = None
    """Use every n-th frame of the reference. Left out, what the LoRA's file says, else 1."""
    crop: Crop = "center"
    """How the reference is fitted to the size of the result: center fills the frame and cuts off the rest,
    stretch distorts, pad shows all of it on black."""
    mask: Media | None = None
    """A picture or clip that is white where the kind does its work, for kinds that take one."""
    image: Media | None = None
    """A picture that the kind shows beside the clip, for kinds that take one."""
    model: PathText | None = None
    """The ONNX model that the kind runs, for kinds that take one."""
    detector: PathText | None = None
    """The ONNX model that finds people for the other one, for kinds that take one."""
    paths: PathText | None = None
    """A JSON or YAML file of points to draw paths through, for kinds that take one."""
    settings: Mapping[str, Annotated[float, Field(ge=-1e9, le=1e9)] | str] = field(
        default_factory=dict, hash=False
    )
    """Settings of the kind by name, as `soundstage control list` prints them."""

    def __post_init__(self) -> None:
        kind = kind_named(self.kind)
        kind.checked(self.options)
        if kind.sound is not None:
            raise ValueError(
                f"control '{self.kind}' makes a sound, not a reference; prepare it to a file and give "
                "that by audio, with mode 'identity'"
            )

    @property
    def options(self) -> dict[str, Any]:
        """Return the settings, and the files beside the clip that are given."""
        files = {name: getattr(self, name) for name in FILES}
        return {**self.settings, **{name: file for name, file in files.items() if file is not None}}

    @property
    def video(self) -> File:
        """Return the clip, by the name that a reference has for it."""
        held: File = self.file
        return held


@record
class Canvas:
    """New area around a source, in pixels of the result."""

    left: PixelCount = 0
    """Width to add on the left."""
    top: PixelCount = 0
    """Height to add at the top."""
    right: PixelCount = 0
    """Width to add on the right."""
    bottom: PixelCount = 0
    """Height to add at the bottom."""

    def __post_init__(self) -> None:
        if not (self.left or self.top or self.right or self.bottom):
            raise ValueError("the canvas adds nothing; give left, top, right or bottom in pixels")


@record
class Source:
    """A clip to start from, and what of it is regenerated. A mask or canvas alone leaves the sound as it
    is."""

    video: Media | None = None
    """The clip to start from, with its sound."""
    audio: Media | None = None
    """Another sound to start from, in place of the clip's own."""
    start_s: Seconds = 0.0
    """Where in the source clip to start."""
    modalities: Modalities = BOTH
    """What is regenerated: video, audio or both. The other is kept as it is."""
    regenerate: SpanList = ()
    """Parts of the time to regenerate. Left out, all of it."""
    mask: Media | None = None
    """A picture or clip that is white where the source clip is regenerated."""
    denoise: Annotated[float, Field(gt=0, le=1)] | None = None
    """How much the whole source clip is changed; 1 regenerates it entirely."""
    extend_before_s: Seconds = 0.0
    """New time to add before the source clip."""
    extend_after_s: Seconds = 0.0
    """New time to add after the source clip."""
    feather_s: Seconds = 0.5
    """How much of the clip beside an extension is regenerated with it, for a soft seam. Half of a short clip
    is always kept."""
    canvas: Annotated[Canvas, plain(Canvas, _canvas, CANVAS_WORDS)] | None = None
    """New area to fill around the source clip."""
    keep_pixels: bool = True
    """Keep the pixels of the source where nothing is regenerated, instead of those that the model decodes."""
    crop: Crop = "center"
    """How the clip is fitted to the size of the result: center fills the frame and cuts off the rest, stretch
    distorts, pad shows all of it on black."""

    def __post_init__(self) -> None:
        problems = [sentence for wrong, sentence in self._rules() if wrong]
        if problems:
            raise ValueError("; ".join(problems))

    def _rules(self) -> list[tuple[bool, str]]:
        extends = self.extend_before_s > 0 or self.extend_after_s > 0
        parts = bool(self.regenerate) or self.mask is not None or extends or self.canvas is not None
        return [
            (self.video is None and self.audio is None, "the source has neither video nor audio; give one"),
            (not self.modalities, "source.modalities is empty; say what is made anew: video, audio, or both"),
            (
                self.denoise is not None and parts,
                "source.denoise changes the whole clip; give it without source.regenerate, source.mask, "
                "source.canvas and an extension",
            ),
            (
                extends and bool(self.regenerate),
                "give either source.regenerate or an extension, not both at once",
            ),
            (
                extends and self.modalities != BOTH,
                "an extension makes both picture and sound; leave source.modalities out",
            ),
            (
                self.video is not None and self.modalities == BOTH and not parts and self.denoise is None,
                "nothing of the source would be kept; give source.regenerate, source.mask, source.denoise, "
                "source.extend_after_s, source.canvas, or source.modalities with one of the two",
            ),
            (
                self.video is None
                and self.audio is not None
                and "audio" in self.modalities
                and not parts
                and self.denoise is None,
                "nothing of the source would be kept; give source.regenerate, source.denoise or an "
                "extension, or leave audio out of source.modalities",
            ),
            (
                self.video is None and (self.mask is not None or self.canvas is not None),
                "source.mask and source.canvas are for a picture, and the source has no video",
            ),
        ]


@record
class Audio:
    """A sound that the result follows."""

    file: Media
    """The sound, or a clip that has one."""
    mode: Literal["driving", "identity"] = "driving"
    """How the sound is used: driving makes the picture to it, and the result has this very sound; identity
    makes new speech in its voice, which needs an identity LoRA and about 5 seconds of speech."""
    start_s: Seconds = 0.0
    """Where in the sound to start."""
    guidance: Annotated[float, Field(ge=0, le=20)] = 3.0
    """Guidance scale towards the voice of mode identity; 0 is off."""


@record
class Speaker:
    """A voice that prompts call by its number."""

    file: Media
    """A sample of the voice, about 5 seconds of speech, or a clip that has one."""
    start_s: Seconds = 0.0
    """Where in the sound to start."""
    guidance: Annotated[float, Field(ge=0, le=20)] = 3.0
    """Guidance scale towards the voice; 0 is off."""


@record
class Lora:
    """A LoRA of the transformer."""

    path: PathText
    """The .safetensors file of the LoRA, or a name that `soundstage loras list` or an added folder has."""
    strength: Multiplier = 1.0
    """Strength of the LoRA: 0 is off, 1 is as trained."""
    span: AnySpan | None = None
    """The part of the time in which the LoRA acts. Left out, all of it."""
    passes: tuple[str, ...] | None = None
    """Names of the passes of the recipe that use the LoRA. Left out, all of them, or for an in-context LoRA
    those that see references."""
    groups: Mapping[Group, Multiplier] = field(default_factory=dict, hash=False)
    """Multipliers of the strength for groups of layers, 1 where not named: video and audio are the layers of
    each, a2v and v2a the attention into video and into audio, text the attention to the prompt."""

    def __post_init__(self) -> None:
        if self.span is not None and self.groups.get("text"):
            raise ValueError(
                f"groups has text {self.groups['text']:g}, but a LoRA with a span leaves the prompt alone, "
                "which has no time; leave out text, or the span"
            )


# --- Inputs as a request takes them ------------------------------------------------------------------


def _guide(value: Any) -> Mapping[str, Any]:
    return guide_fields(value) if isinstance(value, str) else {"image": value}


def _reference(value: Any) -> Mapping[str, Any]:
    return file_fields("video", value) if isinstance(value, str) else {"video": value}


def _control(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, str):
        raise ValueError(
            f"controls has {shown(value)}; give {CONTROL_WORDS}, such as 'canny:clip.mp4:0.8', or a Control"
        )
    return control_fields(value)


def _lora(value: Any) -> Mapping[str, Any]:
    if isinstance(value, os.PathLike):
        return {"path": value}
    if not isinstance(value, str):
        raise ValueError(
            f"loras has {shown(value)}; give the path of each, such as 'style.safetensors:0.8', or a Lora"
        )
    return lora_fields(value)


AnyGuide = Annotated[Guide, plain(Guide, _guide, GUIDE_WORDS)]
AnyReference = Annotated[Reference, plain(Reference, _reference, FILE_WORDS)]
AnyControl = Annotated[Control, plain(Control, _control, CONTROL_WORDS)]
AnySource = Annotated[Source, plain(Source, lambda value: {"video": value})]
AnyAudio = Annotated[Audio, plain(Audio, lambda value: {"file": value}, "PATH")]
AnySpeaker = Annotated[Speaker, plain(Speaker, lambda value: {"file": value}, "PATH")]
AnyHdr = Annotated[Hdr, plain(Hdr, lambda value: {"format": value}, "FORMAT")]
AnyLora = Annotated[Lora, plain(Lora, _lora, LORA_WORDS)]
GuideList = Annotated[
    tuple[AnyGuide, ...], Field(max_length=MAX_GUIDES), one_or_more(Guide, MAX_GUIDES, GUIDE_WORDS)
]
ReferenceList = Annotated[
    tuple[AnyReference, ...],
    Field(max_length=MAX_REFERENCES),
    one_or_more(Reference, MAX_REFERENCES, FILE_WORDS),
]
SpeakerList = Annotated[
    tuple[AnySpeaker, ...], Field(max_length=MAX_SPEAKERS), one_or_more(Speaker, MAX_SPEAKERS, "PATH")
]
ControlList = Annotated[
    tuple[AnyControl, ...],
    Field(max_length=MAX_CONTROLS),
    one_or_more(Control, MAX_CONTROLS, CONTROL_WORDS),
]
LoraList = Annotated[
    tuple[AnyLora, ...], Field(max_length=MAX_LORAS), one_or_more(Lora, MAX_LORAS, LORA_WORDS)
]
