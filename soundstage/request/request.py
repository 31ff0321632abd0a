"""The user's request: one frozen, validated record with a JSON form. Loads no torch.

Fields left at None take the model's own default when the plan is made. A value that can never be right
is refused here, with every bad field named at once; a value that only needs rounding (sides to multiples
of 32, frames to 8k + 1) passes, and the plan says what it was rounded to.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from soundstage.errors import RequestError, listed, shown
from soundstage.fields.bounds import check_fields
from soundstage.fields.messages import request_error
from soundstage.fields.record import Share, describe_once, documented, unit
from soundstage.media.in_memory import InMemory
from soundstage.prompts.timeline import Relay
from soundstage.request.inputs import (
    BOTH,
    MAX_FRAMES,
    MAX_SECONDS,
    MAX_SIDE,
    MAX_STEPS,
    AnyAudio,
    AnyHdr,
    AnySource,
    Control,
    ControlList,
    Fps,
    GuideList,
    LoraList,
    Modalities,
    PathText,
    Reference,
    ReferenceList,
    Side,
    SpeakerList,
    Steps,
)
from soundstage.request.take import Take
from soundstage.sampling import schedules
from soundstage.sampling.cache import StepCache
from soundstage.sampling.sampler_info import SAMPLER_INFO

ORIENTATIONS = ("landscape", "portrait", "square")
INPUT_FIELDS = frozenset(
    {"image", "video", "audio", "mask", "file", "path", "model", "paths"}
)  # of a request's records

GuidanceScale = Annotated[float, Field(ge=0, le=100)]


def _words(value: Any) -> Any:
    """Return guidance words with noise levels among the keys as text, as JSON has them."""
    return {str(key): item for key, item in value.items()} if isinstance(value, Mapping) else value


ScaleFields = Annotated[Mapping[str, Any], BeforeValidator(_words)]
_PRESET = re.compile(rf"([0-9]{{1,6}}p|4k)(-({'|'.join(ORIENTATIONS)}))?")


@documented
class Request(BaseModel):
    """A request for a film, a silent picture or a sound.

    Options of sampling go to the recipe's first pass. Raises RequestError with one sentence per bad field.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        json_schema_extra=describe_once,
    )

    prompt: str
    """What the result shows and sounds like. Parts divided by |, or with times in brackets, follow each
    other."""
    negative_prompt: str | None = None
    """What to avoid, where guidance is on. Left out, the model's own text."""
    video_negative_prompt: str | None = None
    """What to avoid in the picture only."""
    audio_negative_prompt: str | None = None
    """What to avoid in the sound only."""
    size: tuple[Side, Side] | str | None = None
    """Width and height in pixels, such as 192x128; or landscape, portrait, square, or a height such as 720p
    or 1080p-portrait. Sides snap to multiples of 32. Left out, the recipe's or the model's own."""
    duration_s: Annotated[float, Field(gt=0, le=MAX_SECONDS, examples=[2.0]), unit("seconds")] | None = None
    """Length of the result in time. Left out, the model's own."""
    num_frames: Annotated[int, Field(ge=1, le=MAX_FRAMES, examples=[49]), unit("frames")] | None = None
    """Length of the result in frames, instead of in time; snaps to 8k + 1."""
    fps: Fps | None = None
    """Frame rate of the result. Left out, the recipe's or the model's own."""
    thin: Annotated[int, Field(ge=1, le=4)] = 1
    """Generate n times the frames and keep one in n, for smoother motion; 1 is off."""
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] | None = None
    """Seed of all random numbers: the same seed gives the same result. Left out, one is drawn."""
    steps: Steps | None = None
    """Number of denoising steps. Left out, the recipe's or the model's own."""
    schedule: Annotated[str, Field(examples=list(schedules.NAMES))] | None = None
    """Name of the noise schedule: how noise falls over the steps. Left out, the recipe's or the model's
    own."""
    sigmas: Annotated[tuple[Share, ...], Field(max_length=MAX_STEPS + 1)] | None = None
    """Noise levels of the steps, falling to 0, instead of a schedule and a number of steps."""
    sampler: Annotated[str, Field(examples=list(SAMPLER_INFO))] | None = None
    """Name of the sampler: how one denoising step is computed. Left out, the recipe's."""
    guidance: GuidanceScale | None = None
    """Classifier-free guidance scale for picture and sound; 1 is off. Left out, the recipe's or the model's
    own for each."""
    video_guidance: GuidanceScale | None = None
    """Classifier-free guidance scale for the picture only; 1 is off."""
    audio_guidance: GuidanceScale | None = None
    """Classifier-free guidance scale for the sound only; 1 is off."""
    stg: GuidanceScale | None = None
    """Spatio-temporal guidance scale, away from a prediction made without self-attention; 0 is off. Left out,
    the recipe's or the model's own."""
    modality_guidance: GuidanceScale | None = None
    """Modality guidance scale, towards picture and sound that fit each other; 1 is off. Left out, the
    recipe's or the model's own."""
    rescale: Share | None = None
    """How much of the contrast that guidance adds is removed; 0 removes none. Left out, the recipe's or the
    model's own."""
    video_scales: ScaleFields = {}
    """Guidance values of the picture by name, which win over all other options. Those under a noise level
    hold from there down: {"cfg": 2, "0.9875": {"cfg": 1}}."""
    audio_scales: ScaleFields = {}
    """Guidance values of the sound by name, as video_scales has them for the picture."""
    cache: StepCache | None = None
    """Skip transformer blocks on steps that change little: first-block or teacache, with a threshold if it is
    not 0.05, such as first-block:0.1. Faster, at a measured loss."""
    guides: GuideList = ()
    """Pictures and clips that the result shows at given times."""
    references: ReferenceList = ()
    """Clips that condition the result without being shown, as in-context LoRAs use them."""
    controls: ControlList = ()
    """Clips that edges, depth, paths or other references are made from, for in-context LoRAs."""
    source: AnySource | None = None
    """A clip to start from, and what of it is regenerated."""
    audio: AnyAudio | None = None
    """A sound that the result follows."""
    speakers: SpeakerList = ()
    """Voices that the prompt calls by [SPEAKER 1], [SPEAKER 2] and so on, in place of audio in mode identity.
    Each window of a long take has the voice of the speaker that it names first."""
    loras: LoraList = ()
    """LoRAs of the transformer."""
    lengths: tuple[float, ...] | None = None
    """Relative length of each part of a prompt divided by |, such as 2,1. Left out, all parts are equally
    long."""
    relay: Relay | None = None
    """How sharply the parts of a prompt follow each other."""
    take: Take | None = None
    """How a clip longer than the model makes at once is split into windows and joined."""
    modalities: Modalities = BOTH
    """What to make: video, audio or both."""
    output: AnyHdr | None = None
    """High dynamic range of the picture: its file and its preview. Left out, the picture is in standard
    range, 8 bits."""
    embeddings: PathText | None = None
    """A .safetensors file of contexts (video_context, audio_context) that the model reads in place of the
    prompt."""
    recipe: PathText = "single"
    """The recipe to use: its name, or a .yaml file."""
    allow_unfit: bool = False
    """Allow what the model is known to fail at, such as frames far larger than it was trained on."""

    def __init__(self, /, **data: Any) -> None:
        check_fields(data)
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise request_error(error, Request, "a request") from None

    @field_validator("prompt")
    @classmethod
    def _prompt(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("prompt is empty; describe what the film shows and sounds like")
        return value

    @field_validator("size", mode="before")
    @classmethod
    def _size(cls, value: Any) -> Any:
        if isinstance(value, str):
            return _parse_size(value)
        if isinstance(value, (tuple, list)):
            _check_size(value)
        return value

    @field_validator("cache", mode="before")
    @classmethod
    def _cache(cls, value: Any) -> Any:
        if isinstance(value, (StepCache, Mapping)) or value is None:
            return value
        return StepCache.from_text(value if isinstance(value, str) else shown(value))

    @field_validator("schedule", "sampler")
    @classmethod
    def _named(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and not value.strip():
            names = schedules.NAMES if info.field_name == "schedule" else SAMPLER_INFO
            raise ValueError(f"{info.field_name} is {value!r}; give one of {', '.join(names)}")
        return value

    @field_validator("modalities")
    @classmethod
    def _modalities(cls, value: frozenset[str]) -> frozenset[str]:
        if not value:
            raise ValueError("modalities is empty; give video, audio, or both")
        return value

    @model_validator(mode="after")
    def _one_of_each(self) -> Request:
        if self.duration_s is not None and self.num_frames is not None:
            raise ValueError(
                f"both duration_s ({self.duration_s:g}) and num_frames ({self.num_frames}) are given; "
                "keep one"
            )
        if self.steps is not None and self.sigmas is not None:
            raise ValueError("both steps and sigmas are given; keep one")
        if self.speakers and self.audio is not None:
            raise ValueError("both speakers and audio are given; keep one")
        if self.schedule is not None and self.sigmas is not None:
            raise ValueError("both schedule and sigmas are given; keep one")
        return self

    @property
    def followed(self) -> tuple[tuple[str, Reference | Control], ...]:
        """Return the references, then the controls, each with the place of its clip."""
        return (
            *((f"references[{i}].video", one) for i, one in enumerate(self.references)),
            *((f"controls[{i}].file", one) for i, one in enumerate(self.controls)),
        )

    @property
    def in_memory(self) -> tuple[str, ...]:
        """Return the places that hold arrays, such as "guides[0].image"."""
        return tuple(place for place, value in self._inputs() if isinstance(value, InMemory))

    @property
    def files(self) -> dict[str, str]:
        """Return the file of each place that names one: pictures, clips, masks, sounds and LoRAs."""
        return {place: value for place, value in self._inputs() if isinstance(value, str)}

    def _inputs(self) -> Iterator[tuple[str, Any]]:
        """Yield the place and the value of each file or array."""
        held = [
            (f"{name}[{i}]", item)
            for name in ("guides", "references", "controls", "speakers", "loras")
            for i, item in enumerate(getattr(self, name))
        ]
        for where, item in (*held, ("source", self.source), ("audio", self.audio)):
            for key in () if item is None else (k for k in vars(item) if k in INPUT_FIELDS):
                yield f"{where}.{key}", getattr(item, key)
        yield "embeddings", self.embeddings

    def describe(self) -> dict[str, Any]:
        """Return every field as JSON-ready values; an array as its shape and hash."""
        data: dict[str, Any] = self.model_dump(mode="json")
        return data

    def to_dict(self) -> dict[str, Any]:
        """Return every field as JSON-ready values; `Request(**d)` gives it back.

        Raises RequestError for a request that holds arrays.
        """
        if self.in_memory:
            raise RequestError(
                f"{', '.join(self.in_memory)} is an array in memory, which JSON cannot hold; save it to a "
                "file and pass its path"
            )
        return self.describe()

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), ensure_ascii=False, sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> Request:
        """Read a request from JSON. Raises RequestError for anything else."""
        if not isinstance(text, str | bytes | bytearray):
            raise RequestError(f"the request is {shown(text)}; pass the JSON text that Request.to_json wrote")
        try:
            data = json.loads(text)
        except RecursionError:
            raise RequestError("the request is JSON of too many levels; give plain fields") from None
        except ValueError as error:  # no JSON, or a whole number of thousands of digits
            raise RequestError(
                f"the request is not JSON ({error}); pass what Request.to_json wrote"
            ) from error
        if not isinstance(data, dict):
            raise RequestError(f"the request is a JSON {type(data).__name__}; pass an object of fields")
        return cls(**data)


def _parse_size(text: str) -> tuple[int, int] | str:
    if text in ORIENTATIONS or _PRESET.fullmatch(text):
        return text
    match = re.fullmatch(r"\s*([0-9]{1,9})\s*[xX*,]\s*([0-9]{1,9})\s*", text)
    if match is None:
        raise ValueError(
            f"size is {shown(text)}; give WIDTHxHEIGHT, such as 192x128, {listed(text, ORIENTATIONS)}, or a "
            "height such as 720p or 1080p-portrait"
        )
    size = (int(match[1]), int(match[2]))
    _check_size(size, text)
    return size


def _check_size(value: Any, given: Any = None) -> None:
    """Raise ValueError for what is no pair of sides. given: what the message shows, else the value."""
    numbers = [v for v in value if isinstance(v, int) and 1 <= v <= MAX_SIDE]
    if len(value) != 2 or len(numbers) != 2:
        found = shown(tuple(value) if given is None else given)
        raise ValueError(
            f"size is {found}; give width and height in pixels, each from 32 to {MAX_SIDE}, such as 192x128"
        )
