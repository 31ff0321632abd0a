"""Compare a LoRA with a model by the headers of both, before any weight is read. Loads no torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from soundstage.errors import WeightsError
from soundstage.lora.layers import Layer, group_of
from soundstage.lora.metadata import LoraNames, read_names
from soundstage.lora.module_names import bare_names, spelled
from soundstage.types import Modality
from soundstage.weights.entry import WeightsFile
from soundstage.weights.layouts import Part, PartTensors, listing

ADAPTED: tuple[Part, ...] = ("transformer", "video_connector", "audio_connector", "text_projection")
# Stored weights whose shape is that of the matrix; packed ones have another.
PLAIN = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "I8")
MODEL_DIGEST = "model_digest"  # in the summary of a training here: what the model's weights were known by


@dataclass(frozen=True)
class LoraFit:
    """Layers of a LoRA that a model has, and names of those that it does not have."""

    layers: tuple[Layer, ...]
    absent: tuple[str, ...]

    def notice(self, source: str, model: str) -> str | None:
        """Return what a user should know of layers that the model lacks; None where it has all."""
        if not self.absent:
            return None
        total = len(self.layers) + len(self.absent)
        return (
            f"{len(self.absent)} of the {total} layers that {source} changes are not in the model '{model}' "
            f"({listing(self.absent)}), so it may do less than it was trained for"
        )

    def unused(self, source: str, made: Collection[Modality]) -> str | None:
        """Return that no layer takes part in what a clip is made of; None where one does."""
        groups = {group_of(layer) for layer in self.layers}
        if made == {"video"} and groups <= {"audio", "a2v", "v2a"}:
            return f"{source} changes the sound alone and the clip is silent, so it changes nothing"
        if made == {"audio"} and groups <= {"video", "a2v", "v2a"}:
            return f"{source} changes the picture alone and only sound is made, so it changes nothing"
        return None


def fit_of(file: WeightsFile, parts: Mapping[Part, PartTensors]) -> LoraFit:
    """Return how a LoRA's file fits a model's parts.

    Raises WeightsError for one that matches no layer, changes one twice, or is for weights of another shape.
    """
    there = _layers(parts)
    found: dict[Layer, str] = {}
    absent: list[str] = []
    names = read_names(file)
    for module in names.pairs:
        layer = next((there[bare] for bare in bare_names(module) if bare in there), None)
        if layer is None:
            absent.append(module)
            continue
        if layer in found:
            raise WeightsError(changed_twice(str(file.path), layer, found[layer], module))
        found[layer] = module
        _check_shape(file, names, module, layer, parts)
    if not found:
        raise WeightsError(no_layer(str(file.path), absent))
    return LoraFit(tuple(found), tuple(sorted(absent)))


def no_layer(source: str, names: list[str]) -> str:
    """Return that a LoRA changes nothing of a model."""
    return f"{source} matches no layer of this model (it is for {listing(names)}); pass a LoRA of LTX-2.3"


def changed_twice(source: str, layer: Layer, first: str, second: str) -> str:
    """Return that two names in a LoRA mean the same layer."""
    return f"{source} changes {layer.key} twice, as '{first}' and as '{second}'; get a file with one spelling"


def other_shape(source: str, layer: Layer, shape: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    """Return that a LoRA is for a weight of another shape than the model's."""
    return (
        f"{source}: '{layer.key}' is for a weight of shape {list(shape)} where the model has {list(wanted)}; "
        "it was made for another model"
    )


def trained_on_another(file: WeightsFile, model: str, digest: Callable[[], str]) -> str | None:
    """Return that a LoRA was trained here on other weights of the same name; None where it was not.

    digest: returns what the model's weights are known by. That a LoRA was trained on a model of another name
    is usual: those of dev are used on the distilled model.
    """
    try:
        told = json.loads(file.metadata.get("training_summary", "{}"))
        name, was = told.get("model"), told.get(MODEL_DIGEST)
    except (ValueError, AttributeError, RecursionError):
        return None  # another program's
    if name != model or was is None or was == digest():
        return None
    return (
        f"{file.path} was trained on other weights of '{model}' than those that are here, so it may do other "
        "than it did; train it again on these"
    )


def _layers(parts: Mapping[Part, PartTensors]) -> dict[str, Layer]:
    """Return the linear layers of a model by their names in the dialects of LoRA files."""
    names: dict[str, Layer] = {}
    for part in ADAPTED:
        for key, stored in parts.get(part, {}).items():
            if key.endswith(".weight") and len(stored.entry.shape) == 2:
                layer = Layer(part, key.removesuffix(".weight"))
                names |= dict.fromkeys(spelled(*layer), layer)
    return names


def _check_shape(
    file: WeightsFile, names: LoraNames, module: str, layer: Layer, parts: Mapping[Part, PartTensors]
) -> None:
    entry = parts[layer.part][f"{layer.key}.weight"].entry
    shape = names.shape(file, module)
    if entry.dtype in PLAIN and shape != entry.shape:
        raise WeightsError(other_shape(str(file.path), layer, shape, entry.shape))
