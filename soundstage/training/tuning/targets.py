"""Choose the layers of a transformer that a LoRA trains, with the sizes of their factors."""

from __future__ import annotations

from torch import nn

from soundstage.lora.layers import Layer
from soundstage.training.factors import FactorShape
from soundstage.training.tuning.config import TrainConfig
from soundstage.training.tuning.groups import check_targets, rank_of, trained_group
from soundstage.weights.quantize import QuantizedLinear
from soundstage.weights.storage import TARGET


def adapted(transformer: nn.Module, config: TrainConfig) -> dict[Layer, FactorShape]:
    """Return the layers that a config trains, with the sizes of their factors, in the order of the model.

    Raises RequestError where there are none.
    """
    check_targets(config)
    found: dict[Layer, FactorShape] = {}
    for name, module in transformer.named_modules():
        if not isinstance(module, nn.Linear | QuantizedLinear) or not TARGET.match(name):
            continue
        group = trained_group(name, config)
        if group is not None:
            own = rank_of(config.lora, group)
            rank = min(own.rank, module.in_features, module.out_features)
            alpha = own.alpha if own.alpha is not None else own.rank
            # A layer that is smaller than the rank keeps the scale of the others.
            found[Layer("transformer", name)] = FactorShape(
                rank, alpha * rank / own.rank, module.in_features, module.out_features
            )
    return found
