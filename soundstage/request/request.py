"""What a user asks for: one frozen, validated record with a JSON form. Loads no torch.

Fields left at None take the model's own default when the plan is made. A value that can never be right
is refused here, with every bad field named at once; a value that only needs rounding (sides to multiples
of 32, frames to 8k + 1) passes, and the plan says what it was rounded to.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from soundstage.errors import RequestError, listed, shown
from soundstage.media.in_memory import InMemory
from soundstage.prompts.timeline import Relay
from soundstage.request.bounds import check_fields
from soundstage.request.inputs import (
    BOTH,
    MAX_FRAMES,
    MAX_SECONDS,
    MAX_SIDE,
    Audio,
    Guide,
    Lora,
    Modalities,
    Reference,
    Source,
    request_error,
)
from soundstage.request.take import Take
from soundstage.sampling.cache import StepCache

ORIENTATIONS = ("landscape", "portrait", "square")
MAX_STEPS = 1000
MAX_GUIDES, MAX_REFERENCES, MAX_LORAS = 256, 16, 64

Scale = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]


def _words(value: Any) -> Any:
    """Noise levels among the keys as JSON has them."""
    return {str(key): item for key, item in value.items()} if isinstance(value, Mapping) else value


ScaleFields = Annotated[Mapping[str, Any], BeforeValidator(_words)]
_PRESET = re.compile(rf"([0-9]{{1,6}}p|4k)(-({'|'.join(ORIENTATIONS)}))?")


class Request(BaseModel):
    """One film, or one silent picture, or one sound.

    prompt: what to show and let hear; with "|" or times, what when (see prompts.timeline). lengths: a weight
    per part of a prompt with "|". relay: how sharply parts follow each other. negative_prompt: what to steer
    away from, used only where guidance is on; video_negative_prompt and audio_negative_prompt override it
    in one modality.

    size: (width, height) in pixels, "192x128", "landscape", "portrait", "square", or a height with one of
    them, "720p" (landscape), "1080p-portrait". duration_s or num_frames: length; not both. fps: frames per
    second. thin: make this many times the frames and keep every thin-th, for smoother motion. seed: 0 to
    2^63 - 1, fixes every random number.

    recipe: which list of passes. steps, schedule, sigmas, sampler: of the first pass; sigmas is a noise
    list of your own instead of steps and schedule. guidance: pull towards the prompt in both modalities,
    1 = off; video_guidance and audio_guidance override it in one. stg: pull away from a pass without
    self-attention, 0 = off. modality_guidance: pull towards picture and sound that fit each other, 1 = off.
    rescale: 0 to 1, evens out the contrast that guidance adds. video_scales and audio_scales: any field of
    sampling.scales.Scales by name, for one modality; they win over all others. A noise level among the names
    holds what changes from there down: {"cfg": 2, 0.9875: {"cfg": 1}}. cache: leave blocks out on
    steps of the first pass that change little, "first-block" or "teacache" with a threshold,
    "first-block:0.1", or a sampling.cache.StepCache.

    guides, references, source, audio, loras: see request/inputs.py. take: how a clip longer than the model
    makes at once is cut into windows and joined, see request/take.py. modalities: what to make.
    allow_unfit: make what the model is known to fail at, such as frames far larger than it was trained on.

    Raises RequestError with one sentence per bad field.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str
    negative_prompt: str | None = None
    video_negative_prompt: str | None = None
    audio_negative_prompt: str | None = None
    size: tuple[int, int] | str | None = None
    duration_s: float | None = None
    num_frames: int | None = None
    fps: float | None = None
    thin: Annotated[int, Field(ge=1, le=4)] = 1
    seed: int = 10
    steps: int | None = None
    schedule: str | None = None
    sigmas: Annotated[tuple[float, ...], Field(max_length=MAX_STEPS + 1)] | None = None
    sampler: str | None = None
    guidance: Scale | None = None
    video_guidance: Scale | None = None
    audio_guidance: Scale | None = None
    stg: Scale | None = None
    modality_guidance: Scale | None = None
    rescale: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    video_scales: ScaleFields = {}
    audio_scales: ScaleFields = {}
    cache: StepCache | None = None
    guides: Annotated[tuple[Guide, ...], Field(max_length=MAX_GUIDES)] = ()
    references: Annotated[tuple[Reference, ...], Field(max_length=MAX_REFERENCES)] = ()
    source: Source | None = None
    audio: Audio | None = None
    loras: Annotated[tuple[Lora, ...], Field(max_length=MAX_LORAS)] = ()
    lengths: tuple[float, ...] | None = None
    relay: Relay | None = None
    take: Take | None = None
    modalities: Modalities = BOTH
    recipe: str = "single"
    allow_unfit: bool = False

    def __init__(self, /, **data: Any) -> None:
        check_fields(data)
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise request_error(error, "Request", list(Request.model_fields), Request) from None

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
        return StepCache.parse(value) if isinstance(value, str) else value

    @field_validator("duration_s")
    @classmethod
    def _duration(cls, value: float | None) -> float | None:
        if value is not None and not 0 < value <= MAX_SECONDS:
            raise ValueError(
                f"duration_s is {value:g}; give a length in seconds above 0, such as 2.0, and up to "
                f"{MAX_SECONDS:g}"
            )
        return value

    @field_validator("num_frames")
    @classmethod
    def _frames(cls, value: int | None) -> int | None:
        if value is not None and not 1 <= value <= MAX_FRAMES:
            raise ValueError(
                f"num_frames is {value}; give a count of 8k + 1 frames, such as 49, up to {MAX_FRAMES}"
            )
        return value

    @field_validator("fps")
    @classmethod
    def _fps(cls, value: float | None) -> float | None:
        if value is not None and not 1 <= value <= 240:
            raise ValueError(f"fps is {value:g}; give frames per second between 1 and 240, such as 24")
        return value

    @field_validator("seed")
    @classmethod
    def _seed(cls, value: int) -> int:
        if not 0 <= value < 2**63:
            raise ValueError(f"seed is {value}; give a whole number from 0 to 2^63 - 1")
        return value

    @field_validator("steps")
    @classmethod
    def _steps(cls, value: int | None) -> int | None:
        if value is not None and not 1 <= value <= MAX_STEPS:
            raise ValueError(f"steps is {value}; give a count between 1 and {MAX_STEPS}, such as 30")
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
        if self.schedule is not None and self.sigmas is not None:
            raise ValueError("both schedule and sigmas are given; keep one")
        return self

    @property
    def in_memory(self) -> tuple[str, ...]:
        """The fields that hold arrays, such as "guides[0].image"."""
        held = [
            (f"{name}[{i}]", item)
            for name in ("guides", "references")
            for i, item in enumerate(getattr(self, name))
        ]
        held += [("source", self.source), ("audio", self.audio)]
        return tuple(
            f"{where}.{key}"
            for where, item in held
            if item is not None
            for key, value in vars(item).items()
            if isinstance(value, InMemory)
        )

    def describe(self) -> dict[str, Any]:
        """Every field as JSON-ready values; an array is told by its shape and hash."""
        data: dict[str, Any] = self.model_dump(mode="json")
        return data

    def to_dict(self) -> dict[str, Any]:
        """Every field as JSON-ready values; `Request(**d)` gives it back.

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
    def from_json(cls, text: str) -> Request:
        """Raises RequestError for text that is not a JSON object or not a request."""
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
