"""Read diffusers' configs of quantization as a word of `weights`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from soundstage.compat.diffusers.telling import Notices
from soundstage.errors import RequestError, shown

SAID = ("quant_type", "weights_dtype", "quant_backend", "load_in_8bit", "load_in_4bit")


class QuantizationConfig:
    """A config by its words; those of diffusers and transformers are read too."""

    def __init__(self, quant_type: Any = None, **words: Any) -> None:
        self.__dict__.update(words, quant_type=quant_type)


class BitsAndBytesConfig(QuantizationConfig):
    """load_in_8bit makes whole numbers of 8 bits."""


class TorchAoConfig(QuantizationConfig):
    """quant_type: such as "int8wo" or "float8wo"."""


class QuantoConfig(QuantizationConfig):
    """weights_dtype: "int8" or "float8"."""


class GGUFQuantizationConfig(QuantizationConfig):
    """Weights stay as their GGUF file has them."""


class PipelineQuantizationConfig(QuantizationConfig):
    """quant_mapping: configs by part; or quant_backend and quant_kwargs for all."""


def weights_of(config: Any, notices: Notices) -> str | None:
    """Return the word of `weights` that a quantization config asks for; None where its file says it.

    Raises RequestError for 4 bits and for what is not known.
    """
    parts = getattr(config, "quant_mapping", None)
    if isinstance(parts, Mapping):
        others = sorted(set(parts) - {"transformer"})
        if others:
            notices.tell(
                f"quant_mapping has no effect on {', '.join(others)}: only the transformer is quantized"
            )
        return weights_of(parts["transformer"], notices) if "transformer" in parts else None
    kind = type(config).__name__
    if kind == "GGUFQuantizationConfig":
        return None
    said = {name: getattr(config, name, None) for name in SAID}
    said |= getattr(config, "quant_kwargs", None) or {}
    words = " ".join(f"{name} {value}" for name, value in said.items() if value).lower()
    if any(four in words for four in ("4bit", "int4", "uint4", "fp4", "nf4")):
        weights = None
    elif "8bit" in words or "int8" in words:
        weights = "int8"
    else:
        weights = "fp8-cast" if "float8" in words or "fp8" in words else None
    if weights is None:
        asked = shown(words) if words else f"a {kind}"
        raise RequestError(
            f"quantization_config is {asked}, which Soundstage does not have; "
            "give weights='int8' or 'fp8-cast', or a GGUF file",
            field="quantization_config",
        )
    notices.tell(f"{kind} becomes weights='{weights}': rounded by Soundstage itself")
    return weights
