"""Write full-size files of LTX-2.3 with random values, as a user of the split layout has them on disk.

    python -m benchmarks.random_files FOLDER               # 41 GB, names as of the catalogue
    python -m benchmarks.random_files FOLDER --lora 8      # and a LoRA of rank 8 for every linear layer
    python -m benchmarks.random_files FOLDER --blocks 2 --text-layers 2     # a cut that says so in its config

Names, shapes and dtypes are those of Kijai's split files and of ComfyUI's single file of Gemma 3 12B (without
its vision half, which nothing here reads): the linear layers of all transformer blocks but the first, and of
Gemma's layers, in FP8 with one scale a weight; the rest in BF16, tables and scales in F32. No file says which
model it is, as the real ones do not.

Values are normal, of standard deviation fan_in ** -0.5 and near 1 for norms, so activations stay finite. They
come from one pool of numbers, taken from another place for each tensor: as fast as the disk, and the same for
the same names. A piece of a tensor is in memory at a time. A file gets its name when it is whole, and is left
alone when it is there; the same command therefore goes on after an interruption.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shutil
import struct
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, islice, product
from pathlib import Path
from string import ascii_lowercase, printable
from typing import Any

import torch
from torch import Tensor

from soundstage.errors import WeightsError
from soundstage.library.convert_plan import OFFICIAL_PREFIXES
from soundstage.model.published import transformer_header
from soundstage.text.pieces import (
    BYTE,
    BYTE_PAIRS,
    CONTROL,
    DUMMY_PREFIX,
    NORMAL,
    NORMALIZER,
    PIECE_KIND,
    PIECE_SCORE,
    PIECE_TEXT,
    PIECES,
    REMOVE_SPACES,
    SPACE,
    TRAINER,
    TRAINER_ALGORITHM,
    UNKNOWN,
    Piece,
)
from soundstage.weights.configs import published_config
from soundstage.weights.entry import TensorEntry
from soundstage.weights.gemma_names import SPIECE
from soundstage.weights.header import header_bytes, laid_out
from soundstage.weights.layouts import Part, PartTensors, StoredTensor
from soundstage.weights.load import builder
from soundstage.weights.read import TORCH_DTYPES
from soundstage.weights.storage import TARGET

MODEL = "ltx-2.3-22b-distilled"
TRANSFORMER_FILE = f"diffusion_models/{MODEL}_transformer_only_fp8_scaled.safetensors"
PROJECTION_FILE = "text_encoders/ltx-2.3_text_projection_bf16.safetensors"
GEMMA_FILE = "text_encoders/gemma_3_12B_it_fp8_scaled.safetensors"
VIDEO_VAE_FILE = "vae/LTX23_video_vae_bf16.safetensors"
AUDIO_VAE_FILE = "vae/LTX23_audio_vae_bf16.safetensors"
LORA_FILE = "loras/random_rank{rank}.safetensors"

POOL_VALUES = 16_777_259  # prime, so that rows of a weight do not repeat
PIECE_VALUES = 1 << 23
SPARE_BYTES = 2_000_000_000
FP8_SCALE = 1 / 100.0  # of the pool in e4m3, whose largest number is 448
GAIN = {"lora_B": 0.1}  # smaller than a weight of its shape, by a part of the name
DIFFUSION: tuple[Part, ...] = ("transformer", "video_connector", "audio_connector")
BF16_BLOCK = "transformer_blocks.0."
COMFY_QUANT = json.dumps({"format": "float8_e4m3fn"}).encode()

Progress = Callable[[str, int, int], None]  # file, bytes done, bytes in all


@dataclass(frozen=True)
class GemmaSizes:
    """The sizes of Gemma 3 12B. Its vocabulary has fewer pieces than its embedding has rows."""

    width: int = 3840
    num_layers: int = 48
    inner: int = 15360
    num_heads: int = 16
    num_kv_heads: int = 8
    head_dim: int = 256
    rows: int = 262_208
    pieces: int = 262_144


@dataclass(frozen=True)
class RandomFile:
    """One file to write. given: bytes of the tensors whose values are not random."""

    path: str
    tensors: Mapping[str, TensorEntry]
    given: Mapping[str, bytes] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def placed(self) -> dict[str, TensorEntry]:
        return laid_out(self.tensors)

    @cached_property
    def header(self) -> bytes:
        return header_bytes(self.placed, self.metadata)

    @property
    def num_bytes(self) -> int:
        return len(self.header) + sum(entry.num_bytes for entry in self.tensors.values())


# --- what is written --------------------------------------------------------------------------------


def model_files(
    config: Mapping[str, Any], gemma: GemmaSizes, *, says_config: bool = False
) -> list[RandomFile]:
    """Return the five files of a split model.

    config: sections as in published_config. says_config: store them in the files.
    """
    parts: dict[Part, dict[str, TensorEntry]] = {
        part: _shapes(part, config, gemma.width * (gemma.num_layers + 1)) for part in OFFICIAL_PREFIXES
    }
    metadata = {"config": json.dumps(dict(config))} if says_config else {}
    model, sound = _together(parts, DIFFUSION), _together(parts, ("audio_vae", "vocoder"))
    quantized = [OFFICIAL_PREFIXES["transformer"] + key for key in parts["transformer"] if _is_fp8(key)]
    return [
        RandomFile(TRANSFORMER_FILE, *_in_fp8(model, quantized), metadata),
        RandomFile(PROJECTION_FILE, _together(parts, ("text_projection",))),
        gemma_file(gemma),
        RandomFile(VIDEO_VAE_FILE, parts["video_vae"], metadata=metadata),
        RandomFile(AUDIO_VAE_FILE, sound, metadata=metadata),
    ]


def _together(
    parts: Mapping[Part, Mapping[str, TensorEntry]], wanted: Sequence[Part]
) -> dict[str, TensorEntry]:
    return {OFFICIAL_PREFIXES[part] + key: entry for part in wanted for key, entry in parts[part].items()}


def _shapes(part: Part, config: Mapping[str, Any], text_features: int = 0) -> dict[str, TensorEntry]:
    """Return a part's keys, shapes and dtypes. text_features: columns of the text projection."""
    entry = TensorEntry("BF16", (1, text_features))
    known: dict[Part, PartTensors] = {}
    if part == "text_projection":
        known[part] = {"video_aggregate_embed.weight": StoredTensor(Path(), "", entry)}
    with torch.device("meta"):
        state = builder(part, known, config)().state_dict()
    return {
        key: TensorEntry("F32" if "scale_shift_table" in key else "BF16", tuple(value.shape))
        for key, value in state.items()
    }


def _is_fp8(key: str) -> bool:
    module = key.removesuffix(".weight")
    return key != module and TARGET.match(module) is not None and not key.startswith(BF16_BLOCK)


def _in_fp8(
    tensors: Mapping[str, TensorEntry], quantized: Sequence[str]
) -> tuple[dict[str, TensorEntry], dict[str, bytes]]:
    """Return the tensors with some of them in e4m3, each with a scale of its own, and the scales."""
    found, scales = dict(tensors), {}
    for name in quantized:
        found[name] = TensorEntry("F8_E4M3", found[name].shape)
        found[f"{name}_scale"] = TensorEntry("F32", ())
        scales[f"{name}_scale"] = struct.pack("<f", FP8_SCALE * distribution(name, found[name].shape)[1])
    return found, scales


def gemma_file(sizes: GemmaSizes) -> RandomFile:
    """Return Gemma 3 in one file, as ComfyUI has it, with the bytes of a made-up tokenizer.model."""
    d, h, kv, inner = sizes.width, sizes.num_heads, sizes.num_kv_heads, sizes.inner
    linear = {
        "self_attn.q_proj": (h * sizes.head_dim, d),
        "self_attn.k_proj": (kv * sizes.head_dim, d),
        "self_attn.v_proj": (kv * sizes.head_dim, d),
        "self_attn.o_proj": (d, h * sizes.head_dim),
        "mlp.gate_proj": (inner, d),
        "mlp.up_proj": (inner, d),
        "mlp.down_proj": (d, inner),
    }
    norms = dict.fromkeys(
        (
            "input_layernorm",
            "post_attention_layernorm",
            "pre_feedforward_layernorm",
            "post_feedforward_layernorm",
        ),
        d,
    ) | dict.fromkeys(("self_attn.q_norm", "self_attn.k_norm"), sizes.head_dim)
    tensors = {
        "model.embed_tokens.weight": TensorEntry("BF16", (sizes.rows, d)),
        "model.norm.weight": TensorEntry("BF16", (d,)),
    }
    given = {SPIECE: sentencepiece_model(made_pieces(sizes.pieces))}
    for layer in (f"model.layers.{number}" for number in range(sizes.num_layers)):
        tensors |= {f"{layer}.{name}.weight": TensorEntry("BF16", (n,)) for name, n in norms.items()}
        tensors |= {f"{layer}.{name}.weight": TensorEntry("BF16", shape) for name, shape in linear.items()}
        given |= {f"{layer}.{name}.comfy_quant": COMFY_QUANT for name in linear}
    tensors |= {name: TensorEntry("U8", (len(data),)) for name, data in given.items()}
    tensors, scales = _in_fp8(tensors, [name for name in tensors if name.endswith("_proj.weight")])
    return RandomFile(GEMMA_FILE, tensors, given | scales)


def lora_file(config: Mapping[str, Any], rank: int) -> RandomFile:
    """Return a LoRA of every linear layer of the transformer, in the official trainer's spelling."""
    tensors = {}
    for key, entry in _shapes("transformer", config).items():
        if key.endswith(".weight") and len(entry.shape) == 2:
            rows, columns = entry.shape
            fits, name = min(rank, rows, columns), f"diffusion_model.{key.removesuffix('.weight')}"
            tensors[f"{name}.lora_A.weight"] = TensorEntry("BF16", (fits, columns))
            tensors[f"{name}.lora_B.weight"] = TensorEntry("BF16", (rows, fits))
    return RandomFile(LORA_FILE.format(rank=rank), tensors)


# --- the tokenizer ----------------------------------------------------------------------------------


def made_pieces(count: int) -> list[Piece]:
    """Return a vocabulary of Gemma's kind and size: marks, bytes, characters, all short words of letters.

    Of two pieces that could be merged, the earlier one is merged first.
    """
    marks = [Piece(text, 0.0, CONTROL) for text in ("<pad>", "<eos>", "<bos>")] + [
        Piece("<unk>", 0.0, UNKNOWN)
    ]
    single = [Piece(f"<0x{byte:02X}>", 0.0, BYTE) for byte in range(256)]
    characters = [SPACE, *(c for c in printable if c.isprintable() and c != " ")]
    words = chain.from_iterable(product(ascii_lowercase, repeat=length) for length in (2, 3, 4))
    texts = chain(characters, chain.from_iterable(_with_and_without_space(word) for word in words))
    start = len(marks) + len(single)
    normal = [Piece(text, -float(i)) for i, text in enumerate(islice(texts, count - start))]
    return [*marks, *single, *normal]


def _with_and_without_space(letters: Sequence[str]) -> Iterator[str]:
    yield "".join(letters)
    yield SPACE + "".join(letters)


def sentencepiece_model(pieces: Sequence[Piece]) -> bytes:
    """Return the bytes of a tokenizer.model that splits text as Gemma's does: byte pairs, no added space."""
    trainer = _number(TRAINER_ALGORITHM, BYTE_PAIRS)
    normalizer = _number(DUMMY_PREFIX, 0) + _number(REMOVE_SPACES, 0)
    listed = (_block(PIECES, _piece(piece)) for piece in pieces)
    return b"".join([*listed, _block(TRAINER, trainer), _block(NORMALIZER, normalizer)])


def _piece(piece: Piece) -> bytes:
    score = _varint(PIECE_SCORE << 3 | 5) + struct.pack("<f", piece.score)
    kind = b"" if piece.kind == NORMAL else _number(PIECE_KIND, piece.kind)
    return _block(PIECE_TEXT, piece.text.encode()) + score + kind


def _number(field_number: int, value: int) -> bytes:
    return _varint(field_number << 3) + _varint(value)


def _block(field_number: int, data: bytes) -> bytes:
    return _varint(field_number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    """Return a number in groups of seven bits, the lowest first."""
    groups = []
    while value > 127:
        groups.append(value & 127 | 128)
        value >>= 7
    return bytes([*groups, value])


# --- values -----------------------------------------------------------------------------------------


class Pool:
    """Hold normal numbers, and the same rounded to e4m3 after division by FP8_SCALE."""

    def __init__(self, seed: int = 0, num_values: int = POOL_VALUES) -> None:
        self.values = torch.randn(num_values, generator=torch.Generator().manual_seed(seed))
        self.fp8 = (self.values / FP8_SCALE).clamp_(-448, 448).to(torch.float8_e4m3fn).view(torch.uint8)

    def pieces(self, name: str, entry: TensorEntry) -> Iterator[Tensor]:
        """Yield a tensor's values, (n,) in its dtype, some at a time."""
        done, at = 0, zlib.crc32(name.encode()) % len(self.values)
        center, deviation = distribution(name, entry.shape)
        while done < entry.num_params:
            count = min(PIECE_VALUES, entry.num_params - done, len(self.values) - at)
            if entry.dtype == "F8_E4M3":
                yield self.fp8[at : at + count]
            else:
                values = self.values[at : at + count] * deviation + center
                yield values.to(TORCH_DTYPES[entry.dtype])
            done, at = done + count, (at + count) % len(self.values)


def distribution(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Return the mean and standard deviation of a tensor's values."""
    last = name.rpartition(".")[2]
    is_gemma_norm = re.search(r"(model\.norm|layernorm|layers\.\d+\.self_attn\.[qk]_norm)\.weight$", name)
    if is_gemma_norm:
        return 0.0, 0.02  # Gemma adds 1
    if ("norm" in name and len(shape) == 1 and last == "weight") or last == "std-of-means":
        return 1.0, 0.02
    if last == "learnable_registers":
        return 0.0, 1.0
    if len(shape) < 2:
        return 0.0, 0.02
    gain = next((gain for part, gain in GAIN.items() if f".{part}." in name), 1.0)
    return 0.0, gain * (math.prod(shape) / shape[0]) ** -0.5


# --- writing ----------------------------------------------------------------------------------------


def write_files(folder: Path, files: Sequence[RandomFile], progress: Progress | None = None) -> list[Path]:
    """Write the files that do not exist and return all paths. Raises WeightsError if the disk lacks room."""
    paths = [folder / file.path for file in files]
    lacking = [(path, file) for path, file in zip(paths, files, strict=True) if not _is_written(path, file)]
    needed = sum(file.num_bytes for _, file in lacking)
    home = next(parent for parent in (folder, *folder.absolute().parents) if parent.is_dir())
    free = shutil.disk_usage(home).free
    if needed and needed + SPARE_BYTES > free:
        raise WeightsError(
            f"{folder} needs {needed / 1e9:.1f} GB and {SPARE_BYTES / 1e9:.0f} to spare, and {home} has "
            f"{free / 1e9:.1f} free; make room or give a folder on another disk"
        )
    pool = Pool() if lacking else None
    for path, file in lacking:
        assert pool is not None
        _write(path, file, pool, progress)
    return paths


def _is_written(path: Path, file: RandomFile) -> bool:
    return path.is_file() and path.stat().st_size == file.num_bytes


def _write(path: Path, file: RandomFile, pool: Pool, progress: Progress | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.part")
    with partial.open("wb") as out:
        out.write(file.header)
        for name, entry in file.placed.items():  # in the order of the file
            for piece in _pieces(name, entry, file, pool):
                out.write(piece)
                if progress is not None:
                    progress(file.path, out.tell(), file.num_bytes)
    os.replace(partial, path)


def _pieces(name: str, entry: TensorEntry, file: RandomFile, pool: Pool) -> Iterator[Any]:
    if name in file.given:
        yield file.given[name]
    else:
        yield from (values.view(torch.uint8).numpy() for values in pool.pieces(name, entry))


class _Percent:
    """Print progress on standard error, a line for each percent of a file."""

    def __init__(self) -> None:
        self._last: tuple[str, int] | None = None

    def __call__(self, path: str, done: int, total: int) -> None:
        now = (path, 100 * done // total)
        if now != self._last:
            self._last = now
            print(f"\r{path}: {now[1]:3d} % of {total / 1e9:.2f} GB", end="", file=sys.stderr)
            if done == total:
                print(file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--lora", type=int, metavar="RANK", help="also write a LoRA of this rank")
    parser.add_argument("--blocks", type=int, default=48, help="of the transformer")
    parser.add_argument("--text-layers", type=int, default=48, help="of Gemma")
    args = parser.parse_args(arguments)
    config = published_config()
    cut = args.blocks != 48
    if cut:
        config["transformer"] = transformer_header(num_layers=args.blocks)
    gemma = GemmaSizes(num_layers=args.text_layers)
    files = model_files(config, gemma, says_config=cut)
    if args.lora is not None:
        files.append(lora_file(config, args.lora))
    torch.set_num_threads(1)
    try:
        for path in write_files(args.folder, files, _Percent()):
            print(path)
    except WeightsError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
