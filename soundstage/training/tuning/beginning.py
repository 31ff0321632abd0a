"""Make the factors that the training of a LoRA begins with: fresh ones, or those of a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from soundstage.errors import RequestError
from soundstage.lora.dora import row_norms, wide_weight
from soundstage.lora.files import LoraFile, read_lora
from soundstage.lora.layers import Layer
from soundstage.model.transformer import Transformer
from soundstage.rendering.parts import ModelParts
from soundstage.training.factors import Factors, FactorShape
from soundstage.training.tuning.config import TrainConfig
from soundstage.training.tuning.targets import adapted
from soundstage.weights.quantize import QuantizedLinear


def begun_factors(config: TrainConfig, transformer: Transformer, parts: ModelParts) -> Factors:
    """Return the factors that a training begins with, of the layers that its config names."""
    shapes = adapted(transformer, config)
    factors = Factors(shapes, weight_norms(parts, shapes) if config.lora.form == "dora" else None)
    if config.lora.start is not None:
        factors.take(checked_start(config.lora.start, shapes).layers)
    return factors


def checked_start(path: str, shapes: Mapping[Layer, FactorShape]) -> LoraFile:
    """Read a LoRA to begin with. Raises RequestError where its layers or ranks are not a training's own."""
    lora = read_lora(path)
    missing, more = [x for x in shapes if x not in lora.layers], [x for x in lora.layers if x not in shapes]
    if missing or more:
        what = f"no '{missing[0].key}'" if missing else f"also '{more[0].key}'"
        raise RequestError(
            f"lora.start is {path}, which has {what}; give a LoRA of the same lora.targets", field="lora"
        )
    for layer, shape in shapes.items():
        pair = lora.layers[layer]
        asked = (shape.rank, shape.num_out, shape.num_in)
        if (pair.rank, *pair.shape) != asked or pair.magnitude is not None:
            form = "DoRA" if pair.magnitude is not None else "LoRA"
            raise RequestError(
                f"lora.start is {path}, a {form} whose '{layer.key}' has rank {pair.rank} of {pair.shape}, "
                f"and the training has a LoRA of rank {shape.rank} of {asked[1:]} there; give one of the "
                "same ranks and form",
                field="lora",
            )
    return lora


def weight_norms(parts: ModelParts, layers: Iterable[Layer]) -> dict[Layer, Tensor]:
    """Return the norms of the rows of layers' weights, on the CPU; from files where they are in no memory."""
    found = {}
    for layer in layers:
        module = parts.transformer.get_submodule(layer.key)
        assert isinstance(module, nn.Linear | QuantizedLinear)
        weight = wide_weight(layer, module, parts.stored)
        assert weight is not None
        found[layer] = row_norms(weight).cpu()
    return found
