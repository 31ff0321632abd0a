"""Recipes: lists of passes, each of them one run of the denoising loop. Data only.

The shipped recipes are in `recipes/`, one .yaml file each, as users write their own; recipes.py reads both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, fields
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo

from soundstage.errors import ConfigError, listed, shown
from soundstage.fields.record import Share, from_file, record
from soundstage.request.inputs import MAX_STEPS, Fps, Multiplier, Steps
from soundstage.sampling import schedules
from soundstage.sampling.scales import NEUTRAL, Guidance, Scales, with_words, words_of
from soundstage.types import Exchange, Modality, UpsamplerRole, enlargement

DISTILLED_LORA = "distilled"
# Lists that recipes name in place of their numbers.
NAMED_SIGMAS = {"distilled": schedules.DISTILLED, "refine": schedules.REFINE}


def _sigmas(value: Any) -> Any:
    if isinstance(value, str) and value not in NAMED_SIGMAS:
        raise ValueError(f"sigmas is {shown(value)}; give a list of noise levels, or distilled or refine")
    return NAMED_SIGMAS[value] if isinstance(value, str) else value


def _many(value: Any) -> Any:
    """Return a list where one word, or nothing, is written."""
    return (value,) if isinstance(value, str) else () if value is None else value


def _pairs(value: Any) -> Any:
    return tuple(value.items()) if isinstance(value, Mapping) else _many(value)


def _guidance(value: Any, info: ValidationInfo) -> Any:
    """Return scales from words, as a file has them; scales as they are."""
    if not isinstance(value, Mapping) or (value and all(isinstance(s, Scales) for s in value.values())):
        return value
    return with_words(NEUTRAL, value, str(info.field_name))


Scale = Annotated[Literal["1/4", "1/2", "2/3", "1"], BeforeValidator(str)]
TimeScale = Annotated[Literal["1/2", "1"], BeforeValidator(str)]
Upsamplers = Annotated[tuple[UpsamplerRole, ...], BeforeValidator(_many)]
SigmaList = Annotated[tuple[Share, ...], Field(max_length=MAX_STEPS + 1), BeforeValidator(_sigmas)]
Loras = Annotated[tuple[tuple[str, Multiplier], ...], BeforeValidator(_pairs)]
Frozen = Annotated[frozenset[Modality], BeforeValidator(_many)]
GuidanceWords = Annotated[Guidance, BeforeValidator(_guidance)]


@record
class Pass:
    """One run of the denoising loop."""

    name: str
    """What progress, LoRAs and `audio_from` call the pass."""
    scale: Scale = "1"
    """Size of the pass, as a part of the height and width of the result: 1/4, 1/2, 2/3 or 1."""
    time_scale: TimeScale = "1"
    """Frame rate of the pass, as a part of that of the result: 1/2 or 1."""
    start: Literal["noise", "previous", "source"] = "noise"
    """What it starts from: noise, the latents of the pass before (previous), or the request's source."""
    upsample: Upsamplers = ()
    """Latent upsamplers that the start goes through, in order: space-x2, space-x1.5, time-x2."""
    schedule: str | None = None
    """How noise falls over the steps. Left out, the model's own."""
    steps: Steps | None = None
    """Number of denoising steps. Left out, the model's own."""
    sigmas: SigmaList | None = None
    """Noise levels, instead of a schedule and steps: a list that falls to 0, or distilled or refine, which
    are the published ones. A list that begins below 1 keeps that much of the start."""
    all_tokens: bool = False
    """Shift the schedule for the tokens of this pass instead of 4096."""
    sampler: str = "euler"
    """How one denoising step is taken."""
    video: GuidanceWords | None = field(default=None, hash=False)
    """Guidance of the picture by the names of Scales. A noise level holds what changes from there down:
    {cfg: 2, 0.9875: {cfg: 1}}. Left out, the model's own."""
    audio: GuidanceWords | None = field(default=None, hash=False)
    """Guidance of the sound, likewise."""
    loras: Loras = ()
    """LoRAs and their strengths, by path; distilled is the model's own distilled LoRA, left out where the
    model is distilled already."""
    freeze: Frozen = frozenset()
    """Video or audio that is taken over from the pass before as it is."""
    references: bool = True
    """Whether reference clips are seen."""
    identity: Literal["input", "soundtrack", "previous", "none"] = "input"
    """The voice that is heard: input is at most the first ten seconds of the request's sound, soundtrack all
    of it, as a dub hears its speaker, previous the sound of the pass before, none no voice."""
    exchange: Exchange | None = None
    """Which references and voices take part in the attention between picture and sound: all; those that read
    the other stream without being read (reads); none, so that the clip alone does (clip). Left out, as the
    LoRAs' files say."""
    guides: Literal["as asked", "guide", "none"] = "as asked"
    """How guides enter: as asked, always as guide tokens beside the clip (guide), or not at all (none)."""
    guide_strength: Share | None = None
    """Strength of all guides in this pass. Left out, each guide's own."""

    def __post_init__(self) -> None:
        if self.sigmas is not None and (self.steps is not None or self.schedule is not None):
            raise ValueError("both sigmas and steps or schedule are given; keep one")
        if self.sigmas is not None:
            schedules.check(self.sigmas)
        if self.upsample and self.start == "noise":
            raise ValueError("there is nothing to upsample where a pass starts from noise")

    @property
    def space(self) -> Fraction:
        return Fraction(self.scale)

    @property
    def time(self) -> Fraction:
        return Fraction(self.time_scale)


@record
class Recipe:
    """A list of passes."""

    name: str
    """What a request calls the recipe. Left out in a file, the file's name."""
    summary: str
    """What it does, in a line."""
    passes: Annotated[tuple[Pass, ...], Field(min_length=1)]
    """The passes, in the order in which they run."""
    best_for: str = ""
    """When to choose it."""
    audio_from: str | None = None
    """Name of the pass whose sound is kept. Left out, the last."""
    resolution: str | None = None
    """Name of the size where the request gives none, such as 2160p. Left out, the model's own size."""
    fps: Fps | None = None
    """Frame rate where the request gives none. Left out, the model's own."""

    def __post_init__(self) -> None:
        names = [pass_.name for pass_ in self.passes]
        if len(set(names)) != len(names):
            raise ValueError(f"pass names must differ, not {', '.join(names)}")
        if self.audio_from is not None and self.audio_from not in names:
            raise ValueError(
                f"audio_from is '{self.audio_from}'; the passes are {listed(self.audio_from, names)}"
            )
        for before, pass_ in zip((None, *self.passes), self.passes, strict=False):
            _check_order(before, pass_)
        last = self.passes[-1]
        if len(names) > 1 and (last.space != 1 or last.time != 1):
            raise ValueError(f"the last pass, '{last.name}', must run at scale 1")

    @classmethod
    def from_dict(cls, data: Any, where: str) -> Recipe:
        """Read a recipe from a file's object. where: the file, for messages.

        Raises ConfigError naming what does not fit.
        """
        if not isinstance(data, Mapping):
            raise ConfigError(f"{where} holds no recipe; begin with 'name:', 'summary:' and 'passes:'")
        values = {"name": Path(where).stem, "summary": "a recipe of your own", **data}
        passes = values.get("passes")
        if isinstance(passes, (list, tuple)):
            values["passes"] = [
                from_file(Pass, item, f"{where}, pass {i + 1}") for i, item in enumerate(passes)
            ]
        return from_file(cls, values, where)

    def to_dict(self) -> dict[str, Any]:
        """Return the object that `from_dict` reads, without fields at their defaults."""
        data = _changed(self)
        data["passes"] = [_changed(pass_) for pass_ in self.passes]
        return data


def _check_order(before: Pass | None, pass_: Pass) -> None:
    """Raise ValueError for a pass that cannot take over what the one before it leaves."""
    where = f"pass '{pass_.name}'"
    if before is None:
        if pass_.start == "previous" or pass_.freeze or pass_.identity == "previous":
            raise ValueError(f"{where} takes over from a pass before it, but it is the first")
        return
    if pass_.start != "previous":
        return
    space = before.space * enlargement(pass_.upsample, "space")
    time = before.time * enlargement(pass_.upsample, "time")
    if (space, time) != (pass_.space, pass_.time):
        raise ValueError(
            f"{where} runs at scale {pass_.scale} and time_scale {pass_.time_scale}, but pass "
            f"'{before.name}' and its upsamplers come out at {space} and {time}"
        )


def _changed(record: Any) -> dict[str, Any]:
    """Return the fields that are not at their defaults, as plain values."""
    data = {}
    for f in fields(record):
        value = getattr(record, f.name)
        if value != f.default:
            data[f.name] = _plain(value)
    return data


def _plain(value: Any) -> Any:
    if isinstance(value, (Scales, Mapping)):
        return words_of(value)
    if isinstance(value, (frozenset, set)):
        return sorted(value)
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
