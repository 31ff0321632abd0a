"""Storage of the transformer's weights in memory: the words of `weights=`, and what each does to a file.

    word                  layers of TARGET                             products
    full                  in the run's dtype                           in that dtype
    stored                8-bit where the file is, else as "full"      cast on use: the numbers of "full"
    fp8, fp8-cast         e4m3, rounded at load if the file is not     fp8: 8-bit where the device has it
    int8, int8-dynamic    int8, rounded at load if the file is not     int8-dynamic: 8-bit
    nf4                   4 bits, rounded at load; in training alone   cast on use

What a file already holds in the format asked for is not rounded again. Loads no torch: prices count by
the rule that loading follows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, NamedTuple, get_args

from soundstage.errors import RequestError, listed
from soundstage.weights.layouts import PartTensors

Format = Literal["fp8", "int8", "nf4"]
Scheme = Literal["fp8", "fp8-cast", "int8", "int8-dynamic"]
Storage = Literal["full", "stored", Scheme, "nf4"]
# Those that a clip can be made with.
STORAGES: tuple[Storage, ...] = tuple(word for word in get_args(Storage) if word != "nf4")
# Bytes of one weight, scales included where they are many.
FORMAT_BYTES: Mapping[Format, float] = {"fp8": 1.0, "int8": 1.0, "nf4": 0.5 + 4 / 64}
# The layers that are ever 8-bit. Source: docs/model/checkpoints.md, "8-bit weights".
TARGET = re.compile(
    r"(^|.*\.)transformer_blocks\.\d+\."
    r"((audio_)?attn[12]|audio_to_video_attn|video_to_audio_attn|(audio_)?ff)"
    r"\.(to_q|to_k|to_v|to_out\.0|net\.0\.proj|net\.2)$"
)
KEPT: Mapping[str, Format] = {"F8_E4M3": "fp8", "I8": "int8"}  # dtypes of files that a layer computes with
# What full weights become where nothing else makes them fit: of the four, the closest to them.
SMALLEST: Scheme = "int8"


class EightBit(NamedTuple):
    """The form of one layer in 8 or 4 bits.

    native: products are in 8 bits too. kept: values as the file has them.
    """

    format: Format
    native: bool
    kept: bool


def storage_named(name: str) -> Storage | None:
    """Return the storage of a word, None for "auto". Raises RequestError for an unknown word."""
    if name == "auto":
        return None
    storage: Storage | None = next((storage for storage in STORAGES if storage == name), None)
    if storage is None:
        raise RequestError(
            f"weights is '{name}'; give one of {listed(str(name), ('auto', *STORAGES))}", field="weights"
        )
    return storage


def bytes_of(storage: Storage, item_bytes: int) -> float:
    """Return the bytes of one number of a block's matrices. item_bytes: those in the run's dtype."""
    if storage == "full":
        return item_bytes
    return FORMAT_BYTES["nf4" if storage == "nf4" else "fp8"]


def eight_bit(storage: Storage, key: str, dtype: str) -> EightBit | None:
    """Return how a linear layer's weight is held in 8 bits; None for one that is not.

    key: the weight's, with its ending. dtype: as the file names it.
    """
    name, stored = key.removesuffix(".weight"), KEPT.get(dtype)
    if storage == "full" or name == key:
        return None
    if storage == "stored":
        return None if stored is None else EightBit(stored, native=False, kept=True)
    if storage == "nf4":
        return EightBit("nf4", native=False, kept=False) if TARGET.match(name) else None
    format: Format = "fp8" if storage.startswith("fp8") else "int8"
    native = storage in ("fp8", "int8-dynamic")
    if stored == format:
        return EightBit(format, native, kept=True)
    return EightBit(format, native, kept=False) if TARGET.match(name) else None


def stored_formats(tensors: PartTensors) -> tuple[Format, ...]:
    """Return the 8-bit formats that a part's files hold layers in."""
    found = (eight_bit("stored", key, stored.entry.dtype) for key, stored in tensors.items())
    return tuple(sorted({how.format for how in found if how is not None}))


def check_storage(tensors: PartTensors, storage: Storage) -> None:
    """Raise RequestError for "stored" with a transformer whose files hold no layer in 8 bits."""
    if storage == "stored" and not stored_formats(tensors):
        dtypes = ", ".join(sorted({stored.entry.dtype for stored in tensors.values()}))
        paths = ", ".join(sorted({str(stored.path) for stored in tensors.values()}))
        raise RequestError(
            f"weights is 'stored', and {paths} holds no layer in e4m3 or int8 (it has {dtypes}); "
            "give full, or fp8 or int8 to round them at load",
            field="weights",
        )


def candidates(tensors: PartTensors) -> tuple[Storage, ...]:
    """Return what "auto" may be for a transformer, best first: 8 bits only if file or memory ask for it.

    A file in 8 bits is held as it is, which changes no number.
    """
    return ("stored",) if stored_formats(tensors) else ("full", SMALLEST)
