"""Gemma 3 on disk, in every form people have it: its config, where its weights are, and its tokenizer.

    form                        config                tokenizer
    Hugging Face folder         config.json           tokenizer.json, or tokenizer.model
    the same within a diffusers model                 in the folder `tokenizer` beside it
    one safetensors file        shapes                embedded tokenizer.model, or a file beside it
    GGUF                        shapes                its lists of pieces

A file that stores no config is of Gemma 3 12B or of its proportions: what shapes do not tell (windows, rotary
bases, eps) is published. Names of weights are translated in weights/layouts.py, as for every part.

Source: docs/model/text.md, "Gemma 3".
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from soundstage.errors import ConfigError, SoundstageError, WeightsError
from soundstage.text.pieces import Piece, build_tokenizer, read_gguf_pieces, read_pieces
from soundstage.weights.dtypes import check_dtypes
from soundstage.weights.entry import WeightsFile
from soundstage.weights.foreign import quantizer_in_config
from soundstage.weights.gemma_names import SPIECE
from soundstage.weights.header import read_header, shards
from soundstage.weights.layouts import StoredTensor, find_gemma

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
BEGINNINGS = ("<bos>", "<s>")  # what Gemma calls the start of a text, and what SentencePiece does
MAX_SPARE_ROWS = 64  # Gemma 3's embedding has that many more rows than its tokenizer has pieces
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
    if path.is_dir():  # it may say itself that it is another model
        _stored_config(path / "config.json")
    tensors = gemma_tensors(path)
    if path.is_dir():
        config = _folder_config(path / "config.json", tensors)
        return GemmaSource(config, tensors, partial(_folder_tokenizer, path))
    files = [read_header(file) for file in shards(path)]
    return GemmaSource(shaped_config(path, tensors), tensors, partial(_file_tokenizer, files))


def gemma_tensors(path: Path) -> dict[str, StoredTensor]:
    """Return where the language model's weights are, from the headers of a folder or file.

    Raises WeightsError if something is missing or damaged, ConfigError for a GGUF file of another model.
    """
    files = [read_header(file) for file in (gemma_files(path) if path.is_dir() else shards(path))]
    for file in files:
        found = file.metadata.get("general.architecture")
        if file.path.suffix == ".gguf" and found != WITH_VISION:
            raise ConfigError(f"{file.path} describes a model of type '{found}'; the text encoder is Gemma 3")
    return find_gemma(files)


def gemma_files(folder: Path) -> list[Path]:
    """Return the weights of a folder, there or not, as transformers chooses them.

    One whole file by its usual name; else the shards that an index lists, or that are numbered; else what
    there is. An index beside a whole file, adapters and other files are left alone. Raises WeightsError for
    an index that is no index.
    """
    whole = folder / "model.safetensors"
    if whole.exists() or whole.is_symlink():
        return [whole]
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return [folder / name for name in _listed_shards(index)]
    found = sorted(folder.glob("*.safetensors"))
    numbered = [path for path in found if shards(path) != [path]]
    paths = numbered or [path for path in found if not path.name.startswith("adapter_")]
    return list(dict.fromkeys(shard for path in paths for shard in shards(path))) or [whole]


def _listed_shards(index: Path) -> list[str]:
    content = _json(index)
    names = content.get("weight_map")
    if not isinstance(names, dict) or not names or not all(_is_file_name(name) for name in names.values()):
        raise WeightsError(f"{index} lists no weights (it has no weight_map); get it again")
    return sorted(set(names.values()))


def _is_file_name(name: Any) -> bool:
    return isinstance(name, str) and name.endswith(".safetensors") and Path(name).name == name


def check_headers(path: Path, width: int, num_states: int) -> None:
    """Return whether a folder or file holds all of a Gemma 3 of this width and number of states, by headers.

    The quick check of a text encoder that may not be needed: `Gemma.open` compares it with the model's own
    structure, but has to import transformers. Of config and tokenizer too. Raises WeightsError if something
    is missing or damaged, ConfigError if it is of another model or size.
    """
    if path.is_dir():  # it may say itself that it is another model
        _stored_config(path / "config.json")
    tensors = gemma_tensors(path)
    check_dtypes(tensors)
    shapes: dict[int, dict[str, tuple[int, ...]]] = {}
    for key, tensor in tensors.items():
        match = _LAYER.match(key)
        if match is not None:
            shapes.setdefault(int(match[1]), {})[key[match.end() :]] = tensor.entry.shape
    embedding = tensors.get("embed_tokens.weight")
    if (
        embedding is None
        or len(embedding.entry.shape) != 2
        or "norm.weight" not in tensors
        or 0 not in shapes
    ):
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
    if path.is_dir():
        _check_config(path / "config.json", tensors)
    _check_tokenizer_file(path)


def _check_tokenizer_file(path: Path) -> None:
    """Return whether the tokenizer's file is there and looks like one; reading it whole takes seconds."""
    if path.is_file() and (path.suffix == ".gguf" or SPIECE in read_header(path).tensors):
        return
    file = tokenizer_file(path if path.is_dir() else path.parent)
    if not file.is_file():
        raise WeightsError(
            f"{path} carries no tokenizer, and there is no file {file}; put Gemma 3's tokenizer.json there"
        )
    with file.open("rb") as opened:
        start = opened.read(64)
        opened.seek(max(0, file.stat().st_size - 64))
        end = opened.read()
    if file.suffix == ".json" and not (start.lstrip()[:1] == b"{" and end.rstrip()[-1:] == b"}"):
        raise WeightsError(f"{file} {_instead_of_json(start)}; get Gemma 3's tokenizer.json again")
    if file.suffix == ".model" and start[:1] != b"\n":  # the first piece, in a SentencePiece model
        raise WeightsError(f"{file} {_instead_of_json(start)}; get Gemma 3's tokenizer.model again")


def _instead_of_json(start: bytes) -> str:
    if start.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the file itself"
    if start.lstrip().startswith(b"<"):
        return "is a web page"
    return "is empty" if not start.strip() else "is cut short or damaged"


def tokenizer_file(folder: Path) -> Path:
    """Return the tokenizer of a text encoder's folder; in a diffusers model it has a folder of its own."""
    places = [
        place / name
        for place in (folder, folder.parent / "tokenizer")
        for name in ("tokenizer.json", "tokenizer.model")
    ]
    return next((path for path in places if path.is_file()), places[0])


def shaped_config(path: Path, tensors: Mapping[str, StoredTensor]) -> Any:
    """Gemma3TextConfig of weights that come without a config. path: for errors."""
    sizes = _sizes(path, tensors)
    from transformers import Gemma3TextConfig

    try:
        return Gemma3TextConfig(**sizes, query_pre_attn_scalar=sizes["head_dim"], **UNSHAPED)
    except Exception as error:  # the package's own checks raise errors of many kinds
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path} has not the shapes of Gemma 3 ({reason}); get its files again") from error


def _sizes(path: Path, tensors: Mapping[str, StoredTensor]) -> dict[str, int]:
    """Return the config values that shapes tell, by transformers' names."""

    def shape(key: str, axes: int) -> tuple[int, ...]:
        if key not in tensors:
            raise WeightsError(f"{path} has no '{key}', so it is not a complete Gemma 3; get its files again")
        found = tensors[key].entry.shape
        if len(found) != axes or 0 in found:
            raise WeightsError(f"{path}: '{key}' has the shape {list(found)}; get Gemma 3's files again")
        return found

    vocabulary, width = shape("embed_tokens.weight", 2)
    (head_dim,) = shape("layers.0.self_attn.q_norm.weight", 1)
    layers = [int(match[1]) for match in map(_LAYER.match, tensors) if match]
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": shape("layers.0.mlp.gate_proj.weight", 2)[0],
        "num_hidden_layers": max(layers) + 1,
        "num_attention_heads": shape("layers.0.self_attn.q_proj.weight", 2)[0] // head_dim,
        "num_key_value_heads": shape("layers.0.self_attn.k_proj.weight", 2)[0] // head_dim,
        "head_dim": head_dim,
    }


def _folder_config(path: Path, tensors: Mapping[str, StoredTensor]) -> Any:
    """Gemma3TextConfig of a folder's config.json."""
    stored = _check_config(path, tensors)
    from transformers import Gemma3TextConfig

    try:
        return Gemma3TextConfig(**stored)
    except Exception as error:  # the package's own checks raise errors of many kinds
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"{path} is no config of Gemma 3 ({reason}); get the Gemma 3 folder again"
        ) from error


def _stored_config(path: Path) -> dict[str, Any]:
    """Return the language model's section of a config.json."""
    config = _json(path, ConfigError)
    kind = config.get("model_type")
    if kind not in (TEXT_MODEL, WITH_VISION):
        raise ConfigError(f"{path} describes a model of type '{kind}'; the text encoder is Gemma 3")
    quantizer = quantizer_in_config(config)
    if quantizer is not None:
        raise ConfigError(
            f"{path} says that the weights are quantized with {quantizer}, which this engine does not read; "
            "use Gemma 3 12B in BF16, in FP8 (gemma_3_12B_it_fp8_scaled.safetensors) or as GGUF"
        )
    stored = config.get("text_config") if kind == WITH_VISION else config
    if not isinstance(stored, dict):
        raise ConfigError(f"{path} has no text_config; get the Gemma 3 folder again")
    return stored


def _check_config(path: Path, tensors: Mapping[str, StoredTensor]) -> dict[str, Any]:
    """Return the stored config, all of whose sizes are the weights'. Keys it leaves out have defaults."""
    stored, sizes = _stored_config(path), _sizes(path, tensors)
    for key, found in sizes.items():
        if key in stored and stored[key] != found:
            raise ConfigError(
                f"{path} has {key}={stored[key]!a:.60}, but the weights beside it have {found}; "
                "get the config and the weights of one Gemma 3"
            )
    kinds = stored.get("layer_types")
    if kinds is not None and (not isinstance(kinds, list) or len(kinds) != sizes["num_hidden_layers"]):
        raise ConfigError(
            f"{path} has layer_types for another number of layers than the {sizes['num_hidden_layers']} of "
            "the weights; get the config and the weights of one Gemma 3"
        )
    return stored


def _json(path: Path, error_type: type[SoundstageError] = WeightsError) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise error_type(f"there is no {path} that can be read; get the Gemma 3 folder") from error
    except (ValueError, RecursionError) as error:
        with path.open("rb") as opened:
            reason = _instead_of_json(opened.read(64))
        raise error_type(f"{path} is not JSON: it {reason}; get the Gemma 3 folder again") from error
    if not isinstance(content, dict):
        raise error_type(f"{path} holds no JSON object; get the Gemma 3 folder again")
    return content


def _folder_tokenizer(folder: Path) -> Any:
    """From tokenizer.json or tokenizer.model in the folder or, in a diffusers model, in the one beside it."""
    from tokenizers import Tokenizer

    file = tokenizer_file(folder)
    if not file.is_file():
        raise WeightsError(f"there is no file {file}; get the Gemma 3 folder with its tokenizer")
    if file.suffix == ".model":
        return _built(file, partial(read_pieces, file.read_bytes()))
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the package raises nothing more exact
        raise WeightsError(f"{file} is not a tokenizer ({error}); get it again") from error


def _file_tokenizer(files: list[WeightsFile]) -> Any:
    holder = next((file for file in files if SPIECE in file.tensors), None)
    if holder is not None:
        return _built(holder.path, lambda: read_pieces(holder.read(SPIECE)))
    path = files[0].path
    if path.suffix == ".gguf":
        return _built(path, partial(read_gguf_pieces, path))
    try:
        return _folder_tokenizer(path.parent)
    except WeightsError as error:
        raise WeightsError(
            f"{path} carries no tokenizer ('{SPIECE}'), and there is none beside it; put Gemma 3's "
            "tokenizer.json there, or get the file that ComfyUI uses"
        ) from error


def _built(path: Path, read: Callable[[], list[Piece]]) -> Any:
    try:
        return build_tokenizer(read())
    except (ConfigError, WeightsError) as error:
        raise type(error)(f"{path}: {error}") from error


def check_tokenizer(path: Path, tokenizer: Any, config: Any) -> None:
    """Return whether a tokenizer's vocabulary is the one that the weights have rows for.

    Raises ConfigError for another model's. path: for errors.
    """
    size, rows, start = tokenizer.get_vocab_size(), config.vocab_size, config.bos_token_id
    if size > rows or size < rows - MAX_SPARE_ROWS:
        raise ConfigError(
            f"the tokenizer of {path} knows {size:,} pieces where the text encoder has {rows:,} rows; "
            "use the tokenizer of the same Gemma 3"
        )
    if tokenizer.id_to_token(start) not in BEGINNINGS:
        raise ConfigError(
            f"the tokenizer of {path} has '{tokenizer.id_to_token(start)}' as piece {start}, where the text "
            f"encoder expects {BEGINNINGS[0]}; use the tokenizer of the same Gemma 3"
        )
