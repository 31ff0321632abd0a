"""What the header of a LoRA file says, read without loading torch or any tensor.

Source: docs/model/checkpoints.md, "LoRA metadata".
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from soundstage.errors import WeightsError
from soundstage.weights.entry import WeightsFile

DOWNSCALE_NAMES = ("reference_downscale_factor", "reference_spatial_scale_factor")
TEMPORAL_NAME = "reference_temporal_scale_factor"
HALF_SIZE = "ref0.5"


@dataclass(frozen=True)
class LoraFacts:
    """Of the references a LoRA was trained with; as here where its header says nothing.

    downscale: how many times smaller than the output a reference video is. temporal: of how many reference
    frames one is kept. in_context: whether it was trained with references at all. hdr: the transform of an
    HDR LoRA, "logc3", or None.
    """

    downscale: int = 1
    temporal: int = 1
    in_context: bool = False
    hdr: str | None = None


def lora_facts(file: WeightsFile) -> LoraFacts:
    """Raises WeightsError for a factor that is not a whole number from 1 up."""
    downscale = _downscale(file)
    return LoraFacts(
        downscale=1 if downscale is None else downscale,
        temporal=_factor(file, TEMPORAL_NAME) if TEMPORAL_NAME in file.metadata else 1,
        in_context=downscale is not None or TEMPORAL_NAME in file.metadata,
        hdr=_hdr(file),
    )


def metadata_of(facts: LoraFacts) -> dict[str, str]:
    """What `lora_facts` reads, as trainers write it: factors only where they are not 1."""
    metadata = {}
    if facts.in_context or facts.downscale != 1:
        metadata[DOWNSCALE_NAMES[0]] = str(facts.downscale)
    if facts.temporal != 1:
        metadata[TEMPORAL_NAME] = str(facts.temporal)
    if facts.hdr:
        metadata["hdr_transform"] = facts.hdr
    return metadata


def _downscale(file: WeightsFile) -> int | None:
    """ "ref0.5" in place of the number, or in the name of a file without it, means half the size."""
    for name in DOWNSCALE_NAMES:
        if name in file.metadata:
            return 2 if file.metadata[name] == HALF_SIZE else _factor(file, name)
    return 2 if HALF_SIZE in file.path.name else None


def _factor(file: WeightsFile, name: str) -> int:
    stored = file.metadata[name]
    try:
        factor = float(stored)
    except ValueError:
        factor = math.nan
    if not (factor >= 1 and factor.is_integer()):
        raise WeightsError(f"{file.path}: {name} is '{stored}'; it must be a whole number from 1 up")
    return int(factor)


def _hdr(file: WeightsFile) -> str | None:
    stored = file.metadata.get("hdr_transform", file.metadata.get("use_hdr_transform", "")).lower()
    if stored in ("", "false", "none", "0"):
        return None
    return "logc3" if stored in ("true", "1") else stored
