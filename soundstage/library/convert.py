"""From one layout of files to another, from one dtype to another, tensor by tensor.

    convert("ltx-2.3-22b-dev.safetensors", "dev", layout="diffusers")
    convert("kijai_folder", "dev-fp8.safetensors", layout="official", dtype="fp8")

    layout       target     what is written
    official     a file     all parts, under the official prefixes
    bundle       a folder   transformer, video_vae and audio_vae.safetensors, text/: Soundstage's own
    kijai        a folder   diffusion_models/, text_encoders/, vae/, as ComfyUI has them
    diffusers    a folder   a folder a component, in shards of 5 GB, with config.json and model_index.json

Without a dtype every stored byte stays what it is, scales too. A file's header is written first, since it
follows from the source's headers alone; then each tensor to its place. At no time is more in memory than one
tensor and what it is being turned into. A file gets its name when it is whole.
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor

from soundstage.errors import RequestError, WeightsError
from soundstage.library.convert_plan import (
    STORED_FORMATS,
    ConvertSource,
    Dtype,
    Item,
    Layout,
    OutputFile,
    open_source,
    plan_conversion,
)
from soundstage.lora.files import read_lora
from soundstage.lora.fit import fit_of
from soundstage.lora.folders import lora_file
from soundstage.lora.merge import Merge
from soundstage.weights.configs import completed, model_config
from soundstage.weights.diffusers_config import CLASSES, write_diffusers_config
from soundstage.weights.entry import TensorEntry
from soundstage.weights.header import read_header
from soundstage.weights.layouts import DIFFUSERS_PARTS, DiffusersComponent, Part
from soundstage.weights.quantize import quantize_weight, rounded
from soundstage.weights.read import TORCH_DTYPES, TensorReader

# What becomes of a weight. Called with the part, our key and the weight's values; returns them, the same
# object if they stay as they are.
Edit = Callable[[Part, str, Tensor], Tensor]
OnProgress = Callable[[int, int], None]  # bytes written, bytes in all

PIECE_BYTES = 1 << 24
CPU = torch.device("cpu")


def convert(
    source: str | Path | Sequence[str | Path],
    target: str | Path,
    *,
    layout: Layout,
    dtype: Dtype | None = None,
    edit: Edit | None = None,
    on_progress: OnProgress | None = None,
) -> list[Path]:
    """Write a model's parts, those that the source has, in another layout or dtype; returns the files.

    source: files or folders in any layout. target: a new .safetensors file for "official", else a folder.
    dtype: None keeps what is stored ("bf16" for GGUF); "fp8" and "int8" quantize the linear layers of
    quantize.TARGET that are not yet. edit: called with every floating-point weight in full, to merge
    adapters. Raises RequestError for a layout, dtype or target that cannot be, WeightsError for files that
    cannot be read and for a disk without room.
    """
    opened = open_source([source] if isinstance(source, str | Path) else source)
    outputs = plan_conversion(opened, layout, dtype)
    target = Path(target)
    _check_target(target, outputs, opened, layout)
    total, done = sum(output.num_bytes for output in outputs), 0

    def wrote(num_bytes: int) -> None:
        nonlocal done
        done += num_bytes
        if on_progress is not None:
            on_progress(done, total)

    written = []
    for output in outputs:
        path = target / output.path if layout != "official" else target
        _write(path, output, edit, wrote)
        written.append(path)
    if layout != "official":
        written += _write_companions(target, opened, outputs, layout)
    return written


def convert_merged(
    source: str | Path | Sequence[str | Path],
    target: str | Path,
    loras: Sequence[tuple[str | Path, float]],
    *,
    layout: str,
    dtype: str | None = None,
    on_progress: OnProgress | None = None,
) -> tuple[list[Path], list[tuple[int, tuple[str, ...]]]]:
    """Convert a model with LoRAs, given with their strengths, merged into its weights.

    Returns the files, and for each LoRA how many layers it changed and the names of those that the model does
    not have. Raises WeightsError for a LoRA that changes none; then no file is left.
    """
    if loras:
        parts = open_source([source] if isinstance(source, str | Path) else source).parts
        for path, _ in loras:
            fit_of(read_header(lora_file(path)), parts)
    merge = Merge([(read_lora(path), strength) for path, strength in loras]) if loras else None
    written = convert(
        source,
        target,
        layout=cast(Layout, layout),
        dtype=cast("Dtype | None", dtype),
        edit=merge,
        on_progress=on_progress,
    )
    try:  # only after the last weight is it known that a LoRA changed none
        return written, merge.check() if merge is not None else []
    except WeightsError:
        for path in written:
            path.unlink(missing_ok=True)
        raise


# --- writing ----------------------------------------------------------------------------------------


def _check_target(target: Path, outputs: Sequence[OutputFile], source: ConvertSource, layout: Layout) -> None:
    if layout == "official" and target.suffix != ".safetensors":
        raise RequestError(
            f"target is {target}; the official layout is one .safetensors file", field="target"
        )
    if layout != "official" and target.is_file():
        raise RequestError(f"target is {target}, a file; the {layout} layout is a folder", field="target")
    paths = [target if layout == "official" else target / output.path for output in outputs]
    present = next((path for path in paths if path.exists()), None)
    if present is not None:
        raise RequestError(f"{present} exists already; give another target or remove it", field="target")
    folder = next(parent for parent in target.absolute().parents if parent.is_dir())
    needed, free = sum(output.num_bytes for output in outputs), shutil.disk_usage(folder).free
    if needed > free:
        raise WeightsError(
            f"{target} would take {needed / 1e9:.1f} GB and {folder} has {free / 1e9:.1f} GB free; "
            "make room or give a target on another disk"
        )


def _write(path: Path, output: OutputFile, edit: Edit | None, wrote: Callable[[int], None]) -> None:
    """Write one file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.part")
    try:
        with partial.open("wb") as file, TensorReader() as tensors:
            file.write(output.header)
            start = file.tell()
            file.truncate(start + output.num_bytes)
            for item in output.items:
                for name, piece, offset in _pieces(tensors, item, edit):
                    file.seek(start + output.entries[name].offset + offset)
                    file.write(piece)
                    wrote(len(piece))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _pieces(tensors: TensorReader, item: Item, edit: Edit | None) -> Iterator[tuple[str, Any, int]]:
    """Name, bytes and their offset within the tensor, of all that is stored for an item."""
    stored, entry = item.stored, item.entries[item.name]
    edited = None if edit is None else _edited(tensors, item, edit)
    if edited is not None:
        seed = zlib.crc32(f"{item.part}.{item.key}".encode())  # the same in any layout and order
        yield from _stored_as(item, edited, torch.Generator().manual_seed(seed))
    elif item.format is not None or entry.dtype != stored.entry.dtype:
        dtype = torch.float32 if item.format is not None else TORCH_DTYPES[entry.dtype]
        yield from _stored_as(item, tensors.value(stored, dtype, CPU), None)
    else:
        yield from _copied(tensors, item.name, stored.path, stored.name, stored.entry)
    for name, (side, side_entry) in item.sidecars.items():
        if edited is None or not name.endswith("weight_scale"):
            yield from _copied(tensors, name, stored.path, side, side_entry)


def _edited(tensors: TensorReader, item: Item, edit: Edit) -> Tensor | None:
    """Return the weight after the edit; None if it stays as it is."""
    stored = item.stored
    quantized = stored.entry.dtype not in ("BF16", "F16", "F32", "F64")
    value = tensors.value(stored, torch.float32 if quantized else TORCH_DTYPES[stored.entry.dtype], CPU)
    edited = edit(item.part, item.key, value)
    if edited is value:
        return None
    if edited.shape != value.shape:
        raise ValueError(f"the edit of {item.key} gave {list(edited.shape)}, not {list(value.shape)}")
    return edited


def _stored_as(
    item: Item, value: Tensor, generator: torch.Generator | None
) -> Iterator[tuple[str, Any, int]]:
    """Values in the dtype of the item's entries, quantized anew where that is 8-bit, with a new scale.

    generator: rounds 8-bit values at random, so that an edit smaller than half a step is kept on average.
    """
    entry = item.entries[item.name]
    format = next((name for name, (stored, _) in STORED_FORMATS.items() if stored == entry.dtype), None)
    scale_name = next((name for name in item.entries if name.endswith("weight_scale")), None)
    if scale_name is None:
        plain = value.to(TORCH_DTYPES[entry.dtype]) if format is None else rounded(value, format, generator)
        yield item.name, _bytes(plain), 0
        return
    if format is None:
        raise WeightsError(
            f"{item.stored.path}: '{item.stored.name}' is {entry.dtype} with a scale and cannot be edited; "
            "convert it to bf16 first"
        )
    scale = item.entries[scale_name]
    per: Literal["row", "tensor"] = "row" if scale.num_params > 1 else "tensor"
    quantized = quantize_weight(value, format, per, generator=generator)
    yield item.name, _bytes(quantized.values), 0
    yield scale_name, _bytes(quantized.scale.reshape(scale.shape).to(TORCH_DTYPES[scale.dtype])), 0


def _copied(
    tensors: TensorReader, name: str, path: Path, stored: str, entry: TensorEntry
) -> Iterator[tuple[str, bytes, int]]:
    offset = 0
    for piece in tensors.pieces(path, stored, entry, PIECE_BYTES):
        yield name, piece, offset
        offset += len(piece)


def _bytes(value: Tensor) -> memoryview:
    return value.contiguous().reshape(-1).view(torch.uint8).numpy().data


# --- what else a folder holds -----------------------------------------------------------------------

TOKENIZER_FILES = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "chat_template*")


def _write_companions(
    target: Path, source: ConvertSource, outputs: Sequence[OutputFile], layout: Layout
) -> list[Path]:
    """Write bundle defaults, text encoder, upsamplers, and what diffusers wants beside weights."""
    texts: dict[Path, Any] = {}
    if source.bundle:
        texts[Path("bundle.json")] = dict(source.bundle)
    if layout == "diffusers":
        texts |= _diffusers_texts(source, outputs)
    written = []
    for name, content in texts.items():
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace_text(path, json.dumps(content, indent=2) + "\n")
        written.append(path)
    for path, name in _copies(source, layout):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        written.append(_copy(path, target / name))
    return written


def _replace_text(path: Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.part")
    partial.write_text(text)
    os.replace(partial, path)


def _copy(path: Path, target: Path) -> Path:
    partial = target.with_name(f"{target.name}.part")
    shutil.copyfile(path, partial)
    os.replace(partial, target)
    return target


def _copies(source: ConvertSource, layout: Layout) -> Iterator[tuple[Path, Path]]:
    """Yield the files that are copied, and where to. A text encoder in a single file stays in place."""
    for path in source.extras:
        yield path, Path("latent_upscale_models" if layout == "kijai" else ".") / path.name
    if source.text is None:
        return
    folders = [source.text]
    if (source.text.parent / "tokenizer").is_dir():
        folders.append(source.text.parent / "tokenizer")
    for path in (path for folder in folders for path in sorted(folder.iterdir()) if path.is_file()):
        is_tokenizer = any(path.match(pattern) for pattern in TOKENIZER_FILES)
        if layout == "diffusers":
            yield path, Path("tokenizer" if is_tokenizer else "text_encoder") / path.name
        else:
            yield path, Path("text" if layout == "bundle" else "text_encoders/gemma") / path.name


def _diffusers_texts(source: ConvertSource, outputs: Sequence[OutputFile]) -> dict[Path, Any]:
    config, _ = completed(model_config(source.files), source.parts)
    projection = source.parts.get("text_projection", {}).get("video_aggregate_embed.weight")
    features = projection.entry.shape[-1] if projection is not None else 0
    num_states = features // config["transformer"]["caption_channels"]
    components = list(dict.fromkeys(output.path.parent.name for output in outputs))
    texts: dict[Path, Any] = {}
    for component in get_args(DiffusersComponent):
        if component in components:
            texts[Path(component) / "config.json"] = write_diffusers_config(component, config, num_states)
    for component in components:
        files = [output for output in outputs if output.path.parent.name == component]
        if len(files) > 1:
            name = Path(component) / "diffusion_pytorch_model.safetensors.index.json"
            texts[name] = _index(files)
    if len(components) == len(DIFFUSERS_PARTS):
        texts[Path("model_index.json")] = _model_index(source.text is not None)
        texts[Path("scheduler/scheduler_config.json")] = _scheduler(source.distilled)
    return texts


def _index(files: Sequence[OutputFile]) -> dict[str, Any]:
    where = {name: file.path.name for file in files for name in file.entries}
    return {
        "metadata": {"total_size": sum(file.num_bytes for file in files)},
        "weight_map": dict(sorted(where.items())),
    }


def _model_index(has_text: bool) -> dict[str, Any]:
    own = ("connectors", "vocoder")  # classes that diffusers keeps next to the pipeline
    index: dict[str, Any] = {"_class_name": "LTX2Pipeline"}
    for component, name in CLASSES.items():
        index[component] = ["ltx2" if component in own else "diffusers", name]
    index["scheduler"] = ["diffusers", "FlowMatchEulerDiscreteScheduler"]
    if has_text:
        index["text_encoder"] = ["transformers", "Gemma3ForConditionalGeneration"]
        index["tokenizer"] = ["transformers", "GemmaTokenizerFast"]
    return index


def _scheduler(distilled: bool) -> dict[str, Any]:
    """Published settings. Source: docs/model/checkpoints.md, "diffusers folders"."""
    return {
        "_class_name": "FlowMatchEulerDiscreteScheduler",
        "base_shift": 0.95,
        "max_shift": 2.05,
        "base_image_seq_len": 1024,
        "max_image_seq_len": 4096,
        "use_dynamic_shifting": not distilled,
        "shift_terminal": None if distilled else 0.1,
    }
