"""From files to a module with every weight in place, or an error that names what does not fit.

    files = [read_header(path) for path in paths]            # header.py: reads no tensor
    parts = find_parts(files)                                # layouts.py: names
    build = builder("transformer", parts, stored_config(files))
    model = load_part(build, parts, "transformer", dtype=torch.bfloat16)

A module is built on the meta device, checked key by key against the files' headers, and only then given
its tensors one by one: at no time does a second copy of the weights exist.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from soundstage.errors import WeightsError
from soundstage.model.audio_vae import AudioVae
from soundstage.model.config import (
    AudioVaeConfig,
    ConnectorConfig,
    Header,
    TextProjectionConfig,
    TransformerConfig,
    VideoVaeConfig,
    VocoderConfig,
    audio_vae_header,
    transformer_header,
    video_vae_header,
    vocoder_header,
)
from soundstage.model.connector import Connector, FeatureExtractor
from soundstage.model.transformer import Transformer
from soundstage.model.video_vae import VideoVae
from soundstage.model.vocoder import Vocoder
from soundstage.weights.header import WeightsFile
from soundstage.weights.layouts import Part, PartTensors, StoredTensor, listing

Module = TypeVar("Module", bound=nn.Module)

FLOATS = frozenset({"F16", "BF16", "F32", "F64"})
FP8 = frozenset({"F8_E4M3", "F8_E5M2"})
TEXT_FEATURES = 3840 * 49  # Gemma 3 12B: hidden size times its 48 layers and the embedding


def stored_config(files: Sequence[WeightsFile]) -> dict[str, Any]:
    """The sections of all files' configs. Raises WeightsError if two files disagree on one."""
    sections: dict[str, Any] = {}
    origin: dict[str, Path] = {}
    for file in files:
        for name, section in (file.config or {}).items():
            if name in sections and sections[name] != section:
                raise WeightsError(
                    f"{file.path} and {origin[name]} hold different '{name}' configs; "
                    "pass files of one model only"
                )
            sections[name], origin[name] = section, file.path
    return sections


def published_config() -> dict[str, Any]:
    """The 22B model's config, for split files of third parties, many of which store none.

    Weights of any other size then fail on their shapes.
    """
    return {
        "transformer": transformer_header(),
        "vae": video_vae_header(),
        "audio_vae": audio_vae_header(),
        "vocoder": vocoder_header(),
    }


def builder(part: Part, parts: Mapping[Part, PartTensors], config: Header) -> Callable[[], nn.Module]:
    """What makes a part's module, by the config and by what only the tensors tell.

    A transformer file may hold one stream only; the text projection's width gives the number of the text
    encoder's layers. Raises ConfigError for a config that is incomplete or not of LTX-2.3.
    """
    tensors = parts.get(part, {})
    match part:
        case "transformer":
            has_video, has_audio = "patchify_proj.weight" in tensors, "audio_patchify_proj.weight" in tensors
            transformer = TransformerConfig.from_header(
                config, video=has_video or not has_audio, audio=has_audio or not has_video
            )
            return lambda: Transformer(transformer)
        case "video_connector" | "audio_connector":
            connector = ConnectorConfig.from_header(config, "video" if part == "video_connector" else "audio")
            return lambda: Connector(connector)
        case "text_projection":
            stored = tensors.get("video_aggregate_embed.weight")
            columns = stored.entry.shape[-1] if stored else TEXT_FEATURES
            projection = TextProjectionConfig.from_header(config, columns)
            return lambda: FeatureExtractor(projection)
        case "video_vae":
            video_vae = VideoVaeConfig.from_header(config)
            return lambda: VideoVae(video_vae)
        case "audio_vae":
            audio_vae = AudioVaeConfig.from_header(config)
            return lambda: AudioVae(audio_vae)
        case "vocoder":
            vocoder = VocoderConfig.from_header(config)
            return lambda: Vocoder(vocoder)


def load_part(
    build: Callable[[], Module],
    parts: Mapping[Part, PartTensors],
    part: Part,
    *,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cpu",
) -> Module:
    """Build a module and give it the tensors of one part, for inference.

    build: makes the module; called on the meta device, so it must not compute with its weights. dtype: of
    all floating-point weights but the scale-and-shift tables, which stay in float32; fp8 weights are
    multiplied by their scale. Raises WeightsError naming every key that is missing, unexpected or misshapen.
    """
    tensors = parts.get(part)
    if not tensors:
        found = ", ".join(sorted(parts)) or "nothing of LTX-2.3"
        raise WeightsError(f"no file holds the {part} (found: {found}); add the file that has it")
    check_dtypes(tensors)
    with torch.device("meta"):
        module = build()
    check_fit(module, tensors, part)
    assign(module, tensors, dtype, torch.device(device))
    return module.requires_grad_(False).eval()


def check_dtypes(tensors: PartTensors) -> None:
    """Raise WeightsError for quantized storage that is not read here."""
    for tensor in tensors.values():
        if tensor.entry.dtype not in FLOATS | FP8:
            raise WeightsError(
                f"{tensor.path}: '{tensor.name}' is stored as {tensor.entry.dtype}, a quantization "
                "this engine does not read; get the BF16 or FP8 file"
            )


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


def assign(module: nn.Module, tensors: PartTensors, dtype: torch.dtype, device: torch.device) -> None:
    """Replace a meta module's tensors by stored ones that fit it."""
    with ExitStack() as stack:
        opened: dict[Path, Any] = {}
        state = {}
        for key, tensor in tensors.items():
            if tensor.path not in opened:
                opened[tensor.path] = stack.enter_context(_open(tensor.path, device))
            kept = torch.float32 if "scale_shift_table" in key else dtype
            state[key] = _read(opened[tensor.path], tensor, kept)
        module.load_state_dict(state, strict=True, assign=True)
    left = [name for name, value in module.named_buffers() if value.is_meta]
    assert not left, f"buffers that no file stores must be made in forward: {left}"


def _open(path: Path, device: torch.device) -> Any:
    try:
        return safe_open(path, framework="pt", device=str(device))
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} cannot be read ({error}); download or copy it again") from error


def _read(file: Any, stored: StoredTensor, dtype: torch.dtype) -> Tensor:
    value: Tensor = file.get_tensor(stored.name)
    if stored.scale is None:
        return value.to(dtype)
    scale: Tensor = file.get_tensor(stored.scale)
    if scale.numel() != 1 or not torch.isfinite(scale).all() or scale.item() <= 0:
        raise WeightsError(
            f"{stored.path}: the scale '{stored.scale}' is not one positive number "
            f"(shape {list(scale.shape)}); get a file with one scale per weight"
        )
    return (value.float() * scale.float().reshape(())).to(dtype)
