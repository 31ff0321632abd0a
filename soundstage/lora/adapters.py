"""LoRAs applied to a built model while it runs.

    adapters = Adapters(transformer)
    print(adapters.add("style", read_lora("style.safetensors")))   # the report
    adapters.set({"style": 0.8})                                   # between passes or steps, at no cost
    adapters.weigh("style", video=tokens)                          # strength per video token (1, N, 1)

Each adapted layer gives y + strength * scale * tokens * (x down^T) up^T (of DoRA see dora.py, of other forms
forms.py) by a forward hook on the layer: modules, keys and weights stay as they are, also where blocks are
streamed or weights are 8-bit. A layer without an active adapter has no hook, so strength 0 is the model
without it, bit for bit.

Source: docs/model/checkpoints.md, "LoRA files"; docs/model/memory.md, "LoRA under low precision".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soundstage.errors import RequestError, WeightsError, listed
from soundstage.lora.dora import gain_of, wide_weight
from soundstage.lora.files import LoraFile
from soundstage.lora.forms import LayerChange
from soundstage.lora.layers import Layer, LowRank, group_of, rows_of
from soundstage.lora.report import AdapterReport
from soundstage.types import GROUPS, Group, Modality
from soundstage.weights.layouts import Part, PartTensors
from soundstage.weights.quantize import Product, QuantizedLinear


@dataclass
class _Adapter:
    """One LoRA on a model: its factors by layer, ready to multiply, and its strength.

    gains: those of DoRA, by layer, see dora.py; where they are trained, none: each forward finds them anew.
    """

    pairs: dict[Layer, LayerChange]
    gains: dict[Layer, Tensor] = field(default_factory=dict)
    strength: float = 0.0
    groups: dict[Group, float] = field(default_factory=dict)
    tokens: dict[Modality, Tensor] = field(default_factory=dict)

    def on(self, layer: Layer, device: torch.device) -> LayerChange:
        """Return a layer's factors on a device, moved there once."""
        pair = self.pairs[layer]
        if pair.factors[0].device != device:
            pair = self.pairs[layer] = pair.to(device)
        return pair

    def at(self, layer: Layer, strength: float | None = None) -> float:
        strength = self.strength if strength is None else strength
        return strength * self.groups.get(group_of(layer), 1.0)


class Adapters:
    """The LoRAs of a model, any number of them.

    modules: the transformer, or parts by name, where connectors and text projection are to be adapted too.
    dtype: the factors' dtype; that of the biases, which the activations have, unless given. Factors are moved
    to a layer's device on their first use there. stored: places of the weights on disk, from which the report
    measures those that are in no memory. Quantize before, not after. Not for several threads at once.
    """

    def __init__(
        self,
        modules: nn.Module | Mapping[Part, nn.Module],
        *,
        dtype: torch.dtype | None = None,
        stored: Mapping[Part, PartTensors] | None = None,
    ) -> None:
        self.modules: Mapping[Part, nn.Module] = (
            {"transformer": modules} if isinstance(modules, nn.Module) else modules
        )
        self.dtype, self._stored = dtype, stored or {}
        self._adapters: dict[str, _Adapter] = {}
        self._hooks: dict[Layer, Any] = {}

    @property
    def weights(self) -> dict[str, float]:
        """Return the strength of every adapter, 0 for those that are off."""
        return {name: adapter.strength for name, adapter in self._adapters.items()}

    def add(self, name: str, lora: LoraFile, *, training: bool = False) -> AdapterReport:
        """Add a LoRA at strength 0 and report on it. DoRA's layers have their weights read once.

        training: its `up` may be zero, as a new LoRA's is; a DoRA's row norms are found at each forward, and
        no gradient goes through them.

        Raises WeightsError if it matches no layer, changes nothing, or does not fit a layer, and
        RequestError for a name that is taken.
        """
        if name in self._adapters:
            raise RequestError(f"there is already an adapter '{name}'; choose another name", field="loras")
        targets = self._matched(lora)
        lora.check_values(targets, training)
        pairs = {layer: self._ready(lora.layers[layer], module) for layer, module in targets.items()}
        gains = {} if training else self._gains(pairs, targets, lora.source)
        self._adapters[name] = _Adapter(pairs, gains)
        return AdapterReport.on_model(lora, targets, self._stored)

    def active(self, group: Group) -> dict[str, float]:
        """Return the strengths, in this group's layers, of the adapters that change any of them now."""
        found = {}
        for name, adapter in self._adapters.items():
            strength = next((adapter.at(layer) for layer in adapter.pairs if group_of(layer) == group), 0.0)
            if strength != 0:
                found[name] = strength
        return found

    def set(self, weights: Mapping[str, float]) -> None:
        """Set the strength of every adapter; those not named are off. Takes effect at the next forward.

        Their changes are summed in this order, since a sum's last bits depend on it. Raises
        RequestError for an unknown adapter and for a strength that is not finite.
        """
        for name, strength in weights.items():
            self._check(name, strength)
        named = {name: self._adapters[name] for name in weights}
        self._adapters = {**named, **self._adapters}
        for name, adapter in self._adapters.items():
            adapter.strength = float(weights.get(name, 0.0))
        self._rehook()

    def set_groups(self, name: str, groups: Mapping[Group, float]) -> None:
        """Set the multipliers of an adapter's groups, on top of its strength; 1 for groups not named.

        Raises RequestError for an unknown adapter or group.
        """
        for group, multiplier in groups.items():
            self._check(name, multiplier)
            if group not in GROUPS:
                raise RequestError(
                    f"'{group}' is not a group of layers; give {', '.join(GROUPS)}", field="loras"
                )
        self._known(name).groups = dict(groups)
        self._rehook()

    def weigh(self, name: str, *, video: Tensor | None = None, audio: Tensor | None = None) -> None:
        """Set a strength per token, on top of the adapter's, until the next call for this adapter.

        video, audio: (B or 1, N, 1) for all N tokens of the forward, reference tokens too; None for 1. Layers
        over video tokens take `video`, those over audio tokens `audio`. Layers whose input is shared by all
        tokens (timestep networks, keys and values of the text) take the mean over the tokens. Raises
        RequestError for an unknown adapter, ValueError for another shape.
        """
        tokens: dict[Modality, Tensor] = {}
        named: tuple[tuple[Modality, Tensor | None], ...] = (("video", video), ("audio", audio))
        for modality, given in named:
            if given is None:
                continue
            if given.ndim != 3 or given.shape[2] != 1:
                raise ValueError(
                    f"{modality} weights of adapter '{name}' have the shape {list(given.shape)}; "
                    "(batch or 1, tokens, 1) is needed"
                )
            tokens[modality] = given
        self._known(name).tokens = tokens

    def remove(self, name: str) -> None:
        """Forget an adapter. Raises RequestError for an unknown one."""
        self._known(name)
        del self._adapters[name]
        self._rehook()

    # --- matching

    def _matched(self, lora: LoraFile) -> dict[Layer, nn.Linear | QuantizedLinear]:
        found = {layer: module for layer in lora.layers if (module := self._module(layer)) is not None}
        lora.check_matches(found)
        for layer, module in found.items():
            lora.check_shape(layer, (module.out_features, module.in_features))
        return found

    def _module(self, layer: Layer) -> nn.Linear | QuantizedLinear | None:
        part = self.modules.get(layer.part)
        if part is None:
            return None
        try:
            module = part.get_submodule(layer.key)
        except AttributeError:
            return None
        return module if isinstance(module, nn.Linear | QuantizedLinear) else None

    def _ready(self, pair: LayerChange, module: nn.Linear | QuantizedLinear) -> LayerChange:
        """Return factors in the dtype they multiply in; the same tensors where nothing is to be changed.

        Those in training keep their dtype and are cast at use.
        """
        place = module.weight if module.bias is None else module.bias
        factor = pair.factors[0]
        device = place.device if place.device.type != "meta" else factor.device
        return pair.to(device, factor.dtype if factor.requires_grad else self.dtype or place.dtype)

    def _gains(
        self,
        pairs: Mapping[Layer, LayerChange],
        targets: Mapping[Layer, nn.Linear | QuantizedLinear],
        source: str,
    ) -> dict[Layer, Tensor]:
        """Return the gains of the layers with DoRA. Raises WeightsError for a weight that is nowhere."""
        gains = {}
        for layer, pair in pairs.items():
            if not isinstance(pair, LowRank) or pair.magnitude is None:
                continue
            weight = wide_weight(layer, targets[layer], self._stored)
            if weight is None:
                raise WeightsError(
                    f"{source} is DoRA, and the weight of '{layer.key}' is neither in memory nor on disk; "
                    "add it while the model has its weights"
                )
            gains[layer] = gain_of(weight, pair)
        return gains

    def _gain(self, adapter: _Adapter, layer: Layer, module: Any) -> Tensor:
        """Return a DoRA's gain; in training that of the factors as they are now."""
        if layer in adapter.gains:
            return adapter.gains[layer]
        weight, pair = wide_weight(layer, module, self._stored), adapter.pairs[layer]
        assert weight is not None
        assert isinstance(pair, LowRank)
        return gain_of(weight, pair)

    def _known(self, name: str) -> _Adapter:
        if name not in self._adapters:
            known = listed(name, self._adapters) or "none"
            raise RequestError(f"there is no adapter '{name}' (added: {known}); add it first", field="loras")
        return self._adapters[name]

    def _check(self, name: str, strength: float) -> None:
        self._known(name)
        if not math.isfinite(strength):
            raise RequestError(
                f"the strength of adapter '{name}' is {strength}; give a number", field="loras"
            )

    # --- hooks

    def _rehook(self) -> None:
        """Hook exactly the layers that some adapter changes now."""
        wanted = {
            layer
            for adapter in self._adapters.values()
            if adapter.strength != 0
            for layer in adapter.pairs
            if adapter.at(layer) != 0
        }
        for layer in self._hooks.keys() - wanted:
            self._hooks.pop(layer).remove()
        for layer in wanted - self._hooks.keys():
            module = self._module(layer)
            assert module is not None
            self._hooks[layer] = module.register_forward_hook(self._hook(layer))

    def _hook(self, layer: Layer) -> Any:
        owner = self._owner(layer)

        def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            piece = None if owner is None else getattr(owner.forward, "rows", None)
            product: Product = getattr(module, "product", F.linear)  # the layer's own, where it has another
            own = output
            for name, adapter in self._adapters.items():
                strength = adapter.at(layer) if layer in adapter.pairs else 0.0
                if strength == 0:
                    continue
                pair = adapter.on(layer, inputs[0].device)
                tokens = _tokens(name, adapter, layer, inputs[0], piece)
                change = pair.apply(inputs[0], product, tokens).to(output.dtype)
                if pair.magnitude is None:
                    output = torch.add(output, change, alpha=strength * pair.scale)
                else:
                    gain = self._gain(adapter, layer, module).to(own.device)
                    output = output + strength * _dora(pair, gain, module, own, change, tokens)
            return output

        return add

    def _owner(self, layer: Layer) -> nn.Module | None:
        """Return the feed-forward that a layer is part of. Its forward has `rows` if it works in pieces."""
        owner, is_inside, _ = layer.key.partition(".net.")
        return self.modules[layer.part].get_submodule(owner) if is_inside else None


def _dora(
    pair: LayerChange, gain: Tensor, module: Any, own: Tensor, change: Tensor, tokens: Tensor | None
) -> Tensor:
    """Return what a DoRA adds to a layer's own result (..., out). change: up (down x), with token weights."""
    alone = own if module.bias is None else own - module.bias
    if tokens is not None:
        alone = alone * tokens
    return alone * (gain - 1).to(own.dtype) + change * (gain * pair.scale).to(own.dtype)


def _tokens(name: str, adapter: _Adapter, layer: Layer, x: Tensor, piece: slice | None) -> Tensor | None:
    """Return the token weights for x (B, n, in), in its dtype: (B or 1, n or 1, 1), or None for 1.

    piece: the tokens that x holds, None for all.
    """
    rows = rows_of(layer)
    given = None if rows is None else adapter.tokens.get(rows.modality)
    if rows is None or given is None:
        return None
    if given.device != x.device:
        given = adapter.tokens[rows.modality] = given.to(x.device)
    if not rows.per_token:
        return given.mean(dim=1, keepdim=True).to(x.dtype)
    if piece is not None and given.shape[1] > 1:
        given = given[:, piece]
    if given.shape[1] not in (1, x.shape[1]) or given.shape[0] not in (1, x.shape[0]):
        raise ValueError(
            f"adapter '{name}' has {rows.modality} weights of shape {list(given.shape)}, but '{layer.key}' "
            f"got {list(x.shape[:2])} tokens; weigh it for all tokens of the forward"
        )
    return given.to(x.dtype)
