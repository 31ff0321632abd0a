"""Make the factors that the training of a LoRA begins with: fresh ones, or those of a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from soundstage.errors import RequestError
from soundstage.lora.dora import row_norms, wide_weight
from soundstage.lora.files import read_lora
from soundstage.lora.layers import Layer, LowRank
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
        factors.take(checked_start(config.lora.start, shapes))
    return factors


def checked_start(path: str, shapes: Mapping[Layer, FactorShape]) -> dict[Layer, LowRank]:
    """Read a LoRA to begin with. Raises RequestError where its layers or ranks are not a training's own."""
    layers = read_lora(path).layers
    missing, more = [x for x in shapes if x not in layers], [x for x in layers if x not in shapes]
    if missing or more:
        what = f"no '{missing[0].key}'" if missing else f"also '{more[0].key}'"
        raise RequestError(
            f"lora.start is {path}, which has {what}; give a LoRA of the same lora.targets", field="lora"
        )
    found = {}
    for layer, shape in shapes.items():
        change = layers[layer]
        if not isinstance(change, LowRank) or change.magnitude is not None:
            raise RequestError(
                f"lora.start is {path}, whose '{layer.key}' has no plain factors; give a LoRA, which "
                "`soundstage lora resize` makes of other forms",
                field="lora",
            )
        asked = (shape.num_out, shape.num_in)
        if (change.rank, change.shape) != (shape.rank, asked):
            raise RequestError(
                f"lora.start is {path}, whose '{layer.key}' has rank {change.rank} of {change.shape}, and "
                f"the training has rank {shape.rank} of {asked} there; give one of the same ranks",
                field="lora",
            )
        found[layer] = change
    return found


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
