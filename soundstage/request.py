"""What a user asks for: one frozen, validated record with a JSON form. Loads no torch.

Fields left at None take the model's own default when the plan is made. A value that can never be right
is refused here, with every bad field named at once; a value that only needs rounding (sides to multiples
of 32, frames to 8k + 1) passes, and the plan says what it was rounded to.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from soundstage.errors import RequestError

PRESETS = ("landscape", "portrait", "square")
MAX_SIDE = 8192
MAX_STEPS = 1000

Modality = Literal["video", "audio"]
Scale = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]


class Request(BaseModel):
    """One film, or one silent picture, or one sound.

    prompt: what to show and let hear. negative_prompt: what to steer away from, used only where guidance
    is on. size: (width, height) in pixels, "192x128", or a preset of the model ("landscape", "portrait",
    "square"). duration_s or num_frames: length; not both. fps: frames per second. seed: 0 to 2^63 - 1,
    fixes every random number. steps: denoising steps. sigmas: a noise list of your own instead of steps.
    guidance: pull towards the prompt in both modalities, 1 = off; video_guidance and audio_guidance
    override it in one. stg: pull away from a pass without self-attention, 0 = off. modality_guidance:
    pull towards picture and sound that fit each other, 1 = off. rescale: 0 to 1, evens out the contrast
    that guidance adds. modalities: what to make. recipe: which list of passes.

    Raises RequestError with one sentence per bad field.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str
    negative_prompt: str | None = None
    size: tuple[int, int] | str | None = None
    duration_s: float | None = None
    num_frames: int | None = None
    fps: float | None = None
    seed: int = 10
    steps: int | None = None
    sigmas: tuple[float, ...] | None = None
    guidance: Scale | None = None
    video_guidance: Scale | None = None
    audio_guidance: Scale | None = None
    stg: Scale | None = None
    modality_guidance: Scale | None = None
    rescale: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    modalities: frozenset[Modality] = frozenset({"video", "audio"})
    recipe: str = "single"

    def __init__(self, /, **data: Any) -> None:
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise _request_error(error) from None

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

    @field_validator("duration_s")
    @classmethod
    def _duration(cls, value: float | None) -> float | None:
        if value is not None and not 0 < value < float("inf"):
            raise ValueError(f"duration_s is {value:g}; give a length in seconds above 0, such as 2.0")
        return value

    @field_validator("num_frames")
    @classmethod
    def _frames(cls, value: int | None) -> int | None:
        if value is not None and value < 1:
            raise ValueError(f"num_frames is {value}; give a count of 8k + 1 frames, such as 49")
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
        return self

    def to_dict(self) -> dict[str, Any]:
        """Every field as JSON-ready values; `Request(**d)` gives it back."""
        data: dict[str, Any] = self.model_dump(mode="json")
        data["modalities"] = sorted(data["modalities"])
        return data

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), ensure_ascii=False, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Request:
        """Raises RequestError for text that is not a JSON object or not a request."""
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise RequestError(
                f"the request is not JSON ({error}); pass what Request.to_json wrote"
            ) from error
        if not isinstance(data, dict):
            raise RequestError(f"the request is a JSON {type(data).__name__}; pass an object of fields")
        return cls(**data)


def _parse_size(text: str) -> tuple[int, int] | str:
    if text in PRESETS:
        return text
    match = re.fullmatch(r"\s*(\d+)\s*[xX*,]\s*(\d+)\s*", text)
    if match is None:
        raise ValueError(
            f"size is '{text}'; give WIDTHxHEIGHT, such as 192x128, or one of {', '.join(PRESETS)}"
        )
    size = (int(match[1]), int(match[2]))
    _check_size(size)
    return size


def _check_size(value: Any) -> None:
    numbers = [v for v in value if isinstance(v, int) and 1 <= v <= MAX_SIDE]
    if len(value) != 2 or len(numbers) != 2:
        raise ValueError(
            f"size is {tuple(value)}; give (width, height) in pixels, each from 32 to {MAX_SIDE}, "
            "such as (192, 128)"
        )


def _request_error(error: ValidationError) -> RequestError:
    sentences, fields = [], []
    for item in error.errors():
        field = ".".join(str(part) for part in item["loc"][:1])
        fields.append(field)
        sentences.append(_sentence(field, item))
    unique = list(dict.fromkeys(sentences))
    return RequestError("; ".join(unique), field=(fields[0] or None) if len(unique) == 1 else None)


def _sentence(field: str, item: Any) -> str:
    if item["type"] == "value_error":
        return str(item["ctx"]["error"])
    if item["type"] == "missing":
        return f"{field} is missing; give one"
    if item["type"] == "extra_forbidden":
        return f"'{field}' is not a field of a request; the fields are {', '.join(Request.model_fields)}"
    wanted = item["msg"][0].lower() + item["msg"][1:]
    return f"{field} is {item['input']!r}; {wanted.replace('input should', 'it should')}"
