"""Sidecars of a quantized weight in its file: its scales and markers, by every name they go by.

file                      weight             next to it
official fp8              F8_E4M3            weight_scale, input_scale: one F32 number each
Comfy fp8, int8           F8_E4M3, I8        the same, or a scale per row; comfy_quant: U8, a JSON text
older Comfy fp8           F8_E4M3            scale_weight, scale_input; scaled_fp8 once in the file
plain cast                F8_E4M3            nothing

Source: docs/model/checkpoints.md, "8-bit weights".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from soundstage.errors import WeightsError
from soundstage.weights.entry import TensorEntry, WeightsFile

# By the name in a file, the name here.
SIDECAR_NAMES = {
    "weight_scale": "weight_scale",
    "scale_weight": "weight_scale",
    "weight_scale_2": "weight_scale_2",
    "input_scale": "input_scale",
    "scale_input": "input_scale",
    "pre_quant_scale": "pre_quant_scale",
    "comfy_quant": "comfy_quant",
}
OF_THE_FILE = "scaled_fp8"
DECLARATION = "_quantization_metadata"  # in the header; which layers are quantized, and how
DECLARED_FORMATS = frozenset({"float8_e4m3fn", "float8_e5m2", "int8_tensorwise"})

Sidecars = Mapping[str, tuple[str, TensorEntry]]  # name here -> name in the file, entry


def is_sidecar(name: str) -> bool:
    last = name.rpartition(".")[2]
    return last in SIDECAR_NAMES or last == OF_THE_FILE


def sidecars(file: WeightsFile) -> dict[str, dict[str, tuple[str, TensorEntry]]]:
    """Return a file's sidecars by the name of their weight. Raises WeightsError for one without a weight."""
    found: dict[str, dict[str, tuple[str, TensorEntry]]] = {}
    for name, entry in file.tensors.items():
        module, _, last = name.rpartition(".")
        if last not in SIDECAR_NAMES:
            continue
        if f"{module}.weight" not in file.tensors:
            raise WeightsError(f"{file.path} has the scale '{name}' but not its weight; get a complete file")
        found.setdefault(f"{module}.weight", {})[SIDECAR_NAMES[last]] = (name, entry)
    return found


def check_declared(file: WeightsFile) -> None:
    """Raise WeightsError for a layer that a file declares in a format not read here, or stores otherwise."""
    for layer, declared in _declarations(file).items():
        kind = declared.get("format", "int8_tensorwise")
        if declared.get("convrot"):
            kind = f"{kind} with rotation (convrot)"
        if kind not in DECLARED_FORMATS:
            raise WeightsError(
                f"{file.path}: '{layer}' is quantized to {kind}, which this engine does not read; "
                "get the BF16 or FP8 file"
            )
        weight = _weight(file, layer)
        if weight is not None and weight.dtype in ("BF16", "F16", "F32"):
            raise WeightsError(
                f"{file.path} declares '{layer}' as {kind} but stores {weight.dtype}; get the file again"
            )


def _declarations(file: WeightsFile) -> dict[str, dict[str, Any]]:
    """By layer, from the header and, of int8 layers, from the markers: fp8 ones say nothing more."""
    found: dict[str, dict[str, Any]] = {}
    text = file.metadata.get(DECLARATION)
    if text is not None:
        found.update(_json(file, DECLARATION, text).get("layers", {}))
    for name, entry in file.tensors.items():
        layer, _, last = name.rpartition(".")
        weight = file.tensors.get(f"{layer}.weight")
        if last == "comfy_quant" and entry.num_params and weight is not None and weight.dtype == "I8":
            found[layer] = _json(file, name, file.read(name))
    return found


def _weight(file: WeightsFile, layer: str) -> TensorEntry | None:
    """Return the weight of a declared layer, whose name may lack the file's prefix; None without one."""
    names = (f"{prefix}{layer}.weight" for prefix in ("", "model.diffusion_model.", "diffusion_model."))
    return next((file.tensors[name] for name in names if name in file.tensors), None)


def _json(file: WeightsFile, name: str, text: str | bytes) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WeightsError(
            f"{file.path}: '{name}' is not JSON ({error}); get the BF16 or FP8 file"
        ) from error
    if not isinstance(value, dict):
        raise WeightsError(f"{file.path}: '{name}' is no JSON object; get the BF16 or FP8 file")
    return value
