"""Write tensors with a checksum, and read them only if it is right.

    data = sealed({"video": latents}, {"window": "3"})
    unsealed(data, {"window": "3"})["video"]

The file carries the SHA-256 of its values beside what it says it is: safetensors itself notices a file that
was cut, and neither a bit that changed nor one file under the name of another.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

TENSOR = "tensor"  # the only key of what stands for a tensor in JSON


def sealed(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return the bytes of a file. metadata: says what the tensors are; `unsealed` must be given the same."""
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    data: bytes = save(kept, {**metadata, "sha256": _digest(kept)})
    return data


def unsealed(data: bytes, metadata: Mapping[str, str]) -> dict[str, Tensor]:
    """Return the tensors of a file. Raises ValueError, "cannot be read" or "holds another content"."""
    try:
        tensors: dict[str, Tensor] = load(data)
    except SafetensorError as error:
        raise ValueError(f"cannot be read ({error})") from error
    if _metadata(data) != {**metadata, "sha256": _digest(tensors)}:
        raise ValueError("holds another content than was written")
    return tensors


def packed(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Return a value of dicts, lists, numbers and tensors as JSON; its tensors are put beside it by name."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().clone()  # two of them may share their memory, which no file can
        return {TENSOR: name}
    if isinstance(value, Mapping):
        return {str(key): packed(item, tensors) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [packed(item, tensors) for item in value]
    return value


def unpacked(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Return what `packed` was given, with lists for tuples."""
    if isinstance(value, dict):
        if set(value) == {TENSOR}:
            return tensors[value[TENSOR]]
        return {key: unpacked(item, tensors) for key, item in value.items()}
    return [unpacked(item, tensors) for item in value] if isinstance(value, list) else value


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of names, formats, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        values = tensors[name]
        digest.update(f"{name} {values.dtype} {list(values.shape)} ".encode())
        digest.update(values.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _metadata(data: bytes) -> dict[str, str]:
    """Return the metadata of a file."""
    length = int.from_bytes(data[:8], "little")
    found: dict[str, str] = json.loads(data[8 : 8 + length]).get("__metadata__", {})
    return found
