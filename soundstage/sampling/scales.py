"""How strongly each kind of guidance pulls on one modality: plain data, without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from soundstage.errors import RequestError, listed

# What a scale may be, both ends included.
RANGES: dict[str, tuple[float, float]] = {
    "cfg": (0, 100),
    "stg": (0, 100),
    "modality": (0, 100),
    "rescale": (0, 1),
    "skip_step": (0, 1000),
    "identity": (0, 20),
    "apg_eta": (-10, 10),
    "apg_norm": (0, 1e6),
    "apg_momentum": (-0.99, 0.99),
    "nag": (0, 100),
    "nag_alpha": (0, 1),
    "nag_tau": (0.01, 100),
}


@dataclass(frozen=True)
class Scales:
    """Guidance of one modality; the defaults are neutral, which is one positive pass and nothing else.

    cfg: pull away from the negative prompt (1 = off). stg: pull away from the pass whose self-attention
    is replaced by its values in `stg_blocks` (0 = off). modality: pull away from the pass in which
    picture and sound do not hear each other (1 = off). rescale: how far, 0 to 1, the result's standard
    deviation returns to that of the positive pass. skip_step: k > 0 computes this modality only on steps
    divisible by k + 1 and repeats its last prediction between them.

    identity: pull away from the pass without the reference's tokens, on the tokens that are made (0 =
    off; 3 is usual for an identity voice). cfg_star: shrink the negative prediction first, to what the
    positive one contains of it. apg_eta, apg_norm, apg_momentum: projected guidance of the cfg pull: its
    share along the positive prediction (1 keeps all, 0 none, which keeps colours from burning), a limit
    on its length (0 = none), and how much of the last step's pull is carried on (0 = none; usual is
    below 0). nag: steer away from a negative text inside text attention, at no further pass (0 = off; 11
    is usual), with nag_alpha the share of it that is used and nag_tau how much longer a result may get.

    Raises RequestError for a value outside RANGES.
    """

    cfg: float = 1.0
    stg: float = 0.0
    stg_blocks: tuple[int, ...] = ()
    modality: float = 1.0
    rescale: float = 0.0
    skip_step: int = 0
    identity: float = 0.0
    cfg_star: bool = False
    apg_eta: float = 1.0
    apg_norm: float = 0.0
    apg_momentum: float = 0.0
    nag: float = 0.0
    nag_alpha: float = 0.25
    nag_tau: float = 2.5

    def __post_init__(self) -> None:
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise RequestError(f"{name} is {value:g}; give a value from {low:g} to {high:g}", field=name)

    def skips(self, step: int) -> bool:
        """Whether step number `step`, from 0, repeats the last prediction."""
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
    """The scales that apply at a noise level; above the largest bound the largest bound's."""
    return scales if isinstance(scales, Scales) else scales[bound_at(scales, sigma)]


def bound_at(scales: BinnedScales, sigma: float) -> float:
    """The bound whose scales apply at a noise level."""
    reaching = [bound for bound in scales if bound >= sigma - ROUNDING]
    return min(reaching) if reaching else max(scales)


def split_scales(sigmas: Sequence[float], step: int, before: Scales, after: Scales) -> BinnedScales:
    """`before` on the first `step` steps of a list, `after` on the rest: split-sigma guidance.

    Raises ValueError where either would have no step.
    """
    if not 1 <= step < len(sigmas) - 1:
        raise ValueError(f"the split is after step {step}; choose between 1 and {len(sigmas) - 2}")
    return {sigmas[0]: before, sigmas[step]: after}


def every(scales: Guidance | None) -> tuple[Scales, ...]:
    """All scales a run may use for a modality."""
    if scales is None:
        return ()
    return (scales,) if isinstance(scales, Scales) else tuple(scales.values())


def with_words(base: Guidance, words: Mapping[Any, Any], where: str) -> Guidance:
    """`base` with what words say in place: {"cfg": 2, 0.9875: {"cfg": 1}}.

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
    """What `with_words` makes these scales of, from NEUTRAL."""
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
    """The noise level that a key is; None for a name."""
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
    for key, value in words.items():
        if not _fits(key, value):
            wanted = "a list of whole numbers" if key == "stg_blocks" else "a number"
            raise RequestError(f"{where}: {key} is {value!r}; give {wanted}")
    blocks = {"stg_blocks": tuple(words["stg_blocks"])} if "stg_blocks" in words else {}
    try:
        return replace(scales, **{**words, **blocks})
    except RequestError as error:
        raise RequestError(f"{where}: {error}") from None


def _fits(key: str, value: Any) -> bool:
    if key == "stg_blocks":
        return isinstance(value, (list, tuple)) and all(isinstance(block, int) for block in value)
    return isinstance(value, (int, float))


def _differences(old: Scales, new: Scales) -> dict[str | float, Any]:
    """Fields of `new` that `old` has otherwise, as plain values."""
    before, after = asdict(old), asdict(new)
    return {k: list(v) if isinstance(v, tuple) else v for k, v in after.items() if v != before[k]}


def passes_needed(
    active: Sequence[Scales], *, exchange: bool, unconditional: bool = False
) -> tuple[str, ...]:
    """Forward passes of one step, in their order: "cond", then those that some modality pulls from.

    "uncond" has the negative prompt, "perturbed" skips self-attention, "isolated" has no exchange between
    picture and sound, "identity" lacks the reference's tokens. active: scales of the modalities this step
    computes. exchange: whether both modalities are there; where one is alone it is isolated already.
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
