"""From files to a module with every weight in place, or an error that names what does not fit.

    files = [read_header(path) for path in paths]            # header.py: reads no tensor
    parts = find_parts(files)                                # layouts.py: names
    build = builder("transformer", parts, stored_config(files))
    model = load_part(build, parts, "transformer", dtype=torch.bfloat16)

A module is built on the meta device, checked key by key against the files' headers, and only then given
its tensors one by one: at no time does a second copy of the weights exist. A layer is held in
the run's dtype or in 8 bits, by the rule of storage.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from soundstage.errors import ConfigError, WeightsError
from soundstage.model.audio_vae import AudioVae
from soundstage.model.config import (
    AudioVaeConfig,
    ConnectorConfig,
    Header,
    TextProjectionConfig,
    TransformerConfig,
    VideoVaeConfig,
    VocoderConfig,
)
from soundstage.model.connector import Connector, FeatureExtractor
from soundstage.model.preview import TinyDecoder, TinyVaeConfig
from soundstage.model.transformer import Transformer
from soundstage.model.upsampler import LatentUpsampler
from soundstage.model.video_vae import VideoVae
from soundstage.model.vocoder import Vocoder
from soundstage.weights.configs import part_config, upsampler_config
from soundstage.weights.dtypes import check_dtypes
from soundstage.weights.four_bit import FourBitLinear
from soundstage.weights.header import read_header
from soundstage.weights.layouts import Part, PartTensors, StoredTensor, listing
from soundstage.weights.quantize import QuantizedLinear, from_stored, put, quantize_rows
from soundstage.weights.read import TensorReader
from soundstage.weights.storage import EightBit, Storage, eight_bit

Module = TypeVar("Module", bound=nn.Module)

MODULES: Mapping[type, Callable[[Any], nn.Module]] = {
    TransformerConfig: Transformer,
    ConnectorConfig: Connector,
    TextProjectionConfig: FeatureExtractor,
    VideoVaeConfig: VideoVae,
    AudioVaeConfig: AudioVae,
    VocoderConfig: Vocoder,
}


def builder(part: Part, parts: Mapping[Part, PartTensors], config: Header) -> Callable[[], nn.Module]:
    """Return what makes a part's module, see `configs.part_config`, whose errors it raises."""
    found = part_config(part, parts, config)
    make: Callable[[Any], nn.Module] = MODULES[type(found)]
    return lambda: make(found)


def load_part(
    build: Callable[[], Module],
    parts: Mapping[Part, PartTensors],
    part: Part,
    *,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cpu",
    storage: Storage = "full",
) -> Module:
    """Build a module and give it the tensors of one part, for inference.

    build: makes the module; called on the meta device, so it must not compute with its weights. dtype: of
    all floating-point weights but the scale-and-shift tables, which stay in float32; fp8 and int8 weights
    are multiplied by their scale. storage: which linear layers become a QuantizedLinear instead. Raises
    WeightsError naming every key that is missing, unexpected or misshapen.
    """
    module, tensors = open_part(build, parts, part)
    assign(module, tensors, dtype, torch.device(device), storage)
    return module


def open_part(
    build: Callable[[], Module], parts: Mapping[Part, PartTensors], part: Part
) -> tuple[Module, PartTensors]:
    """Return a part's module on the meta device and where its weights are, known to fit; reads none of them.

    Raises WeightsError as `load_part` does.
    """
    tensors = parts.get(part)
    if not tensors:
        found = ", ".join(sorted(parts)) or "nothing of LTX-2.3"
        raise WeightsError(f"no file holds the {part} (found: {found}); add the file that has it")
    check_dtypes(tensors)
    try:
        with torch.device("meta"):
            module = build()
    except (ValueError, TypeError, RuntimeError, ArithmeticError) as error:
        raise ConfigError(
            f"the config of the {part} describes no model that can be built ({error}); "
            "use the config of the checkpoint the weights came from"
        ) from error
    check_fit(module, tensors, part)
    return module.requires_grad_(False).eval(), tensors


def load_upsampler(
    path: Path, *, dtype: torch.dtype = torch.bfloat16, device: torch.device | str = "cpu"
) -> LatentUpsampler:
    """Return a latent upsampler from its file, for inference.

    Raises ConfigError for a file that does not say which one it is, WeightsError for one that does not fit.
    """
    file = read_header(path)
    config = upsampler_config(file)
    tensors = {name: StoredTensor(path, name, entry) for name, entry in file.tensors.items()}
    check_dtypes(tensors)
    with torch.device("meta"):
        module = LatentUpsampler(config)
    check_fit(module, tensors, "latent upsampler")
    assign(module, tensors, dtype, torch.device(device))
    return module.requires_grad_(False).eval()


def load_preview(
    path: Path, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> TinyDecoder:
    """Return the decoder of a tiny preview VAE from its file, for inference; an encoder in it is left alone.

    Raises WeightsError for a file of another layout, or one that does not fit it.
    """
    tensors = {}
    for name, entry in read_header(path).tensors.items():
        _, found, key = name.replace("decoder.layers.", "decoder.").partition("decoder.")
        if found:
            tensors[found + key] = StoredTensor(path, name, entry)
    check_dtypes(tensors)
    config = TinyVaeConfig.from_shapes({key: stored.entry.shape for key, stored in tensors.items()})
    with torch.device("meta"):
        module = TinyDecoder(config)
    check_fit(module, tensors, "preview VAE")
    assign(module, tensors, dtype, torch.device(device))
    return module.requires_grad_(False).eval()


def check_fit(module: nn.Module, tensors: PartTensors, part: str) -> None:
    """Compare a module's keys and shapes with stored ones; raise WeightsError listing all differences."""
    wanted = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    misshapen = [
        f"{key} {list(tensors[key].entry.shape)} where {list(shape)} is needed"
        for key, shape in wanted.items()
        if key in tensors and tensors[key].entry.shape != shape
    ]
    differences = {
        "missing": [key for key in wanted if key not in tensors],
        "unexpected": [key for key in tensors if key not in wanted],
        "of another shape": misshapen,
    }
    problems = [f"{len(names)} {kind}: {listing(names)}" for kind, names in differences.items() if names]
    if problems:
        paths = ", ".join(sorted({str(tensor.path) for tensor in tensors.values()}))
        raise WeightsError(
            f"{paths} does not fit the {part}: {'; '.join(problems)}. "
            "Get the complete LTX-2.3 file, or the config it was saved with"
        )


def assign(
    module: nn.Module,
    tensors: PartTensors,
    dtype: torch.dtype,
    device: torch.device,
    storage: Storage = "full",
) -> None:
    """Replace a meta module's tensors by stored ones that fit it."""
    small = eight_bit_layers(module, tensors, storage)
    with TensorReader() as files:
        state = {
            key: files.value(tensor, torch.float32 if "scale_shift_table" in key else dtype, device)
            for key, tensor in tensors.items()
            if not (key.endswith(".weight") and key.removesuffix(".weight") in small)
        }
        module.load_state_dict(state, strict=not small, assign=True)
        for name, how in small.items():
            bias = module.get_parameter(f"{name}.bias") if f"{name}.bias" in tensors else None
            put(module, name, _read_eight_bit(files, tensors[f"{name}.weight"], how, bias, device))
    _assert_whole([*module.named_buffers(), *module.named_parameters()])


def _read_eight_bit(
    files: TensorReader, stored: StoredTensor, how: EightBit, bias: torch.Tensor | None, device: torch.device
) -> QuantizedLinear:
    if how.format == "nf4":
        return FourBitLinear(files.value(stored, torch.float32, device), bias)
    if not how.kept:
        weight = quantize_rows(files.value(stored, torch.float32, device), how.format)
        return QuantizedLinear(weight, bias, native=how.native)
    values, scale, input_scale = files.quantized(stored, device)
    return from_stored(values, scale, bias, input_scale=input_scale, native=how.native, name=stored.name)


def eight_bit_layers(module: nn.Module, tensors: PartTensors, storage: Storage) -> dict[str, EightBit]:
    """Return the linear layers of a module that are held in 8 bits, by name."""
    found = {}
    for name, layer in module.named_modules():
        stored = tensors.get(f"{name}.weight") if isinstance(layer, nn.Linear) else None
        how = None if stored is None else eight_bit(storage, f"{name}.weight", stored.entry.dtype)
        if how is not None:
            found[name] = how
    return found


def _assert_whole(tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
    left = [name for name, value in tensors if value.is_meta]
    assert not left, f"buffers that no file stores must be made in forward: {left}"
