"""Plan a conversion from headers alone: the files, their tensors, their headers.

`open_source` reads the headers of what there is; `plan_conversion` gives the files of another layout or
dtype.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from soundstage.errors import RequestError, WeightsError, listed
from soundstage.library.identify import Description, scan
from soundstage.weights.configs import stored_config
from soundstage.weights.diffusers_names import to_diffusers
from soundstage.weights.dtypes import check_dtypes
from soundstage.weights.entry import TensorEntry, WeightsFile
from soundstage.weights.gguf import is_packed
from soundstage.weights.header import header_bytes, is_there, laid_out, read_header
from soundstage.weights.layouts import DIFFUSERS_PARTS, PART_PREFIXES, PARTS, Part, StoredTensor, find_parts
from soundstage.weights.sidecars import DECLARATION
from soundstage.weights.storage import TARGET, Format

Layout = Literal["official", "bundle", "kijai", "diffusers"]
Dtype = Literal["bf16", "fp8", "int8"]

SHARD_BYTES = 5_000_000_000

# One scale a weight is what every reader of fp8 files knows; int8 needs one a row.
STORED_FORMATS: dict[Format, tuple[str, str]] = {
    "fp8": ("F8_E4M3", "float8_e4m3fn"),
    "int8": ("I8", "int8_tensorwise"),
}

_MODEL = "model.diffusion_model."
OFFICIAL_PREFIXES: dict[Part, str] = {
    "transformer": _MODEL,
    **{part: prefix for prefix, part in PART_PREFIXES.items()},
    "video_connector": f"{_MODEL}video_embeddings_connector.",
    "audio_connector": f"{_MODEL}audio_embeddings_connector.",
}
CONNECTOR_PREFIXES: dict[Part, str] = {
    "video_connector": "video_connector.",
    "audio_connector": "audio_connector.",
}
_DIFFUSION: tuple[Part, ...] = ("transformer", "video_connector", "audio_connector")
# Parts by file, in the order in which a model is listed.
BUNDLE_FILES: dict[str, tuple[Part, ...]] = {
    "transformer.safetensors": (*_DIFFUSION, "text_projection"),
    "video_vae.safetensors": ("video_vae",),
    "audio_vae.safetensors": ("audio_vae", "vocoder"),
}
KIJAI_FILES: dict[str, tuple[Part, ...]] = {
    "diffusion_models/{name}_transformer_only.safetensors": _DIFFUSION,
    "text_encoders/{name}_text_projection.safetensors": ("text_projection",),
    "vae/{name}_video_vae.safetensors": ("video_vae",),
    "vae/{name}_audio_vae.safetensors": ("audio_vae", "vocoder"),
}
CONFIG_SECTIONS: dict[Part, str] = {
    **dict.fromkeys((*_DIFFUSION, "text_projection"), "transformer"),
    "video_vae": "vae",
    "audio_vae": "audio_vae",
    "vocoder": "vocoder",
}


@dataclass(frozen=True)
class ConvertSource:
    """The model to convert. config: stored sections. metadata: the headers', without config and format.

    text: folder of a text encoder to take along. bundle: the content of a bundle.json.
    """

    name: str
    parts: Mapping[Part, Mapping[str, StoredTensor]]
    files: tuple[WeightsFile, ...]
    config: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    text: Path | None = None
    extras: tuple[Path, ...] = ()
    bundle: Mapping[str, Any] = field(default_factory=dict)
    distilled: bool = False


@dataclass(frozen=True)
class Item:
    """One tensor of the source and what is written for it.

    format: the weight is quantized to it; None for a copy or a cast. entries: what is stored, by name; the
    first is the weight, the others are its sidecars. sidecars: where an entry is copied from.
    """

    part: Part
    key: str
    stored: StoredTensor
    entries: Mapping[str, TensorEntry]
    format: Format | None = None
    sidecars: Mapping[str, tuple[str, TensorEntry]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return next(iter(self.entries))


@dataclass(frozen=True)
class OutputFile:
    """One file to write. path: below the target."""

    path: Path
    items: tuple[Item, ...]
    metadata: Mapping[str, str]

    @cached_property
    def entries(self) -> dict[str, TensorEntry]:
        """By name, as `header.laid_out` orders and places them."""
        return laid_out({name: entry for item in self.items for name, entry in item.entries.items()})

    @property
    def num_bytes(self) -> int:
        return sum(entry.num_bytes for entry in self.entries.values())

    @cached_property
    def header(self) -> bytes:
        """Length and text of the safetensors header."""
        return header_bytes(self.entries, self.metadata)


# --- the source -------------------------------------------------------------------------------------


def open_source(paths: Sequence[str | Path]) -> ConvertSource:
    """Return the headers of files and folders. Raises WeightsError for damaged or foreign files."""
    places = [Path(path) for path in paths]
    bundle = _bundle(places[0])
    places += [places[0] / path for path in bundle.pop("files", ())]
    found = [description for place in places for description in scan(place)]
    refused = next((d.refusal for d in found if d.refusal and set(d.files) & set(places)), None)
    if refused is not None:
        raise WeightsError(refused)
    models = [description for description in found if description.kind == "model"]
    if not models:
        raise WeightsError(f"{', '.join(str(p) for p in places)} holds no part of LTX-2.3; give its files")
    files = tuple(read_header(path) for description in models for path in description.files)
    parts = find_parts(files)
    for tensors in parts.values():
        check_dtypes(tensors)
    return ConvertSource(
        name=str(bundle.get("name", places[0].stem)),
        parts={part: parts[part] for part in PARTS if part in parts},
        files=files,
        config=stored_config(files),
        metadata=_metadata(files),
        text=_text_folder(found),
        extras=tuple(d.files[0] for d in found if d.kind in ("upsampler", "preview VAE")),
        bundle=bundle,
        distilled=any(d.distilled for d in models if "transformer" in d.part_names),
    )


def _bundle(folder: Path) -> dict[str, Any]:
    path = folder / "bundle.json"
    if not is_there(path):
        return {}
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise WeightsError(
            f"{path} is no JSON object ({error}); restore the file the model came with"
        ) from error


def _metadata(files: Iterable[WeightsFile]) -> dict[str, str]:
    """Return what headers say beyond the config, the first file's word first."""
    found: dict[str, str] = {}
    for file in files:
        for key, value in file.metadata.items():
            if key not in ("config", "format") and file.path.suffix == ".safetensors":
                found.setdefault(key, value)
    return found


def _text_folder(found: Iterable[Description]) -> Path | None:
    folders = (d.files[0].parent for d in found if d.kind == "text encoder")
    return next((folder for folder in folders if (folder / "config.json").is_file()), None)


# --- the plan ---------------------------------------------------------------------------------------


def plan_conversion(source: ConvertSource, layout: Layout, dtype: Dtype | None) -> list[OutputFile]:
    """Return the files that `convert` would write, from headers alone. Raises RequestError."""
    if layout not in get_args(Layout):
        raise RequestError(
            f"layout is '{layout}'; give one of {listed(layout, get_args(Layout))}", field="layout"
        )
    if dtype is not None and dtype not in get_args(Dtype):
        raise RequestError(f"dtype is '{dtype}'; give one of {listed(dtype, get_args(Dtype))}", field="dtype")
    match layout:
        case "official":
            files = {"model.safetensors": PARTS}
        case "bundle":
            files = BUNDLE_FILES
        case "kijai":
            files = {name.format(name=source.name): parts for name, parts in KIJAI_FILES.items()}
        case "diffusers":
            return _plan_diffusers(source, dtype)
    bare: tuple[Part, ...] = ("video_vae",) if layout == "kijai" else ()

    def named(part: Part, key: str) -> str:
        return key if part in bare else OFFICIAL_PREFIXES[part] + key

    outputs = []
    for name, parts in files.items():
        items = _items(source, parts, dtype, named)
        if items:
            outputs.append(OutputFile(Path(name), items, _file_metadata(source, parts, items, layout)))
    return outputs


def _plan_diffusers(source: ConvertSource, dtype: Dtype | None) -> list[OutputFile]:
    def named(part: Part, key: str) -> str:
        return CONNECTOR_PREFIXES.get(part, "") + to_diffusers(part, key)

    outputs = []
    for component, parts in DIFFUSERS_PARTS.items():
        items = _items(source, parts, dtype, named)
        groups = list(_shards(items))
        for number, group in enumerate(groups, 1):
            shard = f"-{number:05d}-of-{len(groups):05d}" if len(groups) > 1 else ""
            path = Path(component) / f"diffusion_pytorch_model{shard}.safetensors"
            metadata = {"format": "pt", **_file_metadata(source, parts, group, "diffusers")}
            outputs.append(OutputFile(path, group, metadata))
    return outputs


def _shards(items: Sequence[Item]) -> Iterator[tuple[Item, ...]]:
    """Split tensors, in order, into shards of at most SHARD_BYTES."""
    group: list[Item] = []
    size = 0
    for item in items:
        needed = sum(entry.num_bytes for entry in item.entries.values())
        if group and size + needed > SHARD_BYTES:
            yield tuple(group)
            group, size = [], 0
        group.append(item)
        size += needed
    if group:
        yield tuple(group)


def _items(
    source: ConvertSource, parts: Iterable[Part], dtype: Dtype | None, named: Callable[[Part, str], str]
) -> tuple[Item, ...]:
    return tuple(
        _item(part, key, stored, dtype, named(part, key))
        for part in parts
        for key, stored in source.parts.get(part, {}).items()
    )


def _item(part: Part, key: str, stored: StoredTensor, dtype: Dtype | None, name: str) -> Item:
    entry, owner = stored.entry, name.removesuffix("weight")
    format: Format | None = dtype if dtype in ("fp8", "int8") else None
    kept = dtype is None and not is_packed(entry.dtype)
    if kept or (format is not None and entry.dtype == STORED_FORMATS[format][0]):
        sidecars = {f"{owner}{suffix}": place for suffix, place in stored.sidecars.items()}
        entries = {name: entry} | {side: place[1] for side, place in sidecars.items()}
        return Item(part, key, stored, entries, sidecars=sidecars)
    if format is not None and part == "transformer" and is_target(key):
        scale = TensorEntry("F32", () if format == "fp8" else (entry.shape[0], 1))
        quantized = TensorEntry(STORED_FORMATS[format][0], entry.shape)
        return Item(part, key, stored, {name: quantized, f"{owner}weight_scale": scale}, format)
    cast = TensorEntry("F32" if "scale_shift_table" in key else "BF16", entry.shape)
    return Item(part, key, stored, {name: cast})


def is_target(key: str) -> bool:
    """Return whether a transformer's tensor is the weight of a layer that may be 8-bit."""
    return key.endswith(".weight") and TARGET.match(key.removesuffix(".weight")) is not None


def _file_metadata(
    source: ConvertSource, parts: Sequence[Part], items: Iterable[Item], layout: Layout
) -> dict[str, str]:
    """Return a file's metadata: its parts' sections, the source's own, and the quantized layers."""
    wanted = {CONFIG_SECTIONS[part] for part in parts if part in source.parts}
    order = [*dict.fromkeys(CONFIG_SECTIONS.values()), *source.config]
    if "transformer" in wanted:  # with what belongs to no part: the scheduler
        wanted |= set(source.config) - set(CONFIG_SECTIONS.values())
    names = (name for name in dict.fromkeys(order) if name in wanted and name in source.config)
    sections = {name: source.config[name] for name in names}
    metadata = {"config": json.dumps(sections)} if sections else {}
    metadata |= {key: value for key, value in source.metadata.items() if key != DECLARATION}
    formats = {stored: name for stored, name in STORED_FORMATS.values()}
    layers = {
        item.name.removesuffix(".weight"): {"format": formats[item.entries[item.name].dtype]}
        for item in items
        if item.entries[item.name].dtype in formats and len(item.entries) > 1
    }
    declares = DECLARATION in source.metadata or any(item.format for item in items)
    if layers and declares:
        metadata[DECLARATION] = json.dumps({"format_version": "1.0", "layers": layers})
    return metadata
