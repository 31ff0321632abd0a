"""Gemma 3 on disk, in every form people have it: its config, where its weights are, and its tokenizer.

    form                        config                tokenizer
    Hugging Face folder         config.json           tokenizer.json, or tokenizer.model
    the same within a diffusers model                 in the folder `tokenizer` beside it
    one safetensors file        shapes                embedded tokenizer.model, or a file beside it
    GGUF                        shapes                its lists of pieces

A file that stores no config is of Gemma 3 12B or of its proportions: what shapes do not tell (windows, rotary
bases, eps) is published. Names of weights are translated in weights/layouts.py, as for every part.

Source: spec of the LTX-2.3 text side, section 1.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from soundstage.errors import ConfigError, WeightsError
from soundstage.text.pieces import Piece, build_tokenizer, read_gguf_pieces, read_pieces
from soundstage.weights.header import WeightsFile, read_header, shards
from soundstage.weights.layouts import SPIECE, StoredTensor, find_gemma

TEXT_MODEL = "gemma3_text"
WITH_VISION = "gemma3"

# What no shape tells. The whole model, of which a layer in six sees everything, is Gemma 3 12B.
UNSHAPED: dict[str, Any] = {
    "sliding_window": 1024,
    "sliding_window_pattern": 6,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 131_072,
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
        "full_attention": {"rope_type": "linear", "rope_theta": 1_000_000.0, "factor": 8.0},
    },
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
}
_LAYER = re.compile(r"^layers\.(\d+)\.")


@dataclass(frozen=True)
class GemmaSource:
    """config: a Gemma3TextConfig. tensors: by their names in Gemma3TextModel.

    read_tokenizer: makes the tokenizers.Tokenizer, which takes seconds for one that is built from pieces.
    """

    config: Any
    tensors: Mapping[str, StoredTensor]
    read_tokenizer: Callable[[], Any]


def open_gemma(path: Path) -> GemmaSource:
    """Read headers and config of a folder or file.

    Raises ConfigError if it is another model, WeightsError if something is missing or damaged.
    """
    if path.is_dir():
        config = _folder_config(path / "config.json")
        return GemmaSource(config, gemma_tensors(path), partial(_folder_tokenizer, path))
    files = [read_header(file) for file in shards(path)]
    if path.suffix == ".gguf" and files[0].metadata.get("general.architecture") != WITH_VISION:
        found = files[0].metadata.get("general.architecture")
        raise ConfigError(f"{path} describes a model of type '{found}'; the text encoder is Gemma 3")
    tensors = find_gemma(files)
    return GemmaSource(shaped_config(path, tensors), tensors, partial(_file_tokenizer, files))


def gemma_tensors(path: Path) -> dict[str, StoredTensor]:
    """Where the language model's weights are, from the headers of a folder or file.

    Raises WeightsError if something is missing or damaged.
    """
    return find_gemma(
        [read_header(file) for file in (_weights_files(path) if path.is_dir() else shards(path))]
    )


def check_headers(path: Path, width: int, num_states: int) -> None:
    """Whether a folder or file holds all layers of a Gemma 3 of this width and number of states, by headers.

    The quick check of a text encoder that may not be needed: `Gemma.open` compares it with the model's own
    structure, but has to import transformers. Raises WeightsError if something is missing or damaged,
    ConfigError if it is of another size.
    """
    tensors = gemma_tensors(path)
    shapes: dict[int, dict[str, tuple[int, ...]]] = {}
    for key, tensor in tensors.items():
        match = _LAYER.match(key)
        if match is not None:
            shapes.setdefault(int(match[1]), {})[key[match.end() :]] = tensor.entry.shape
    embedding = tensors.get("embed_tokens.weight")
    if embedding is None or "norm.weight" not in tensors or 0 not in shapes:
        raise WeightsError(f"{path} is not a complete Gemma 3; get its files again")
    found = (embedding.entry.shape[-1], max(shapes) + 2)
    if found != (width, num_states):
        raise ConfigError(
            f"the text encoder {path} has {found[1]} states of width {found[0]}; this model's projection "
            f"reads {num_states} of width {width}. Use the Gemma 3 that the model was made with"
        )
    for layer in range(max(shapes) + 1):
        if shapes.get(layer) != shapes[0]:
            raise WeightsError(
                f"{path}: layer {layer} of Gemma has not the tensors and shapes of layer 0; "
                "get its files again"
            )


def shaped_config(path: Path, tensors: Mapping[str, StoredTensor]) -> Any:
    """Gemma3TextConfig of weights that come without a config. path: for errors."""

    def shape(key: str) -> tuple[int, ...]:
        if key not in tensors:
            raise WeightsError(f"{path} has no '{key}', so it is not a complete Gemma 3; get its files again")
        return tensors[key].entry.shape

    from transformers import Gemma3TextConfig

    vocabulary, width = shape("embed_tokens.weight")
    head_dim = shape("layers.0.self_attn.q_norm.weight")[0]
    layers = [int(match[1]) for match in map(_LAYER.match, tensors) if match]
    return Gemma3TextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=shape("layers.0.mlp.gate_proj.weight")[0],
        num_hidden_layers=max(layers) + 1,
        num_attention_heads=shape("layers.0.self_attn.q_proj.weight")[0] // head_dim,
        num_key_value_heads=shape("layers.0.self_attn.k_proj.weight")[0] // head_dim,
        head_dim=head_dim,
        query_pre_attn_scalar=head_dim,
        **UNSHAPED,
    )


def _folder_config(path: Path) -> Any:
    """Gemma3TextConfig of a folder's config.json."""
    try:
        config = json.loads(path.read_text())
        kind = config["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is not the config of a model ({error}); get the Gemma 3 folder") from error
    if kind not in (TEXT_MODEL, WITH_VISION):
        raise ConfigError(f"{path} describes a model of type '{kind}'; the text encoder is Gemma 3")
    from transformers import Gemma3TextConfig

    return Gemma3TextConfig(**(config["text_config"] if kind == WITH_VISION else config))


def _weights_files(folder: Path) -> list[Path]:
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise WeightsError(f"{folder} has no .safetensors file; get the Gemma 3 folder with its weights")
    return list(dict.fromkeys(shard for path in paths for shard in shards(path)))


def _folder_tokenizer(folder: Path) -> Any:
    """From tokenizer.json or tokenizer.model in the folder or, in a diffusers model, in the one beside it."""
    from tokenizers import Tokenizer

    for place in (folder, folder.parent / "tokenizer"):
        if (place / "tokenizer.json").is_file():
            try:
                return Tokenizer.from_file(str(place / "tokenizer.json"))
            except Exception as error:  # the package raises nothing more exact
                raise WeightsError(
                    f"{place / 'tokenizer.json'} is not a tokenizer ({error}); get it again"
                ) from error
        if (place / "tokenizer.model").is_file():
            return _built(place / "tokenizer.model", read_pieces((place / "tokenizer.model").read_bytes()))
    raise WeightsError(
        f"there is no file {folder / 'tokenizer.json'}; get the Gemma 3 folder with its tokenizer"
    )


def _file_tokenizer(files: list[WeightsFile]) -> Any:
    holder = next((file for file in files if SPIECE in file.tensors), None)
    if holder is not None:
        return _built(holder.path, read_pieces(holder.read(SPIECE)))
    path = files[0].path
    if path.suffix == ".gguf":
        return _built(path, read_gguf_pieces(path))
    try:
        return _folder_tokenizer(path.parent)
    except WeightsError as error:
        raise WeightsError(
            f"{path} carries no tokenizer ('{SPIECE}'), and there is none beside it; put Gemma 3's "
            "tokenizer.json there, or get the file that ComfyUI uses"
        ) from error


def _built(path: Path, pieces: list[Piece]) -> Any:
    try:
        return build_tokenizer(pieces)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
