"""LoRA files: every spelling in which they are published -> one `LoraFile`, with our names of the layers.

A LoRA changes a layer's weight W (out, in) by strength * scale * up @ down, with `down` (rank, in), `up`
(out, rank) and scale = alpha / rank; other forms of a change are in forms.py. The file's spelling differs in
three places, freely combined:

    prefix    diffusion_model., model.diffusion_model., transformer., base_model.model., connectors.,
              lora_unet_, lycoris_ (dots are underscores after these two), none; _orig_mod. anywhere
    module    the published names or diffusers'
    suffix    lora_A/lora_B, lora_down/lora_up, lora.down/lora.up, _lora.down/_lora.up, `.default` inside

Modules are found by looking up their whole name among those the model has, never by splitting it.

Source: docs/model/checkpoints.md, "LoRA files".
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from soundstage.errors import WeightsError
from soundstage.lora.asked import FileNames
from soundstage.lora.fit import changed_twice, no_layer, other_shape
from soundstage.lora.folders import ADAPTER, SETTINGS, lora_file
from soundstage.lora.form_names import FormNames
from soundstage.lora.forms import LayerChange, change_of_form
from soundstage.lora.layers import Layer, LowRank
from soundstage.lora.metadata import (
    PEFT_SETTINGS,
    LoraNames,
    LoraReferences,
    PairNames,
    lora_references,
    metadata_of,
    read_names,
)
from soundstage.lora.module_names import bare_names, spelled, underscored
from soundstage.lora.write import write_pairs
from soundstage.model.config import ConnectorConfig, TextProjectionConfig, TransformerConfig
from soundstage.model.connector import Connector, FeatureExtractor
from soundstage.model.published import transformer_header
from soundstage.model.transformer import Transformer
from soundstage.weights.entry import WeightsFile
from soundstage.weights.header import read_header
from soundstage.weights.layouts import Part, listing
from soundstage.weights.read import TORCH_DTYPES, TensorReader


@dataclass(frozen=True)
class LoraFile:
    """A LoRA as read from a file, or made in training."""

    layers: Mapping[Layer, LayerChange]  # what it changes
    source: str = "a LoRA in memory"
    unknown: tuple[str, ...] = ()  # names of modules in the file that LTX-2.3 does not have
    companions: Mapping[str, Tensor] = field(default_factory=dict)  # tensors beside the pairs
    metadata: Mapping[str, str] = field(default_factory=dict)  # as the file has it
    base_version: str | None = None  # version of the model it was trained on, None if the file does not say
    references: LoraReferences = field(default_factory=LoraReferences)

    @property
    def ranks(self) -> tuple[int, int]:
        """Return the smallest and the largest rank."""
        ranks = [pair.rank for pair in self.layers.values()]
        return min(ranks), max(ranks)

    def pairs(self) -> dict[Layer, LowRank]:
        """Return the changes, all of which are low-rank pairs. Raises WeightsError where one is not."""
        found = {layer: change for layer, change in self.layers.items() if isinstance(change, LowRank)}
        if others := sorted(".".join(layer) for layer in self.layers.keys() - found.keys()):
            raise WeightsError(
                f"{self.source} holds no low-rank pair for {listing(others)} but another form of change; "
                f"`soundstage lora resize {self.source} --rank 64 -o FILE` makes a plain LoRA of it"
            )
        return found

    def check_matches(self, found: Collection[Layer]) -> None:
        """Raise WeightsError if none of the LoRA's layers was found in a model."""
        if not found:
            raise WeightsError(no_layer(self.source, [*self.unknown, *(key for _, key in self.layers)]))

    def check_shape(self, layer: Layer, shape: tuple[int, ...]) -> None:
        """Raise WeightsError if a layer's factors do not fit the model's weight, whose shape is (out, in)."""
        pair = self.layers[layer]
        if pair.shape == shape:
            return
        if isinstance(pair, LowRank) and (pair.up.shape[1], pair.down.shape[0]) == shape:
            raise WeightsError(
                f"{self.source}: the pair of '{layer.key}' is stored transposed, {list(pair.down.shape)} and "
                f"{list(pair.up.shape)} where [rank, {shape[1]}] and [{shape[0]}, rank] are needed; "
                "write it again with both factors transposed"
            )
        raise WeightsError(other_shape(self.source, layer, pair.shape, shape))

    def check_values(self, layers: Iterable[Layer], training: bool) -> None:
        """Refuse numbers that are not finite and, except in training, a LoRA that changes nothing."""
        broken, changes = [], training
        for layer in layers:
            pair = self.layers[layer]
            factors = pair.factors if pair.magnitude is None else (pair.magnitude,)
            largest = [factor.detach().abs().amax().item() for factor in factors]
            if not all(map(math.isfinite, largest)):
                broken.append(layer.key)
            changes = changes or pair.magnitude is not None or (pair.scale != 0 and 0 not in largest)
        if broken:
            raise WeightsError(
                f"{self.source} holds numbers that are not finite in {listing(broken)}; get a good copy"
            )
        if not changes:
            raise WeightsError(
                f"{self.source} changes nothing: in every layer one factor or alpha is zero; "
                "it was saved before it was trained"
            )


def read_lora(path: str | Path, *, values: bool = True) -> LoraFile:
    """Read a LoRA in any published spelling; factors in 8 bits are widened to bfloat16, which holds them.

    values: False leaves the factors on the meta device, where names, ranks and scales are enough.
    Raises WeightsError for a file that is no safetensors, is no LoRA, is of another kind (OFT, IA3, ...)
    or of another model, or holds a pair that is incomplete or misshapen; each names the file and the key.
    """
    with open_lora(path, values=values) as lora:
        return replace(lora, layers=dict(lora.layers))


@contextmanager
def open_lora(path: str | Path, *, values: bool = True) -> Iterator[LoraFile]:
    """Yield a LoRA whose pairs are read when they are asked for, each time anew; see `read_lora`."""
    file = read_header(lora_file(path))
    names = read_names(file)
    alpha_of = _Alphas(file, names)
    places: dict[Layer, tuple[PairNames | FormNames, float]] = {}
    unknown: list[str] = []
    names_of: dict[Layer, str] = {}
    for module, pair in names.pairs.items():
        layer = find_layer(module)
        if layer is None:
            unknown.append(module)
            continue
        if layer in names_of:
            raise WeightsError(changed_twice(str(file.path), layer, names_of[layer], module))
        places[layer] = pair, alpha_of.scale(module, pair)
        names_of[layer] = module
    with TensorReader() as files:
        yield LoraFile(
            layers=_StoredPairs(file, places, files if values else None),
            source=str(file.path),
            unknown=tuple(sorted(unknown)),
            companions={name: files.raw(file.path, name, file.tensors[name]) for name in names.companions},
            metadata=file.metadata,
            base_version=_base_version(file, places, unknown),
            references=lora_references(file, names),
        )


def write_lora(
    path: str | Path, lora: LoraFile, *, dtype: torch.dtype = torch.bfloat16, names: FileNames = "comfyui"
) -> Path:
    """Write a LoRA; by default as the official trainer does: lora_A/lora_B under diffusion_model., no alpha.

    names: see spellings.py. dtype: the factors' dtype. The metadata tells the references. Written under a
    temporary name, then renamed.
    """
    pairs = lora.pairs()
    write_pairs(
        Path(path),
        pairs.items(),
        pairs,
        names=names,
        dtype=dtype,
        metadata={**lora.metadata, **metadata_of(lora.references)},
        companions=lora.companions,
    )
    return Path(path)


# --- names ------------------------------------------------------------------------------------------


def find_layer(name: str) -> Layer | None:
    """Return the linear layer that a module's name in a LoRA file means; None if LTX-2.3 has none."""
    for bare in bare_names(name):
        found = _spellings().get(_spelling(bare))
        if found is not None:
            number = re.search(r"blocks_(\d+)_", bare)
            return Layer(found.part, found.key.replace("#", number[1] if number else ""))
    return None


def _spelling(name: str) -> str:
    """Return what all dialects of one name share: dots as underscores, the block's number as #."""
    return re.sub(r"blocks_\d+_", "blocks_#_", underscored(name), count=1)


@cache
def _spellings() -> dict[str, Layer]:
    """Return every linear layer that may carry a LoRA, by its published name and by diffusers'."""
    header = {"transformer": transformer_header(num_layers=1, connector_num_layers=1)}
    with torch.device("meta"):
        modules: dict[Part, nn.Module] = {
            "transformer": Transformer(TransformerConfig.from_header(header)),
            "video_connector": Connector(ConnectorConfig.from_header(header, "video")),
            "audio_connector": Connector(ConnectorConfig.from_header(header, "audio")),
            "text_projection": FeatureExtractor(TextProjectionConfig.from_header(header, 3840)),
        }
    names: dict[str, Layer] = {}
    for part, module in modules.items():
        for key, child in module.named_modules():
            if not isinstance(child, nn.Linear):
                continue
            layer = Layer(part, key.replace("blocks.0.", "blocks.#."))
            for name in spelled(part, key):
                assert names.setdefault(_spelling(name), layer) == layer, name
    return names


# --- tensors ----------------------------------------------------------------------------------------


class _StoredPairs(Mapping[Layer, LayerChange]):
    """The pairs of an open file, read when they are asked for; without `files` on the meta device."""

    def __init__(
        self,
        file: WeightsFile,
        places: Mapping[Layer, tuple[PairNames | FormNames, float]],
        files: TensorReader | None,
    ) -> None:
        self._file, self._places, self._files = file, places, files

    def __getitem__(self, layer: Layer) -> LayerChange:
        pair, scale = self._places[layer]
        if isinstance(pair, FormNames):
            sides = [[_factor(self._files, self._file, name) for name in side] for side in pair.sides]
            return change_of_form(pair.form, sides, scale)
        down, up = (_factor(self._files, self._file, name) for name in (pair.down, pair.up))
        magnitude = None if pair.magnitude is None else self._magnitude(pair.magnitude)
        return LowRank(down, up, scale, magnitude)

    def __iter__(self) -> Iterator[Layer]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def _magnitude(self, name: str) -> Tensor:
        entry = self._file.tensors[name]
        if self._files is None:
            return torch.empty(entry.num_params, device="meta")
        return self._files.raw(self._file.path, name, entry).flatten().float()


def _factor(files: TensorReader | None, file: WeightsFile, name: str) -> Tensor:
    """Return a matrix, also where it is written as a convolution of one pixel; no values without files."""
    entry = file.tensors[name]
    if files is None:
        dtype = TORCH_DTYPES[entry.dtype]
        return torch.empty(
            entry.shape[:2], dtype=torch.bfloat16 if dtype.itemsize == 1 else dtype, device="meta"
        )
    stored = files.raw(file.path, name, entry).flatten(1)
    return stored.bfloat16() if stored.dtype.itemsize == 1 else stored


class _Alphas:
    """The scales of pairs: a pair's own alpha tensor over its rank, else by PEFT's settings, else 1."""

    def __init__(self, file: WeightsFile, names: LoraNames) -> None:
        self.path = file.path
        self.settings = _peft_settings(file)
        if self.settings.get("use_dora") and not any(pair.magnitude for pair in names.pairs.values()):
            raise WeightsError(
                f"{file.path} says that it is DoRA (use_dora) and holds no magnitudes; get a complete file"
            )
        self.patterns = self._patterns("alpha_pattern")
        with TensorReader() as files:
            self.stored = {
                module: files.raw(file.path, name, file.tensors[name]).double().item()
                for module, name in names.alphas.items()
            }

    def scale(self, module: str, pair: PairNames | FormNames) -> float:
        rank = pair.rank if isinstance(pair, PairNames) else pair.divisor or self._asked_rank(module)
        if rank is None:
            return 1.0
        if module in self.stored:
            return self._finite(self.stored[module], f"{module}.alpha") / rank
        name = next((key for key, pattern in self.patterns.items() if pattern.search(module)), None)
        if name is not None:
            alpha = self._finite(self.settings["alpha_pattern"][name], f"alpha_pattern['{name}']")
        else:
            setting = next(
                (key for key in ("lora_alpha", "alpha") if self.settings.get(key) is not None), None
            )
            if setting is None:
                return 1.0
            alpha = self._finite(self.settings[setting], setting)
        return alpha / (math.sqrt(rank) if self.settings.get("use_rslora") else rank)

    def _asked_rank(self, module: str) -> int | None:
        """Return the rank that PEFT was asked for, which no whole side of a LoKr tells; None without PEFT."""
        found = self.settings.get("r")
        for key, pattern in self._patterns("rank_pattern").items():
            if pattern.search(module):
                found = self.settings["rank_pattern"][key]
        return found if isinstance(found, int) and found > 0 else None

    def _finite(self, alpha: Any, name: str) -> float:
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
            raise WeightsError(f"{self.path}: '{name}' is not one finite number but {alpha}; get a good copy")
        return float(alpha)

    def _patterns(self, setting: str) -> dict[str, re.Pattern[str]]:
        """Return PEFT's alphas or ranks by module: the keys are regular expressions."""
        stored = self.settings.get(setting) or {}
        try:
            return {key: re.compile(rf"(^|\.){key}$") for key in dict(stored)}
        except (TypeError, ValueError, re.error) as error:
            raise WeightsError(
                f"{self.path} stores a {setting} that is not PEFT's ({error}); get a good copy"
            ) from error


def _peft_settings(file: WeightsFile) -> dict[str, Any]:
    """Return PEFT's config: in the metadata, or in adapter_config.json beside a file that PEFT wrote.

    diffusers puts the component's name before each setting.
    """
    text = file.metadata.get(PEFT_SETTINGS)
    beside = file.path.with_name(SETTINGS)
    try:
        if text is None and file.path.name == ADAPTER and beside.is_file():
            text = beside.read_text()
        settings = {} if text is None else json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{file.path} stores settings of PEFT that are not JSON ({error})") from error
    if not isinstance(settings, dict):
        raise WeightsError(f"{file.path} stores settings of PEFT that are not a JSON object; get a good copy")
    return {key.removeprefix("transformer."): value for key, value in settings.items()}


# --- the base model ----------------------------------------------------------------------------------


def _base_version(file: WeightsFile, layers: Iterable[Layer], unknown: Iterable[str]) -> str | None:
    """Return the version as stored, else by layers that only one version has."""
    for name in ("model_version", "base_model_version", "ss_base_model_version"):
        if stored := file.metadata.get(name):
            return stored
    if any("caption_projection" in name for name in unknown):
        return "2.0"
    if any("to_gate_logits" in layer.key or "prompt_adaln" in layer.key for layer in layers):
        return "2.3"
    return None
