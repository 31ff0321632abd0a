"""What a request is made from besides words: pictures, clips, sounds, adapters, spans of time. No torch.

An input is a file's path, or something in memory: an array of pixels, a PIL picture, a `Clip`. Only paths
have a JSON form. Records are frozen and checked when they are made.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field, is_dataclass
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, dataclass_transform, get_args, get_type_hints

import pydantic.dataclasses
from pydantic import BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError

from soundstage.errors import RequestError, listed, near_first, shown
from soundstage.media.in_memory import File, in_memory
from soundstage.request.bounds import check_fields
from soundstage.types import Crop, Group

MAX_SECONDS = 86_400.0  # a day; no clip is longer, and sums and products of times stay exact
MAX_FRAMES = 10_000_000
MAX_SIDE = 8192  # pixels
MAX_SENTENCES = 12  # of one message
Modality = Literal["video", "audio"]
BOTH: frozenset[Modality] = frozenset({"video", "audio"})

Modalities = Annotated[frozenset[Modality], PlainSerializer(sorted)]
Strength = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Multiplier = Annotated[float, Field(ge=-10, le=10, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, le=MAX_SECONDS, allow_inf_nan=False)]

Record = TypeVar("Record", bound=type)


def _file(value: Any) -> File:
    if isinstance(value, (str, Path)):
        if not str(value).strip():
            raise ValueError("the path is empty; give a file")
        return str(value)
    if isinstance(value, dict) and "sha256" in value:
        raise ValueError(
            "this was an array in memory, of which only a description was kept; pass the array again"
        )
    return in_memory(value)


def _described(value: File) -> Any:
    return value if isinstance(value, str) else {"array": str(value), "sha256": value.sha256}


Media = Annotated[Any, BeforeValidator(_file), PlainSerializer(_described)]


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def record(cls: Record) -> Record:
    """A frozen dataclass whose fields are checked; what does not fit is one RequestError."""
    config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)
    made: Any = pydantic.dataclasses.dataclass(frozen=True, config=config)(cls)
    checked: Callable[..., None] = made.__init__

    @functools.wraps(checked)
    def init(self: Any, *args: Any, **fields: Any) -> None:
        names = list(made.__dataclass_fields__)
        check_fields({**dict(zip(names, args, strict=False)), **fields})
        try:
            checked(self, *args, **fields)
        except ValidationError as error:
            raise request_error(error, cls.__name__, names) from None

    made.__init__ = init
    return made  # type: ignore[no-any-return]


@record
class Span:
    """A stretch of the clip, in seconds; end_s above start_s."""

    start_s: Seconds
    end_s: Seconds

    def __post_init__(self) -> None:
        if self.end_s <= self.start_s:
            raise ValueError(
                f"the span from {self.start_s:g} to {self.end_s:g} s is empty; end it after it starts"
            )


@record
class Guide:
    """A picture or clip that the result shows at a time.

    image: a picture or a clip. at: seconds from the start, "last" for the last frame, or "before" for just
    before the first. frame: a frame number instead of a time, negative from the end (-1 is the last).
    strength: 1 keeps it, 0 lets go. mode: "replace" puts it in place, "guide" adds tokens beside the clip;
    None replaces at the first frame and guides elsewhere. crf: H.264 compression of a picture before
    it is encoded, 0 (none) to 51; None is the model's. crop: how it is brought to the clip's size: "center"
    fills and cuts, "stretch" distorts, "pad" shows all on black. attention: how much the clip looks at
    guide tokens, 0 to 1.
    """

    image: Media
    at: Annotated[float, Field(le=MAX_SECONDS, allow_inf_nan=False)] | Literal["last", "before"] | None = None
    frame: Annotated[int, Field(ge=-MAX_FRAMES, le=MAX_FRAMES)] | None = None
    strength: Strength = 1.0
    mode: Literal["replace", "guide"] | None = None
    crf: Annotated[int, Field(ge=0, le=51)] | None = None
    crop: Crop = "center"
    attention: Strength = 1.0

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
    """A clip the result follows from beside, as in-context LoRAs use it.

    strength: 1 gives the reference clean, less lets it drift. attention: how much the clip and the
    reference look at each other, 0 to 1. downscale: the reference is encoded at 1/downscale of the size;
    None is what the LoRA's file says, else 1. temporal: it is given every temporal-th frame. mask: where
    the clip looks at the reference (white: fully). crop: see Guide.
    """

    video: Media
    strength: Strength = 1.0
    attention: Strength = 1.0
    downscale: Annotated[int, Field(ge=1, le=10)] | None = None
    temporal: Annotated[int, Field(ge=1, le=8)] | None = None
    mask: Media | None = None
    crop: Crop = "center"


@record
class Canvas:
    """Room to paint around a source, in pixels of the result."""

    left: Annotated[int, Field(ge=0, le=MAX_SIDE)] = 0
    top: Annotated[int, Field(ge=0, le=MAX_SIDE)] = 0
    right: Annotated[int, Field(ge=0, le=MAX_SIDE)] = 0
    bottom: Annotated[int, Field(ge=0, le=MAX_SIDE)] = 0

    def __post_init__(self) -> None:
        if not (self.left or self.top or self.right or self.bottom):
            raise ValueError("the canvas adds nothing; give left, top, right or bottom in pixels")


@record
class Source:
    """A clip to start from, and what of it is made anew.

    video: the clip, with its sound. audio: another sound instead of its own. start_s: where in the clip to
    begin. modalities: what is made anew; the other is kept whole. Within it: regenerate, stretches of time
    (none: all of it); mask, a picture or clip whose white parts are made anew; extend_before_s and
    extend_after_s, new time at the ends; canvas, new room around; denoise, how far the whole is changed,
    0 to 1, from the clip itself. A mask or canvas alone leaves the sound as it is. feather_s: how much of
    the source at a seam is made anew with an extension; of a short source less: half of it is kept.
    keep_pixels: kept parts are shown as they came, not as the model decodes them. crop: see Guide.
    """

    video: Media | None = None
    audio: Media | None = None
    start_s: Seconds = 0.0
    modalities: Modalities = BOTH
    regenerate: Annotated[tuple[Span, ...], Field(max_length=100)] = ()
    mask: Media | None = None
    denoise: Annotated[float, Field(gt=0, le=1)] | None = None
    extend_before_s: Seconds = 0.0
    extend_after_s: Seconds = 0.0
    feather_s: Seconds = 0.5
    canvas: Canvas | None = None
    keep_pixels: bool = True
    crop: Crop = "center"

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
    """A sound that leads the result.

    mode: "driving", the picture is made to it and the result has these very samples; "identity", the
    voice to speak with (needs an ID-LoRA; about 5 s). start_s: where in the file to begin. guidance:
    identity only, how strongly the voice is pulled towards, 0 = off.
    """

    file: Media
    mode: Literal["driving", "identity"] = "driving"
    start_s: Seconds = 0.0
    guidance: Annotated[float, Field(ge=0, le=20)] = 3.0


@record
class Lora:
    """An adapter of the transformer.

    path: a .safetensors file. strength: 0 is off, 1 as trained. span: only for this stretch of time.
    passes: names of the recipe's passes that use it; None is all (of an in-context LoRA: those that see
    references). groups: multipliers on top of the strength, 1 for those not named: `video` and `audio` are
    the streams, `a2v` and `v2a` the attention into video and into audio, `text` the reading of the prompt.
    """

    path: str
    strength: Multiplier = 1.0
    span: Span | None = None
    passes: tuple[str, ...] | None = None
    groups: Mapping[Group, Multiplier] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if self.span is not None and self.groups.get("text"):
            raise ValueError(
                f"groups has text {self.groups['text']:g}, but a LoRA with a span leaves the prompt alone, "
                "which has no time; leave out text, or the span"
            )


def request_error(
    error: ValidationError, what: str, known: Sequence[str], owner: type | None = None
) -> RequestError:
    """All that pydantic found, as one error of one sentence per finding.

    what: the record, for messages. known: its fields. owner: its class, whose records' fields are listed.
    """
    sentences, fields = [], []
    for item in error.errors():
        loc = list(item["loc"])
        if loc and isinstance(loc[0], int):  # a positional argument
            loc[0] = known[loc[0]] if loc[0] < len(known) else f"argument {loc[0] + 1}"
        path = _path(loc[:-2] if loc[-1:] == ["[key]"] else loc)
        fields.append(str(loc[0]) if loc else "")
        sentences.append(_sentence(path, item, what, known, owner))
    unique = list(dict.fromkeys(sentences))
    more = [f"and {len(unique) - MAX_SENTENCES} more"] if len(unique) > MAX_SENTENCES else []
    return RequestError(
        "; ".join([*unique[:MAX_SENTENCES], *more]), field=(fields[0] or None) if len(unique) == 1 else None
    )


def _path(loc: Sequence[Any]) -> str:
    """("guides", 0, "strength") -> "guides[0].strength", without pydantic's names of union members."""
    text = ""
    while len(loc) > 1 and isinstance(loc[-1], int):  # a member of a set or list of plain values
        loc = loc[:-1]
    for part in loc:
        if isinstance(part, int):
            text += f"[{part}]" if text else ""
        elif (
            part and part[0].islower() and "[" not in part and part not in ("float", "literal", "str", "int")
        ):
            text += f".{part}" if text else part
    return text


def _sentence(path: str, item: Any, what: str, known: Sequence[str], owner: type | None) -> str:
    nested = "." in path or "[" in path
    if item["type"] == "value_error":
        message = str(item["ctx"]["error"])
        return f"{path}: {message}" if nested else message
    if item["type"] in ("missing", "missing_argument"):
        return f"{path or what} is missing; give one"
    if item["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        if nested:
            place, _, name = path.rpartition(".")
            fields = listed(name, _fields_at(owner, item["loc"][:-1]))
            return f"{path} is not a field; the fields of {place} are {fields}"
        of = "a request" if what == "Request" else what
        return f"'{path}' is not a field of {of}; the fields are {listed(path, known)}"
    if item["type"] == "literal_error":
        item["msg"] = f"input should be {_choices(str(item['input']), item['ctx']['expected'])}"
    wanted = item["msg"][0].lower() + item["msg"][1:].partition(", unable to parse")[0]
    verb = "has" if item["loc"][-1:] == ("[key]",) else "is"  # a mapping has keys
    return f"{path} {verb} {shown(item['input'])}; {wanted.replace('input should', 'it should')}"


def _choices(value: str, expected: str) -> str:
    """pydantic's "'a', 'b' or 'c'" with the choices near a value first."""
    *most, last = (f"'{name}'" for name in near_first(value, re.findall(r"'([^']*)'", expected)))
    return f"{', '.join(most)} or {last}" if most else last


def _fields_at(owner: Any, loc: Sequence[Any]) -> list[str]:
    """The fields of the record at a place within another, which annotations tell."""
    for part in loc:
        hint = None if owner is None else get_type_hints(owner).get(str(part))
        if hint is not None:
            owner = next((kind for kind in _kinds(hint) if is_dataclass(kind)), None)
    return [f.name for f in dataclass_fields(owner)] if is_dataclass(owner) else []


def _kinds(hint: Any) -> Iterator[Any]:
    """An annotation and all within it."""
    yield hint
    for inner in get_args(hint):
        yield from _kinds(inner)
