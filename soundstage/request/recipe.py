"""What a recipe is: a list of passes, each of them one run of the denoising loop. Data only.

What a pass leaves at None comes from the model's `Defaults`. The shipped recipes are in `recipes`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from fractions import Fraction
from pathlib import Path
from typing import Any

from soundstage.errors import ConfigError, RequestError, listed
from soundstage.sampling import schedules
from soundstage.sampling.scales import NEUTRAL, Guidance, Scales, with_words, words_of

START = ("noise", "previous", "source")
UPSAMPLERS = ("space-x2", "space-x1.5", "time-x2")
SCALES = {"1/4": Fraction(1, 4), "1/2": Fraction(1, 2), "2/3": Fraction(2, 3), "1": Fraction(1)}
IDENTITY = ("input", "soundtrack", "previous", "none")
DISTILLED_LORA = "distilled"


@dataclass(frozen=True)
class Pass:
    """One run of the denoising loop.

    scale: of the result's height and width, and time_scale of its frame rate: "1/4", "1/2", "2/3" or "1".
    start: "noise", "previous" (the latents of the pass before) or "source" (the request's source).
    upsample: latent upsamplers the start goes through, in order. sigmas: a fixed list; a list that does not
    begin at 1 keeps that much of the start. schedule, steps, video, audio: None takes the model's default.
    video, audio: guidance, one set of scales or one for each stretch of noise levels.
    all_tokens: the schedule is shifted for this pass's own token count instead of 4096. sampler: a name of
    sampling.samplers. loras: (role or path, strength) pairs; the role "distilled" is the model's own
    distilled LoRA, left out where the model is distilled already. freeze: modalities taken over from the
    pass before as they are. references: whether reference clips are seen. identity: the voice that is heard,
    "input" (at most the first ten seconds of the request's sound), "soundtrack" (all of it, as a dub hears
    its speaker), "previous" (the sound of the pass before) or "none". guides: "as asked", or "guide" for
    tokens beside the clip whatever the request says.
    """

    name: str
    scale: str = "1"
    time_scale: str = "1"
    start: str = "noise"
    upsample: tuple[str, ...] = ()
    schedule: str | None = None
    steps: int | None = None
    sigmas: tuple[float, ...] | None = None
    all_tokens: bool = False
    sampler: str = "euler"
    video: Guidance | None = field(default=None, hash=False)
    audio: Guidance | None = field(default=None, hash=False)
    loras: tuple[tuple[str, float], ...] = ()
    freeze: frozenset[str] = frozenset()
    references: bool = True
    identity: str = "input"
    guides: str = "as asked"

    @property
    def space(self) -> Fraction:
        return SCALES[self.scale]

    @property
    def time(self) -> Fraction:
        return SCALES[self.time_scale]


@dataclass(frozen=True)
class Recipe:
    """A list of passes. summary: what it is, best_for: when to choose it.

    audio_from: name of the pass whose sound is kept; None is the last. resolution: the size's name where
    the request gives none; None is the model's own size. fps and thin: likewise.
    """

    name: str
    summary: str
    passes: tuple[Pass, ...]
    best_for: str = ""
    audio_from: str | None = None
    resolution: str | None = None
    fps: float | None = None

    @classmethod
    def from_dict(cls, data: Any, where: str) -> Recipe:
        """Read a recipe that a user wrote. where: the file, for messages.

        Raises ConfigError naming what does not fit.
        """
        if not isinstance(data, Mapping):
            raise ConfigError(f"{where} holds no recipe; begin with 'name:', 'summary:' and 'passes:'")
        try:
            values = _known(data, cls, where)
            passes = tuple(_pass(item, f"{where}, pass {i + 1}") for i, item in enumerate(values["passes"]))
            values.setdefault("name", Path(where).stem)
            values.setdefault("summary", "a recipe of your own")
            recipe = cls(**{**values, "passes": passes})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"{where} holds a recipe that does not fit: {error}") from error
        problems = recipe.problems()
        if problems:
            raise ConfigError(f"{where}: {'; '.join(problems)}")
        return recipe

    def to_dict(self) -> dict[str, Any]:
        """The object `from_dict` reads, without fields at their defaults."""
        data = _changed(self)
        data["passes"] = [_changed(pass_) for pass_ in self.passes]
        return data

    def problems(self) -> list[str]:
        """What keeps this list of passes from running; empty for a sound one."""
        found: list[str] = []
        names = [pass_.name for pass_ in self.passes]
        if not names:
            found.append("passes is empty; give at least one")
        if len(set(names)) != len(names):
            found.append(f"pass names must differ, not {', '.join(names)}")
        if self.audio_from is not None and self.audio_from not in names:
            found.append(
                f"audio_from is '{self.audio_from}'; the passes are {listed(self.audio_from, names)}"
            )
        for i, pass_ in enumerate(self.passes):
            found += [f"pass '{pass_.name}': {problem}" for problem in _pass_problems(pass_)]
            if not found:
                found += _order_problems(self.passes[i - 1] if i else None, pass_)
        if not found and (self.passes[-1].space != 1 or self.passes[-1].time != 1) and len(names) > 1:
            found.append(f"the last pass, '{names[-1]}', must run at scale 1")
        return found


def _pass_problems(pass_: Pass) -> list[str]:
    choices = [
        ("scale", pass_.scale, tuple(SCALES)),
        ("time_scale", pass_.time_scale, ("1/2", "1")),
        ("start", pass_.start, START),
        ("identity", pass_.identity, IDENTITY),
        ("guides", pass_.guides, ("as asked", "guide")),
    ]
    choices += [("upsample", name, UPSAMPLERS) for name in pass_.upsample]
    choices += [("freeze", name, ("video", "audio")) for name in pass_.freeze]
    found = [
        f"{key} is '{value}'; give one of {listed(str(value), ok)}"
        for key, value, ok in choices
        if value not in ok
    ]
    if pass_.sigmas is not None and (pass_.steps is not None or pass_.schedule is not None):
        found.append("both sigmas and steps or schedule are given; keep one")
    if pass_.sigmas is not None:
        try:
            schedules.check(pass_.sigmas)
        except RequestError as error:
            found.append(str(error))
    if pass_.upsample and pass_.start == "noise":
        found.append("there is nothing to upsample where a pass starts from noise")
    return found


def _order_problems(before: Pass | None, pass_: Pass) -> list[str]:
    """Whether a pass can take over what the one before it leaves."""
    where = f"pass '{pass_.name}'"
    if before is None:
        if pass_.start == "previous" or pass_.freeze or pass_.identity == "previous":
            return [f"{where} takes over from a pass before it, but it is the first"]
        return []
    if pass_.start != "previous":
        return []
    space, time = before.space, before.time
    for name in pass_.upsample:
        space *= {"space-x2": Fraction(2), "space-x1.5": Fraction(3, 2)}.get(name, Fraction(1))
        time *= 2 if name == "time-x2" else 1
    if (space, time) != (pass_.space, pass_.time):
        return [
            f"{where} runs at scale {pass_.scale} and time_scale {pass_.time_scale}, but pass "
            f"'{before.name}' and its upsamplers come out at {space} and {time}"
        ]
    return []


def _known(data: Mapping[str, Any], cls: type, where: str) -> dict[str, Any]:
    known = [f.name for f in fields(cls)]
    for key in data:
        if key not in known:
            raise ConfigError(f"{where} has an unknown key '{key}'; the keys are {listed(str(key), known)}")
    return dict(data)


def _pass(data: Any, where: str) -> Pass:
    values = _known(data, Pass, where)
    for key in ("video", "audio"):
        if values.get(key) is not None:
            values[key] = with_words(NEUTRAL, values[key], f"{where}: {key}")
    for key in ("scale", "time_scale"):
        if key in values:
            values[key] = str(values[key])
    if isinstance(values.get("upsample"), str):
        values["upsample"] = (values["upsample"],)
    loras = values.get("loras") or ()
    pairs = loras.items() if isinstance(loras, Mapping) else loras
    values["loras"] = tuple((str(name), float(strength)) for name, strength in pairs)
    if values.get("sigmas") is not None:
        values["sigmas"] = tuple(float(sigma) for sigma in values["sigmas"])
    values["upsample"] = tuple(values.get("upsample") or ())
    values["freeze"] = frozenset(values.get("freeze") or ())
    return Pass(**values)


def _changed(record: Any) -> dict[str, Any]:
    """Fields that are not at their defaults, as plain values."""
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
