"""Turn Scope's parameters, a JSON config, into a `Request`.

Names, defaults, ranges and snapping are those of Daydream Scope's LTX-2.3 plugin; so are the sigmas, which
it rounds to bfloat16. It knows the distilled model only: one pass at the final size, Euler steps, no
guidance, no negative prompt.

    config = scope.read_config("scope.json")
    request = config.request()            # a new seed per call if randomize_seed is on, as it is by default

What a config does not decide about a clip is kept beside it: `realtime_pacing_slack` is for
`soundstage.continuous`, and `ffn_chunk_size`, which changes memory and no number, is for the model.
Source: docs/scope.md; docs/model/sampling.md, "Schedules".
"""

from __future__ import annotations

import itertools
import json
import random
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from soundstage.errors import RequestError, shown
from soundstage.fields.messages import request_error
from soundstage.fields.record import Share, unit
from soundstage.request.inputs import Audio, Guide, Lora, Multiplier, Reference
from soundstage.request.request import Request
from soundstage.sampling import schedules

DEFAULT_PROMPT = "a beautiful sunset"
DEFAULT_SEED = 42
SEEDS = 2**31
MIN_FRAMES, MAX_FRAMES = 9, 257
SIDE_STEP, FRAME_STEP = 32, 8
DISTILLED_STEPS = 8

ScheduleName = Literal["distilled", "linear", "cosine", "linear_quadratic", "beta"]


class ScopeLora(BaseModel):
    """One adapter of a config."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    path: str
    """The .safetensors file."""
    scale: Multiplier = 1.0
    """Its strength."""


class ScopeConfig(BaseModel):
    """One config, checked and snapped. Raises RequestError naming each field that does not fit."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", arbitrary_types_allowed=True, use_attribute_docstrings=True
    )

    prompts: str = DEFAULT_PROMPT
    """What to show; of a list, the text of its first item."""
    height: Annotated[int, unit("pixels")] = 384
    """Height; snaps to multiples of 32."""
    width: Annotated[int, unit("pixels")] = 320
    """Width; snaps to multiples of 32."""
    num_frames: Annotated[int, unit("frames")] = 129
    """Length, 9 to 257; snaps to 8k + 1."""
    num_steps: Annotated[int, Field(ge=1, le=20), unit("steps")] = DISTILLED_STEPS
    """Number of denoising steps."""
    schedule: ScheduleName = "distilled"
    """How noise falls: distilled is the list of 8 steps, and linear at any other count."""
    sigmas: Annotated[tuple[float, ...], Field(min_length=2)] | None = None
    """Noise levels, instead of a schedule and steps."""
    frame_rate: Annotated[float, Field(gt=0, le=240), unit("frames per second")] = 24.0
    """Frame rate of time and sound."""
    realtime_pacing_slack: Annotated[float, Field(ge=0)] = 0.5
    """Slack of `continuous.Pacer`; 0 is off."""
    ffn_chunk_size: Annotated[int, Field(ge=1), unit("tokens")] | None = 4096
    """Tokens that go through a feed-forward at once; null is all of them."""
    randomize_seed: bool = True
    """Take a new seed for each request, instead of those below."""
    seed: Annotated[int, Field(ge=0)] | None = None
    """The seed. Left out, base_seed."""
    base_seed: Annotated[int, Field(ge=0)] | None = None
    """The seed where there is no other. Left out, 42."""
    i2v_image: Any = None
    """The first picture; first_frame_image is another name for it."""
    i2v_strength: Share = 1.0
    """How firmly the first picture is kept."""
    video: Any = None
    """A clip to follow from beside."""
    control_strength: Share = 1.0
    """How clean the clip beside is given."""
    audio_input: Any = None
    """A sound that leads the result."""
    audio_mode: Literal["driving", "id_lora"] = "driving"
    """How the sound leads: driving, or id_lora for its voice."""
    identity_guidance_scale: Annotated[float, Field(ge=0, le=20)] = 3.0
    """How strongly the voice of id_lora is pulled towards; 0 is off."""
    lora_merge_strategy: Literal["permanent_merge"] = "permanent_merge"
    """How adapters are applied; the one way there is."""
    loras: tuple[ScopeLora, ...] = ()
    """Adapters of the transformer."""

    def __init__(self, /, **data: Any) -> None:
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise request_error(error, ScopeConfig, "a Scope config") from None

    @model_validator(mode="before")
    @classmethod
    def _aliases(cls, data: Any) -> Any:
        """Read first_frame_image as i2v_image, and null as the default."""
        values = {key: value for key, value in dict(data).items() if value is not None}
        if "ffn_chunk_size" in data:  # null switches it off
            values["ffn_chunk_size"] = data["ffn_chunk_size"]
        if "first_frame_image" in values:
            image = values.pop("first_frame_image")
            if "i2v_image" in values:
                raise ValueError("both i2v_image and first_frame_image are given; keep one")
            values["i2v_image"] = image
        return values

    @field_validator("prompts", mode="before")
    @classmethod
    def _prompt(cls, value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            if not value:
                return DEFAULT_PROMPT
            value = value[0]
        return value.get("text", DEFAULT_PROMPT) if isinstance(value, Mapping) else value

    @field_validator("height", "width")
    @classmethod
    def _side(cls, value: int) -> int:
        return scope_side(value)

    @field_validator("num_frames")
    @classmethod
    def _frames(cls, value: int) -> int:
        snapped = scope_frames(value)
        if snapped > MAX_FRAMES:
            raise ValueError(
                f"num_frames is {value}, which snaps to {snapped}; give {MIN_FRAMES} to {MAX_FRAMES}"
            )
        return snapped

    def request(self, *, prompt: str | None = None, rng: random.Random | None = None) -> Request:
        """Return a request for one clip. prompt: replaces the config's. rng: gives random seeds."""
        image, sound = self.i2v_image, self.audio_input
        guide = None if image is None else Guide(image, frame=0, strength=self.i2v_strength, **_IN_PLACE)
        reference = (
            None
            if self.video is None
            else Reference(self.video, strength=self.control_strength, crop="stretch")
        )
        return Request(
            prompt=self.prompts if prompt is None else prompt,
            size=(self.width, self.height),
            num_frames=self.num_frames,
            fps=self.frame_rate,
            seed=self.next_seed(rng),
            recipe="single",
            sampler="euler",
            sigmas=self.noise_levels(),
            guidance=1.0,
            stg=0.0,
            modality_guidance=1.0,
            rescale=0.0,
            guides=() if guide is None else (guide,),
            references=() if reference is None else (reference,),
            audio=None if sound is None else self._audio(),
            loras=tuple(Lora(lora.path, lora.scale) for lora in self.loras),
        )

    def next_seed(self, rng: random.Random | None = None) -> int:
        """Return a random seed below 2^31, or the config's."""
        if self.randomize_seed:
            return (rng or random.SystemRandom()).randrange(SEEDS)
        return next(seed for seed in (self.seed, self.base_seed, DEFAULT_SEED) if seed is not None)

    def noise_levels(self) -> schedules.Sigmas:
        """Return Scope's list of sigmas, rounded to bfloat16.

        A level that rounding makes equal to the one before is left out, as its step would do nothing.
        """
        if self.sigmas is not None:
            chosen = self.sigmas
        elif self.schedule == "distilled":
            chosen = (
                schedules.DISTILLED if self.num_steps == DISTILLED_STEPS else schedules.linear(self.num_steps)
            )
        else:
            chosen = _SCHEDULES[self.schedule](self.num_steps)
        rounded = [bfloat16(sigma) for sigma in chosen]
        falling = [b for a, b in itertools.pairwise(rounded) if b != a]
        return schedules.check((rounded[0], *falling))

    def _audio(self) -> Audio:
        if self.audio_mode == "driving":
            return Audio(self.audio_input, mode="driving")
        return Audio(self.audio_input, mode="identity", guidance=self.identity_guidance_scale)


_IN_PLACE: Any = {"mode": "replace", "crf": 0, "crop": "stretch"}
_SCHEDULES = {
    "linear": schedules.linear,
    "cosine": schedules.cosine,
    "linear_quadratic": schedules.linear_quadratic,
    "beta": schedules.scope_beta,
}


def read_config(source: str | Path | Mapping[str, Any]) -> ScopeConfig:
    """Read a config from a mapping, or from a JSON file.

    Raises RequestError for a file that cannot be read, an unknown name or a value out of range.
    """
    if isinstance(source, Mapping):
        return ScopeConfig(**{str(name): value for name, value in source.items()})
    if not isinstance(source, str | Path):
        raise RequestError(f"the config is {shown(source)}; give a mapping of parameters, or a JSON file")
    try:
        data = json.loads(Path(source).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RequestError(f"{source} is not a JSON file that can be read ({error})") from error
    if not isinstance(data, dict):
        raise RequestError(f"{source} holds a JSON {type(data).__name__}; give an object of parameters")
    return ScopeConfig(**data)


def scope_side(pixels: int) -> int:
    """Return the nearest multiple of 32, at least 32; halves go to the even one: 16 -> 32, 80 -> 64."""
    return max(SIDE_STEP, round(pixels / SIDE_STEP) * SIDE_STEP)


def scope_frames(count: int) -> int:
    """Return the nearest 8k + 1, at least 9; halves go to the even k: 1 -> 9, 13 -> 17, 125 -> 129."""
    return FRAME_STEP * max(round((count - 1) / FRAME_STEP), 1) + 1


def bfloat16(x: float) -> float:
    """Return the nearest bfloat16, ties to even."""
    bits = struct.unpack("<I", struct.pack("<f", x))[0]
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
    return float(struct.unpack("<f", struct.pack("<I", rounded))[0])
