"""The strength of each kind of guidance for one modality: plain data, without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Annotated, Any

from pydantic import Field

from soundstage.errors import RequestError, listed
from soundstage.fields.record import Share, record

Pull = Annotated[float, Field(ge=0, le=100)]


@record
class Scales:
    """Guidance of one modality. The defaults are neutral: one positive pass and nothing else."""

    cfg: Pull = 1.0
    """Pull away from the negative prompt; 1 is off."""
    stg: Pull = 0.0
    """Pull away from a prediction whose self-attention is replaced by its values in some blocks; 0 is off."""
    stg_blocks: tuple[int, ...] = ()
    """The transformer blocks whose self-attention is replaced, counted from 0."""
    modality: Pull = 1.0
    """Pull away from a prediction in which picture and sound do not hear each other; 1 is off."""
    rescale: Share = 0.0
    """How far the standard deviation of the result returns to that of the positive prediction."""
    skip_step: Annotated[int, Field(ge=0, le=1000)] = 0
    """Compute this modality only on every (k + 1)-th step and repeat its last prediction between; 0 computes
    it on all."""
    identity: Annotated[float, Field(ge=0, le=20)] = 0.0
    """Pull away from a prediction without the reference's tokens; 0 is off, 3 is usual for a voice."""
    cfg_star: bool = False
    """Shrink the negative prediction first, to what the positive one contains of it."""
    apg_eta: Annotated[float, Field(ge=-10, le=10)] = 1.0
    """Share of the cfg pull along the positive prediction that is kept: 1 is all, 0 is none, which keeps
    colours from burning."""
    apg_norm: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    """Limit on the length of the cfg pull; 0 is none."""
    apg_momentum: Annotated[float, Field(ge=-0.99, le=0.99)] = 0.0
    """How much of the last step's cfg pull is carried on; 0 is none, and usual values are below 0."""
    nag: Pull = 0.0
    """Steer away from a negative text inside text attention, at no further forward; 0 is off, 11 is usual."""
    nag_alpha: Share = 0.25
    """Share of nag's result that is used."""
    nag_tau: Annotated[float, Field(ge=0.01, le=100)] = 2.5
    """How much longer than the positive result nag's may get."""

    def skips(self, step: int) -> bool:
        """Return whether step number `step`, from 0, repeats the last prediction."""
        return step % (self.skip_step + 1) != 0


NEUTRAL = Scales()

# Scales per noise level: the entry with the smallest bound at or above sigma applies.
BinnedScales = Mapping[float, Scales]
Guidance = Scales | BinnedScales
# The bound of what holds from the start of any list on.
TOP = 1.0
# Levels reach the guider in float32, which may lie above the bound they were written as.
ROUNDING = 1e-6


def scales_at(scales: Guidance, sigma: float) -> Scales:
    """Return the scales at a noise level; above the largest bound those of the largest bound."""
    return scales if isinstance(scales, Scales) else scales[bound_at(scales, sigma)]


def bound_at(scales: BinnedScales, sigma: float) -> float:
    """Return the bound whose scales apply at a noise level."""
    reaching = [bound for bound in scales if bound >= sigma - ROUNDING]
    return min(reaching) if reaching else max(scales)


def every(scales: Guidance | None) -> tuple[Scales, ...]:
    """Return all scales that a run may use for a modality."""
    if scales is None:
        return ()
    return (scales,) if isinstance(scales, Scales) else tuple(scales.values())


def with_words(base: Guidance, words: Mapping[Any, Any], where: str) -> Guidance:
    """Return `base` changed by words: {"cfg": 2, 0.9875: {"cfg": 1}}.

    A name is a field of Scales, at every level. A number above 0 and up to 1, or its digits, is a noise
    level: what it holds changes from there down, on top of what changed above it. where: for messages.
    Raises RequestError for what is neither, and for a value that does not fit.
    """
    named = {key: value for key, value in words.items() if level_of(key) is None}
    by_level = {level: value for key, value in words.items() if (level := level_of(key)) is not None}
    if isinstance(base, Scales) and not by_level:
        return _replaced(base, named, where)
    made = {}
    for bound in sorted({TOP, *by_level, *(() if isinstance(base, Scales) else base)}, reverse=True):
        if not 0 < bound <= TOP:
            raise RequestError(f"{where} has the noise level {bound:g}; give one above 0 and up to 1")
        changes = by_level.get(bound, {})
        if not isinstance(changes, Mapping):
            raise RequestError(
                f"{where} has {changes!r} from noise level {bound:g} down; give fields, such as cfg: 1"
            )
        named = {**named, **changes}
        made[bound] = _replaced(scales_at(base, bound), named, where)
    return made


def words_of(scales: Guidance) -> dict[str | float, Any]:
    """Return the words from which `with_words` makes these scales, starting from NEUTRAL."""
    if isinstance(scales, Scales):
        return _differences(NEUTRAL, scales)
    words: dict[str | float, Any] = {}
    above = NEUTRAL
    for i, bound in enumerate(sorted(scales, reverse=True)):
        changes = _differences(above, scales[bound])
        words.update({bound: changes} if i else changes)
        above = scales[bound]
    return words


def level_of(key: Any) -> float | None:
    """Return the noise level that a key states; None for a name."""
    try:
        return float(key)
    except (TypeError, ValueError):
        return None


def _replaced(scales: Scales, words: Mapping[Any, Any], where: str) -> Scales:
    known = [f.name for f in fields(Scales)]
    unknown = sorted(str(key) for key in words if key not in known)
    if unknown:
        raise RequestError(
            f"{where} has no {', '.join(map(repr, unknown))}; it has {listed(unknown[0], sorted(known))}, "
            "and noise levels"
        )
    try:
        return replace(scales, **words)
    except RequestError as error:
        raise RequestError(f"{where}: {error}") from None


def _differences(old: Scales, new: Scales) -> dict[str | float, Any]:
    """Return the fields of `new` that differ from `old`, as plain values."""
    before, after = asdict(old), asdict(new)
    return {k: list(v) if isinstance(v, tuple) else v for k, v in after.items() if v != before[k]}


def passes_needed(
    active: Sequence[Scales], *, exchange: bool, unconditional: bool = False
) -> tuple[str, ...]:
    """Return the forward passes of one step in order: "cond", then those that some modality pulls from.

    "uncond" has the negative prompt, "perturbed" skips self-attention, "isolated" has no exchange between
    picture and sound, "identity" lacks the reference's tokens. active: scales of the modalities this step
    computes. exchange: both modalities are there; one alone is isolated already.
    unconditional: "uncond" is made even where nothing pulls from it, for samplers that use it (CFG++).
    """
    passes = ["cond"]
    if unconditional or any(s.cfg != 1 for s in active):
        passes.append("uncond")
    if any(s.stg != 0 for s in active):
        passes.append("perturbed")
    if exchange and any(s.modality != 1 for s in active):
        passes.append("isolated")
    if any(s.identity != 0 for s in active):
        passes.append("identity")
    return tuple(passes)
