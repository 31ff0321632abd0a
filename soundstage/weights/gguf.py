"""GGUF files: their headers, and their block formats turned into numbers, both by the `gguf` package.

A tensor of a plain type (F32, F16, BF16) is read as one of a safetensors file is. Only block formats
(Q8_0, Q4_K, ...) are decoded here, some blocks at a time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from soundstage.errors import MissingExtraError, WeightsError
from soundstage.weights.entry import AGAIN, BITS, TensorEntry, WeightsFile

# Files made for ComfyUI flatten some tensors and keep their shape under this key.
ORIGINAL_SHAPE = "comfy.gguf.orig_shape."


def is_packed(dtype: str) -> bool:
    """Return whether a tensor's dtype is a GGUF block format."""
    return dtype not in BITS


def read_gguf(path: Path) -> WeightsFile:
    """Return the header of a GGUF file. Raises WeightsError for one that is damaged or cut short."""
    gguf = _package()
    try:
        reader = gguf.GGUFReader(path)
        metadata, shapes = _fields(gguf, reader)
        tensors = {t.name: _entry(t, shapes.get(t.name)) for t in reader.tensors}
    except Exception as error:  # the package raises whatever its parsing of a damaged file runs into
        raise WeightsError(f"{path} is a GGUF file, damaged or cut short ({error}); {AGAIN}") from error
    size = path.stat().st_size
    for name, entry in tensors.items():
        if entry.offset + entry.num_bytes > size:
            raise WeightsError(f"{path} ends within '{name}' ({size:,} bytes); {AGAIN}")
    return WeightsFile(path, metadata, tensors)


def _fields(gguf: Any, reader: Any) -> tuple[dict[str, str], dict[str, tuple[int, ...]]]:
    """Return the metadata that are single values, and the shapes of flattened tensors by name."""
    metadata, shapes = {}, {}
    for key, field in reader.fields.items():
        if key.startswith(ORIGINAL_SHAPE):
            shapes[key.removeprefix(ORIGINAL_SHAPE)] = tuple(int(side) for side in field.contents())
        elif field.types[:1] != [gguf.GGUFValueType.ARRAY]:  # arrays are the tokenizer's, and long
            metadata[key] = str(field.contents())
    return metadata, shapes


def _entry(tensor: Any, shape: tuple[int, ...] | None) -> TensorEntry:
    """GGUF lists the sides of a tensor from the last to the first."""
    dtype = tensor.tensor_type.name
    shape = shape or tuple(int(side) for side in reversed(tensor.shape))
    packed = int(tensor.n_bytes) if is_packed(dtype) else None
    return TensorEntry(dtype, shape, int(tensor.data_offset), packed)


def decode_blocks(data: Any, dtype: str) -> Any:
    """Return bytes (n,) uint8 of whole blocks -> their values, (num_values,) float32, both numpy arrays."""
    gguf = _package()
    kind = gguf.GGMLQuantizationType[dtype]
    return gguf.dequantize(data.reshape(-1, block_bytes(dtype)), kind).reshape(-1)


def block_bytes(dtype: str) -> int:
    """Return bytes of one block of a format."""
    gguf = _package()
    return int(gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[dtype]][1])


def _package() -> Any:
    try:
        import gguf
    except ImportError as error:
        raise MissingExtraError("gguf", "reading a GGUF file") from error
    return gguf
