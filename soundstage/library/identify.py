"""Identify a file or folder of weights from headers alone: parts, version, dtypes, whether it runs here.

    identify("ltx-2.3-22b-dev.safetensors")      # one checkpoint, or a folder as a whole
    scan("ComfyUI/models")                       # every checkpoint below a folder

Nothing is refused here but damaged files: what another version is, or what is not known, is said in the
description. Loads no torch.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from soundstage.errors import WeightsError
from soundstage.lora.metadata import lora_refusal
from soundstage.types import UpsamplerRole
from soundstage.weights.configs import completed
from soundstage.weights.diffusers_config import read_diffusers_config
from soundstage.weights.entry import TensorEntry, WeightsFile
from soundstage.weights.foreign import quantizer_beside
from soundstage.weights.gemma_names import SPIECE, is_gemma
from soundstage.weights.gguf import is_packed
from soundstage.weights.header import is_there, read_header, shard_groups, shards
from soundstage.weights.layouts import (
    UNUSED,
    diffusers_component,
    is_lora,
    is_upsampler,
    merged_shards,
    other_version,
    quantizer_refusal,
    spelling_of,
)
from soundstage.weights.sidecars import is_sidecar

ContentKind = Literal["model", "text encoder", "upsampler", "LoRA", "preview VAE", "other version", "unknown"]

SUFFIXES = (".safetensors", ".gguf")
WHOLE_MODEL = ("transformer", "video_vae", "audio_vae", "vocoder")
# A tiny decoder for previews: numbered layers right below the half's name, or its family's.
_PREVIEW = re.compile(r"^(taehv\.|tae\w*\.)?(encoder|decoder)\.(layers\.)?\d+\.")
_RUNS = "this engine runs LTX-2.3"


@dataclass(frozen=True)
class PartSummary:
    """One part in a checkpoint. dtypes: how many tensors are stored in each; scales are not counted."""

    part: str
    num_tensors: int
    num_params: int
    num_bytes: int
    dtypes: Mapping[str, int]


@dataclass(frozen=True, eq=False)
class Description:
    """One checkpoint. parts: in order of size. version: "2.3.0" as stored, "2.3" if told from the names.

    num_scales: count of quantized weights' scales. metadata: the header's, without the config.
    config: its sections.
    distilled: by the file's or folder's name or its scheduler; no tensor tells. role: an upsampler's.
    refusal: why it cannot be used, or None. notices: config keys that it lacks, and what is taken instead.
    """

    files: tuple[Path, ...]
    kind: ContentKind
    layout: str
    version: str | None = None
    parts: tuple[PartSummary, ...] = ()
    num_scales: int = 0
    metadata: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    distilled: bool = False
    role: UpsamplerRole | None = None
    refusal: str | None = None
    notices: tuple[str, ...] = ()

    @property
    def num_bytes(self) -> int:
        """Of all files."""
        return sum(path.stat().st_size for path in self.files)

    @property
    def num_params(self) -> int:
        return sum(part.num_params for part in self.parts)

    @property
    def part_names(self) -> tuple[str, ...]:
        return tuple(part.part for part in self.parts)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        data = asdict(self) | {"num_bytes": self.num_bytes, "num_params": self.num_params}
        return data | {"files": [str(path) for path in self.files]}


def identify(path: str | Path) -> Description:
    """Describe a weights file, one shard of it, or a folder; a folder's checkpoints are summed up in one.

    Raises WeightsError for a file that is missing, damaged or no weights file, and for an empty folder.
    """
    found = scan(path)
    if not found:
        raise WeightsError(f"{path} holds no .safetensors or .gguf file; give a weights file or its folder")
    return found[0] if len(found) == 1 else _together(Path(path), found)


def scan(path: str | Path) -> list[Description]:
    """Describe every checkpoint at a path: a file with its shards, or all files below a folder.

    Raises WeightsError for a file that is missing, damaged or no weights file.
    """
    path = Path(path)
    paths = _below(path) if is_there(path) and path.is_dir() else shards(path)
    return [_described(group) for group in shard_groups(read_header(p) for p in paths)]


def _below(folder: Path) -> list[Path]:
    """Weights files below a folder, hidden ones left out."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix in SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def _described(group: Sequence[WeightsFile]) -> Description:
    tensors = merged_shards(group)
    files = tuple(file.path for file in group)
    metadata = {key: value for key, value in group[0].metadata.items() if key != "config"}
    config = group[0].config or read_diffusers_config(files[0].parent)
    shared: dict[str, Any] = {
        "files": files,
        "metadata": metadata,
        "config": config,
        "num_scales": sum(name.endswith(("weight_scale", "scale_weight")) for name in tensors),
        "distilled": _is_distilled(files[0]),
    }
    weights = {name: entry for name, entry in tensors.items() if not is_sidecar(name)}
    refusal = next(filter(None, map(quantizer_refusal, group)), None) or _quantizer_beside(group[0], weights)
    if refusal is not None:
        kind: ContentKind = "text encoder" if is_gemma(weights) else "model"
        return Description(kind=kind, layout="quantized elsewhere", refusal=refusal, **shared)
    if is_lora(weights):
        parts = _whole("lora", weights)
        return Description(kind="LoRA", layout="LoRA", parts=parts, refusal=lora_refusal(group[0]), **shared)
    if is_upsampler(weights):
        role = _upsampler_role(config, weights)
        parts = _whole("latent_upsampler", weights)
        return Description(kind="upsampler", layout="latent upsampler", parts=parts, role=role, **shared)
    if is_gemma(weights):
        return _text_encoder(shared, weights)
    if weights and all(_PREVIEW.match(name) for name in weights):
        return Description(
            kind="preview VAE", layout="tiny VAE", parts=_whole("preview_vae", weights), **shared
        )
    return _model(shared, weights)


def _quantizer_beside(file: WeightsFile, weights: Mapping[str, TensorEntry]) -> str | None:
    """Return what the config.json next to a text encoder or diffusers component says of its quantization."""
    if not is_gemma(weights) and diffusers_component(weights) is None:
        return None
    found = quantizer_beside(file.path)
    if found is None:
        return None
    config = file.path.with_name("config.json")
    return (
        f"{file.path} is quantized with {found} ({config}), which this engine does not read; get it in BF16"
    )


def _model(shared: dict[str, Any], weights: Mapping[str, TensorEntry]) -> Description:
    spelling = spelling_of(weights)
    places = {name: spelling.locate(name) for name in weights}
    parts = _summaries(weights, lambda name: None if places[name] is None else places[name][0])  # type: ignore[index]
    strays = [name for name, place in places.items() if place is None and not UNUSED.search(name)]
    other = other_version(weights, shared["metadata"])
    version = shared["metadata"].get("model_version")
    if other is not None:
        is_ltx = other.startswith("LTX")
        found = version or (other.removeprefix("LTX-").split()[0] if is_ltx else None)
        refusal = f"{shared['files'][0]} is {other}; {_RUNS}"
        return Description(
            kind="other version" if is_ltx else "unknown",
            layout=other,
            version=found,
            parts=parts,
            refusal=refusal,
            **shared,
        )
    if strays or not parts:
        refusal = (
            f"{shared['files'][0]} holds tensors that LTX-2.3 does not have, such as '{strays[0]}'"
            if (strays)
            else f"{shared['files'][0]} holds no weights"
        )
        return Description(kind="unknown", layout="unknown", parts=parts, refusal=refusal, **shared)
    layout = _layout(shared["files"], weights, {part.part for part in parts}, spelling.name)
    if version is None and any("to_gate_logits" in name or "aggregate_embed" in name for name in weights):
        version = "2.3"
    lacking = completed(shared["config"], {})[1] if isinstance(shared["config"], Mapping) else ()
    return Description(kind="model", layout=layout, version=version, parts=parts, notices=lacking, **shared)


def _layout(
    files: Sequence[Path], weights: Mapping[str, TensorEntry], parts: Collection[str], spelling: str
) -> str:
    if spelling.startswith("diffusers") and files[0].suffix != ".gguf":
        return spelling
    if any(is_packed(entry.dtype) for entry in weights.values()) or files[0].suffix == ".gguf":
        return "GGUF"
    return "official monolith" if all(part in parts for part in WHOLE_MODEL) else "split"


def _text_encoder(shared: dict[str, Any], weights: Mapping[str, TensorEntry]) -> Description:
    folder = shared["files"][0].parent
    parts = _summaries(weights, _gemma_part)
    model_type = _model_type(folder / "config.json")
    if "gemma_config" in shared["metadata"] or "tokenizer_json" in weights or model_type == "gemma4":
        refusal = f"{shared['files'][0]} is Gemma 4, the text encoder of LTX-2.5; LTX-2.3 needs Gemma 3 12B"
        return Description(kind="other version", layout="Gemma 4", parts=parts, refusal=refusal, **shared)
    if shared["files"][0].suffix == ".gguf":
        layout = "Gemma, GGUF"
    else:
        layout = "Gemma, one file with its tokenizer" if SPIECE in weights else "Gemma, Hugging Face"
    return Description(kind="text encoder", layout=layout, parts=parts, **shared)


def _gemma_part(name: str) -> str:
    if "vision" in name or "multi_modal_projector" in name or name.startswith(("v.", "mm.")):
        return "vision_tower"
    return "tokenizer" if name == SPIECE else "text_encoder"


def _model_type(config: Path) -> str | None:
    try:
        value = json.loads(config.read_text()).get("model_type")
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
    return str(value)


def _upsampler_role(config: Mapping[str, Any], weights: Mapping[str, TensorEntry]) -> UpsamplerRole | None:
    """By the config, or by what the layer that changes the scale looks like."""
    if "spatial_upsample" in config:
        if config.get("temporal_upsample"):
            return "time-x2"
        scales: dict[float, UpsamplerRole] = {2.0: "space-x2", 1.5: "space-x1.5"}
        return scales.get(float(config.get("spatial_scale", 2.0)))
    plain, rational = weights.get("upsampler.0.weight"), weights.get("upsampler.conv.weight")
    if plain is not None:
        return "time-x2" if len(plain.shape) == 5 else "space-x2"
    if rational is None:
        return None
    return "space-x1.5" if rational.shape[0] == 9 * rational.shape[1] else "space-x2"


def _is_distilled(path: Path) -> bool:
    """Return whether a model is distilled, by its file's name or diffusers scheduler; no tensor shows it."""
    if "distilled" in path.name.lower():
        return True
    scheduler = path.parent.parent / "scheduler" / "scheduler_config.json"
    if not scheduler.is_file():
        return False
    try:
        config = json.loads(scheduler.read_text())
    except (OSError, ValueError, RecursionError):
        return False
    if not isinstance(config, dict):
        return False
    return config.get("use_dynamic_shifting") is False and config.get("shift_terminal") is None


def _summaries(
    weights: Mapping[str, TensorEntry], part_of: Callable[[str], str | None]
) -> tuple[PartSummary, ...]:
    by_part: dict[str, list[TensorEntry]] = {}
    for name, entry in weights.items():
        part = part_of(name)
        if part is not None:
            by_part.setdefault(part, []).append(entry)
    found = [_summary(part, entries) for part, entries in by_part.items()]
    return tuple(sorted(found, key=lambda part: -part.num_params))


def _whole(part: str, weights: Mapping[str, TensorEntry]) -> tuple[PartSummary, ...]:
    return _summaries(weights, lambda _: part)


def _summary(part: str, entries: Iterable[TensorEntry]) -> PartSummary:
    entries = list(entries)
    return PartSummary(
        part,
        len(entries),
        sum(entry.num_params for entry in entries),
        sum(entry.num_bytes for entry in entries),
        dict(Counter(entry.dtype for entry in entries).most_common()),
    )


def _together(folder: Path, found: Sequence[Description]) -> Description:
    """Return a folder of checkpoints as one, with the facts that all of its model files share."""
    models = [description for description in found if description.kind == "model"]
    layouts = {description.layout.split()[0] for description in models}
    return Description(
        files=tuple(path for description in found for path in description.files),
        kind="model" if models else found[0].kind,
        layout=f"folder, {layouts.pop()}" if len(layouts) == 1 else f"folder of {len(found)} checkpoints",
        version=next((d.version for d in models if d.version), None),
        parts=tuple(part for description in found for part in description.parts),
        num_scales=sum(description.num_scales for description in found),
        metadata={key: value for d in reversed(found) for key, value in d.metadata.items()},
        config={key: value for d in reversed(models) for key, value in d.config.items()},
        distilled=any(description.distilled for description in models),
        refusal=next((d.refusal for d in found if d.refusal), None),
        notices=tuple(dict.fromkeys(notice for d in models for notice in d.notices)),
    )
