"""LoRAs applied to a built model from outside: at run time, or merged for good.

    adapters = Adapters(transformer)
    print(adapters.add("style", read_lora("style.safetensors")))   # the report
    adapters.set({"style": 0.8})                                   # between passes or steps, at no cost
    adapters.weigh("style", video=tokens)                          # strength per video token (1, N, 1)

At run time each adapted layer gives y + strength * scale * tokens * (x down^T) up^T, by a forward hook on
the layer: modules, keys and weights stay as they are, also where blocks are streamed or weights are 8-bit.
A layer without an active adapter has no hook, so strength 0 is the model without it, bit for bit.

Adapters belong to groups, which have multipliers of their own: `video` and `audio` are the streams, `a2v`
and `v2a` the attention between them (into video, into audio), `text` the connectors and projections.

Source: docs/model/checkpoints.md, "LoRA files"; docs/model/memory.md, "LoRA under low precision".
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soundstage.errors import RequestError, WeightsError, listed
from soundstage.lora.files import Layer, LoraFile, LowRank
from soundstage.lora.metadata import LoraFacts
from soundstage.types import GROUPS, Group
from soundstage.weights.layouts import Part, PartTensors, listing
from soundstage.weights.quantize import Product, Quantized, QuantizedLinear, quantize_weight, rounded
from soundstage.weights.read import Tensors

Stream = Literal["video", "audio"]
Number = TypeVar("Number", int, float)

# Weights of so many layers of each group, evenly spaced, are measured for the report: all of them are 38 GB.
LAYERS_MEASURED = 12


class Rows(NamedTuple):
    """What the rows of a layer's input are: the stream's tokens (per_token), or its text or noise levels."""

    stream: Stream
    per_token: bool


def group_of(layer: Layer) -> Group:
    """The group whose multiplier counts for a layer."""
    if layer.part != "transformer":
        return "text"
    if "audio_to_video_attn" in layer.key or "a2v_gate" in layer.key:
        return "a2v"
    if "video_to_audio_attn" in layer.key or "v2a_gate" in layer.key:
        return "v2a"
    return "audio" if "audio" in layer.key else "video"


def rows_of(layer: Layer) -> Rows | None:
    """What a layer's rows are; None outside the transformer, where there are no tokens of a clip yet."""
    if layer.part != "transformer":
        return None
    names = layer.key.split(".")
    if names[0] != "transformer_blocks":
        stream: Stream = "audio" if "audio" in names[0] or "v2a" in names[0] else "video"
        return Rows(stream, per_token="adaln" not in names[0])
    module, from_other = names[2], names[3] in ("to_k", "to_v")
    if module == "audio_to_video_attn":
        return Rows("audio" if from_other else "video", per_token=True)
    if module == "video_to_audio_attn":
        return Rows("video" if from_other else "audio", per_token=True)
    is_text = from_other and module.endswith("attn2")
    return Rows("audio" if module.startswith("audio_") else "video", per_token=not is_text)


# --- the report -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AdapterReport:
    """What an adapter will do to a model.

    matched: layers it changes. unmatched: names of layers the model does not have. ranks: smallest and
    largest. change: for each group, the norm of the change at strength 1 over the norm of the weights, on
    at most LAYERS_MEASURED layers; None where the weights are neither in memory nor on disk. Factors as in
    `LoraFile`. scales: smallest and largest factor that a layer's change has in the file, alpha over rank;
    where they are not 1 the LoRA is stronger or weaker than its factors alone would be.
    """

    source: str
    matched: int
    unmatched: tuple[str, ...]
    ranks: tuple[int, int]
    base_version: str | None
    change: Mapping[Group, float | None]
    facts: LoraFacts = field(default_factory=LoraFacts)
    companions: tuple[str, ...] = ()
    scales: tuple[float, float] = (1.0, 1.0)

    @classmethod
    def of(cls, lora: LoraFile) -> AdapterReport:
        """What a LoRA says without a model: all its layers that LTX-2.3 has count as matched.

        Raises WeightsError if it has none.
        """
        _check_any(lora, lora.layers)
        return cls(
            source=lora.source,
            matched=len(lora.layers),
            unmatched=tuple(sorted(lora.unknown)),
            ranks=lora.ranks,
            base_version=lora.base_version,
            change={},
            facts=lora.facts,
            companions=tuple(sorted(lora.companions)),
            scales=_range(pair.scale for pair in lora.layers.values()),
        )

    def to_dict(self) -> dict[str, Any]:
        """All of it, JSON-ready."""
        return asdict(self)

    def facts_dict(self) -> dict[str, Any]:
        """What a clip remembers of it, JSON-ready: layers, ranks, scales, change by group."""
        change = {group: None if x is None else round(x, 6) for group, x in self.change.items()}
        rank, scale = (low if low == high else [low, high] for low, high in (self.ranks, self.scales))
        return {"layers": self.matched, "rank": rank, "scale": scale, "change": change}

    @property
    def line(self) -> str:
        """What is most worth knowing, in one line."""
        unmet = f", {len(self.unmatched)} not in this model" if self.unmatched else ""
        return f"{self._head}, changes {self._changed}{unmet}"

    @property
    def _head(self) -> str:
        low, high = self.ranks
        rank = f"rank {low if low == high else f'{low} to {high}'}"
        base = f"base model {self.base_version or 'not stated'}"
        return f"{self.source}: {self.matched} layers, {rank}{self._scaled}, {base}"

    @property
    def _scaled(self) -> str:
        """The effective scale, wherever it is not 1."""
        low, high = self.scales
        if (low, high) == (1.0, 1.0):
            return ""
        return f", scale {f'{low:.4g}' if low == high else f'{low:.4g} to {high:.4g}'} (alpha / rank)"

    @property
    def _changed(self) -> str:
        return ", ".join(f"{group} {'?' if x is None else f'{x:.2%}'}" for group, x in self.change.items())

    def __str__(self) -> str:
        lines = [self._head]
        if self.change:
            lines.append(f"changes the weights by: {self._changed}")
        if self.facts.in_context:
            lines.append(
                f"needs a reference video: {self.facts.downscale} times smaller, "
                f"one frame of {self.facts.temporal}"
            )
        if self.facts.hdr:
            lines.append(f"HDR: {self.facts.hdr}")
        if self.companions:
            lines.append(f"tensors beside the pairs, not applied: {listing(self.companions)}")
        if self.unmatched:
            lines.append(f"{len(self.unmatched)} not in this model: {listing(self.unmatched)}")
        return "\n".join(lines)


# --- at run time ------------------------------------------------------------------------------------


@dataclass
class _Adapter:
    """One LoRA on a model: its factors by layer, ready to multiply, and how strongly it is applied."""

    pairs: dict[Layer, LowRank]
    strength: float = 0.0
    groups: dict[Group, float] = field(default_factory=dict)
    tokens: dict[Stream, Tensor] = field(default_factory=dict)

    def at(self, layer: Layer, strength: float | None = None) -> float:
        strength = self.strength if strength is None else strength
        return strength * self.groups.get(group_of(layer), 1.0)


class Adapters:
    """The LoRAs of a model, any number of them.

    modules: the transformer, or parts by name, where connectors and text projection are to be adapted too.
    dtype: of the factors; the activations' (that of the biases) unless given. Factors are moved to where
    a layer computes on their first use there. stored: where the weights are on disk, from which the report
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
        """Strength of every adapter at run time, 0 for those that are off."""
        return {name: adapter.strength for name, adapter in self._adapters.items()}

    def add(self, name: str, lora: LoraFile, *, training: bool = False) -> AdapterReport:
        """Make an adapter known, at strength 0. training: its `up` may still be zero, as a new LoRA's is.

        Raises WeightsError if it matches no layer, changes nothing, or does not fit a layer, and
        RequestError for a name that is taken.
        """
        if name in self._adapters:
            raise RequestError(f"there is already an adapter '{name}'; choose another name", field="loras")
        targets = self._matched(lora)
        _check_values(lora, targets, training)
        pairs = {layer: self._ready(lora.layers[layer], module) for layer, module in targets.items()}
        self._adapters[name] = _Adapter(pairs)
        unmatched = (*lora.unknown, *(f"{part}: {key}" for part, key in lora.layers.keys() - targets.keys()))
        return replace(
            AdapterReport.of(lora),
            matched=len(targets),
            unmatched=tuple(sorted(unmatched)),
            ranks=_range(pair.rank for pair in pairs.values()),
            scales=_range(pair.scale for pair in pairs.values()),
            change=_changes(lora, targets, self._stored),
        )

    def active(self, group: Group) -> dict[str, float]:
        """What the adapters that change a layer of this group now are multiplied by there."""
        found = {}
        for name, adapter in self._adapters.items():
            strength = next((adapter.at(layer) for layer in adapter.pairs if group_of(layer) == group), 0.0)
            if strength != 0:
                found[name] = strength
        return found

    def set(self, weights: Mapping[str, float]) -> None:
        """Strength of every adapter; those not named are off. Takes effect at the next forward.

        They are added in this order, whichever was made known first: a sum's last bits depend on it. Raises
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
        """Multipliers of an adapter's groups, on top of its strength; 1 for groups not named.

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
        """Strength per token, on top of the adapter's: (B or 1, N, 1) for a stream's N tokens, None for 1.

        Layers over video tokens take `video`, those over audio tokens `audio`; the tokens are all those of
        the forward, reference tokens too. What all tokens share (timestep networks, keys and values of the
        text) is applied at the mean over the tokens. Until the next call for this adapter. Raises
        RequestError for an unknown adapter, ValueError for another shape.
        """
        tokens: dict[Stream, Tensor] = {}
        for stream, given in (("video", video), ("audio", audio)):
            if given is None:
                continue
            if given.ndim != 3 or given.shape[2] != 1:
                raise ValueError(
                    f"{stream} weights of adapter '{name}' have the shape {list(given.shape)}; "
                    "(batch or 1, tokens, 1) is needed"
                )
            tokens["video" if stream == "video" else "audio"] = given
        self._known(name).tokens = tokens

    def remove(self, name: str) -> None:
        """Forget an adapter. Raises RequestError for an unknown one."""
        self._known(name)
        del self._adapters[name]
        self._rehook()

    # --- matching

    def _matched(self, lora: LoraFile) -> dict[Layer, nn.Linear | QuantizedLinear]:
        found = {layer: module for layer in lora.layers if (module := self._module(layer)) is not None}
        _check_any(lora, found)
        for layer, module in found.items():
            _check_shape(lora, layer, (module.out_features, module.in_features))
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

    def _ready(self, pair: LowRank, module: nn.Linear | QuantizedLinear) -> LowRank:
        """Factors in the dtype they multiply in; the same tensors where nothing is to be changed."""
        place = module.weight if module.bias is None else module.bias
        device = place.device if place.device.type != "meta" else pair.down.device
        dtype = self.dtype or place.dtype
        return LowRank(pair.down.to(device, dtype), pair.up.to(device, dtype), pair.scale)

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
        """Watch exactly the layers that some adapter changes now."""
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
            for name, adapter in self._adapters.items():
                strength = adapter.at(layer) if layer in adapter.pairs else 0.0
                if strength != 0:
                    output = _branch(
                        name,
                        adapter,
                        layer,
                        inputs[0],
                        output,
                        strength=strength,
                        piece=piece,
                        product=product,
                    )
            return output

        return add

    def _owner(self, layer: Layer) -> nn.Module | None:
        """Return the feed-forward that a layer is part of. Its forward has `rows` if it works in pieces."""
        owner, is_inside, _ = layer.key.partition(".net.")
        return self.modules[layer.part].get_submodule(owner) if is_inside else None


def _branch(
    name: str,
    adapter: _Adapter,
    layer: Layer,
    x: Tensor,
    output: Tensor,
    *,
    strength: float,
    piece: slice | None,
    product: Product,
) -> Tensor:
    """output (..., out) plus strength * scale * tokens * (x down^T) up^T, rounded to output's dtype once."""
    pair = adapter.pairs[layer]
    if pair.down.device != x.device:
        pair = adapter.pairs[layer] = LowRank(pair.down.to(x.device), pair.up.to(x.device), pair.scale)
    inner = product(x.to(pair.down.dtype), pair.down)
    tokens = _tokens(name, adapter, layer, inner, piece)
    if tokens is not None:
        inner = inner * tokens
    return torch.add(output, product(inner, pair.up).to(output.dtype), alpha=strength * pair.scale)


def _tokens(name: str, adapter: _Adapter, layer: Layer, inner: Tensor, piece: slice | None) -> Tensor | None:
    """The weights for inner (B, n, rank), of its dtype and place: (B or 1, n or 1, 1), or None for 1.

    piece: which tokens inner are, None for all.
    """
    rows = rows_of(layer)
    given = None if rows is None else adapter.tokens.get(rows.stream)
    if rows is None or given is None:
        return None
    if given.device != inner.device:
        given = adapter.tokens[rows.stream] = given.to(inner.device)
    if not rows.per_token:
        return given.mean(dim=1, keepdim=True).to(inner.dtype)
    if piece is not None and given.shape[1] > 1:
        given = given[:, piece]
    if given.shape[1] not in (1, inner.shape[1]) or given.shape[0] not in (1, inner.shape[0]):
        raise ValueError(
            f"adapter '{name}' has {rows.stream} weights of shape {list(given.shape)}, but '{layer.key}' got "
            f"{list(inner.shape[:2])} tokens; weigh it for all tokens of the forward"
        )
    return given.to(inner.dtype)


# --- merged for good --------------------------------------------------------------------------------


def merged(
    weight: Tensor | Quantized,
    changes: Sequence[tuple[LowRank, float]],
    *,
    generator: torch.Generator | None = None,
) -> Tensor | Quantized:
    """A weight with low-rank changes, each at its strength, added in float32; in the format it came in.

    weight: (out, in) of any float dtype, e4m3 by plain cast included, or quantized, which gets new scales.
    generator: of the random rounding to 8 bits, without which changes below half a step, 3 % of a weight in
    e4m3, would mostly be lost; None rounds to nearest. Always merge from pristine weights: repeated merges
    drift.
    """
    if isinstance(weight, Quantized):
        wide = _plus(weight.dequantize(), changes)
        return quantize_weight(wide, weight.format, weight.per, generator=generator)
    wide = _plus(weight.detach().to(torch.float32, copy=True), changes)
    if weight.dtype == torch.float8_e4m3fn:
        return rounded(wide, "fp8", generator)
    return wide.to(weight.dtype)


def _plus(wide: Tensor, changes: Sequence[tuple[LowRank, float]]) -> Tensor:
    for pair, strength in changes:
        pair = LowRank(pair.down.to(wide.device), pair.up.to(wide.device), pair.scale)
        wide += pair.delta(strength)
    return wide


class Merge:
    """Merges LoRAs into weights one at a time, in any order: `merge(part, key, tensor)`, for a converter.

    loras: with their strengths. groups: multipliers for all of them. seed: of the random rounding of 8-bit
    weights, which does not depend on the order. After the last weight, `check` finds adapters that met none.
    """

    def __init__(
        self,
        loras: Sequence[tuple[LoraFile, float]],
        *,
        groups: Mapping[Group, float] | None = None,
        seed: int = 0,
    ) -> None:
        self.loras = list(loras)
        self.groups = dict(groups or {})
        self.seed = seed
        self._met: list[set[Layer]] = [set() for _ in self.loras]

    def __call__(self, part: Part, key: str, tensor: Tensor) -> Tensor:
        """The weight with its changes, or the tensor itself where no LoRA has any."""
        changes = self._of(part, key, tuple(tensor.shape))
        if not changes:
            return tensor
        generator = _generator(self.seed, Layer(part, key), tensor.device)
        found = merged(tensor, changes, generator=generator)
        assert isinstance(found, Tensor)
        return found

    def check(self) -> list[tuple[int, tuple[str, ...]]]:
        """For each LoRA how many layers it changed, and the names of those it did not meet.

        Raises WeightsError for one that changed none.
        """
        results = []
        for (lora, _), met in zip(self.loras, self._met, strict=True):
            left = (*lora.unknown, *(key for _, key in lora.layers.keys() - met))
            if not met:
                raise WeightsError(
                    f"{lora.source} matches no weight of this model (it is for {listing(left)}); "
                    "pass a LoRA of LTX-2.3"
                )
            results.append((len(met), tuple(sorted(left))))
        return results

    def _of(self, part: Part, key: str, shape: tuple[int, ...]) -> list[tuple[LowRank, float]]:
        layer = Layer(part, key.removesuffix(".weight"))
        if layer.key == key:  # a bias or a table
            return []
        changes = []
        for (lora, strength), met in zip(self.loras, self._met, strict=True):
            pair = lora.layers.get(layer)
            if pair is None:
                continue
            _check_shape(lora, layer, shape)
            met.add(layer)
            changes.append((pair, strength * self.groups.get(group_of(layer), 1.0)))
        return [change for change in changes if change[1] != 0]


# --- helpers ----------------------------------------------------------------------------------------


def _generator(seed: int, layer: Layer, device: torch.device) -> torch.Generator:
    """The same numbers for a layer whenever it is its turn; another kind of device draws others."""
    name = f"{layer.part}.{layer.key.removesuffix('.weight')}"
    return torch.Generator(device).manual_seed((seed << 32) + zlib.crc32(name.encode()))


def _stored(module: nn.Linear | QuantizedLinear) -> Tensor | Quantized:
    return module.quantized if isinstance(module, QuantizedLinear) else module.weight


def _range(values: Iterable[Number]) -> tuple[Number, Number]:
    found = list(values)
    return min(found), max(found)


def _check_any(lora: LoraFile, found: Iterable[Layer]) -> None:
    if not any(True for _ in found):
        names = [*lora.unknown, *(key for _, key in lora.layers)]
        raise WeightsError(
            f"{lora.source} matches no layer of this model (it is for {listing(names)}); "
            "pass a LoRA of LTX-2.3"
        )


def _check_shape(lora: LoraFile, layer: Layer, shape: tuple[int, ...]) -> None:
    """shape: of the model's weight, (out, in)."""
    pair = lora.layers[layer]
    if pair.shape == shape:
        return
    if (pair.up.shape[1], pair.down.shape[0]) == shape:
        raise WeightsError(
            f"{lora.source}: the pair of '{layer.key}' is stored transposed, {list(pair.down.shape)} and "
            f"{list(pair.up.shape)} where [rank, {shape[1]}] and [{shape[0]}, rank] are needed; "
            "write it again with both factors transposed"
        )
    raise WeightsError(
        f"{lora.source}: '{layer.key}' is for a weight of shape {list(pair.shape)} where the "
        f"model has {list(shape)}; it was made for another model"
    )


def _check_values(lora: LoraFile, targets: Iterable[Layer], training: bool) -> None:
    """Refuse numbers that are not finite, and a LoRA all of whose products are zero."""
    broken, changes = [], training
    for layer in targets:
        pair = lora.layers[layer]
        largest = [factor.detach().abs().amax().item() for factor in (pair.down, pair.up)]
        if not all(map(math.isfinite, largest)):
            broken.append(layer.key)
        changes = changes or (pair.scale != 0 and 0 not in largest)
    if broken:
        raise WeightsError(
            f"{lora.source} holds numbers that are not finite in {listing(broken)}; get a good copy"
        )
    if not changes:
        raise WeightsError(
            f"{lora.source} changes nothing: in every layer one factor or alpha is zero; "
            "it was saved before it was trained"
        )


def _changes(
    lora: LoraFile,
    targets: Mapping[Layer, nn.Linear | QuantizedLinear],
    stored: Mapping[Part, PartTensors],
) -> dict[Group, float | None]:
    """Norm of the change over the norm of the weights by group, see AdapterReport."""
    changes: dict[Group, float | None] = {}
    for group in GROUPS:
        layers = [layer for layer in targets if group_of(layer) == group]
        if not layers:
            continue
        layers = layers[:: math.ceil(len(layers) / LAYERS_MEASURED)]
        squares = [_square(layer, targets[layer], stored) for layer in layers]
        known = [square for square in squares if square is not None]
        weight = math.sqrt(sum(known)) if len(known) == len(squares) else None
        change = math.sqrt(sum(lora.layers[layer].norm() ** 2 for layer in layers))
        changes[group] = None if weight is None else change / max(weight, 1e-30)
    return changes


def _square(
    layer: Layer, module: nn.Linear | QuantizedLinear, stored: Mapping[Part, PartTensors]
) -> float | None:
    """Squared norm of a weight; None for one that is neither in memory nor stored."""
    if module.weight.is_meta:
        tensor = stored.get(layer.part, {}).get(f"{layer.key}.weight")
        if tensor is None:
            return None
        with Tensors() as files:
            wide = files.value(tensor, torch.float32, torch.device("cpu"))
    else:
        kept = _stored(module)
        wide = kept.dequantize() if isinstance(kept, Quantized) else kept.detach()
    norm: Tensor = torch.linalg.vector_norm(wide, dtype=torch.float32)
    return norm.item() ** 2
