"""How strongly each kind of guidance pulls on one modality: plain data, without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Scales:
    """Guidance of one modality; the defaults are neutral, which is one positive pass and nothing else.

    cfg: pull away from the negative prompt (1 = off). stg: pull away from the pass whose self-attention
    is replaced by its values in `stg_blocks` (0 = off). modality: pull away from the pass in which
    picture and sound do not hear each other (1 = off). rescale: how far, 0 to 1, the result's standard
    deviation returns to that of the positive pass. skip_step: k > 0 computes this modality only on steps
    divisible by k + 1 and repeats its last prediction between them.
    """

    cfg: float = 1.0
    stg: float = 0.0
    stg_blocks: tuple[int, ...] = ()
    modality: float = 1.0
    rescale: float = 0.0
    skip_step: int = 0

    def skips(self, step: int) -> bool:
        """Whether step number `step`, from 0, repeats the last prediction."""
        return step % (self.skip_step + 1) != 0


NEUTRAL = Scales()

# Scales per noise level: the entry with the smallest bound at or above sigma applies.
BinnedScales = Mapping[float, Scales]


def scales_at(scales: Scales | BinnedScales, sigma: float) -> Scales:
    """The scales that apply at a noise level; above the largest bound the largest bound's."""
    if isinstance(scales, Scales):
        return scales
    reaching = [bound for bound in scales if bound >= sigma]
    return scales[min(reaching) if reaching else max(scales)]


def passes_needed(active: Sequence[Scales], *, exchange: bool) -> tuple[str, ...]:
    """Forward passes of one step, in their order: "cond", then those that some modality pulls from.

    "uncond" has the negative prompt, "perturbed" skips self-attention, "isolated" has no exchange between
    picture and sound. active: scales of the modalities this step computes. exchange: whether both
    modalities are there; where one is alone it is isolated already.
    """
    passes = ["cond"]
    if any(s.cfg != 1 for s in active):
        passes.append("uncond")
    if any(s.stg != 0 for s in active):
        passes.append("perturbed")
    if exchange and any(s.modality != 1 for s in active):
        passes.append("isolated")
    return tuple(passes)
