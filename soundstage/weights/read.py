"""One tensor at a time, from a file to a torch tensor: what loading and conversion both read with.

Bytes are read where the header says, not mapped: what is in memory is then exactly what was asked for. A
quantized weight is multiplied by its scale a few rows at a time, so that no float32 copy of it exists.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from io import FileIO
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from soundstage.errors import WeightsError
from soundstage.weights.entry import AGAIN, TensorEntry
from soundstage.weights.gguf import block_bytes, decode_blocks, is_packed
from soundstage.weights.layouts import StoredTensor

TORCH_DTYPES: dict[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I16": torch.int16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "F32": torch.float32,
    "I64": torch.int64,
    "F64": torch.float64,
}
# Values worked on at once when a weight is turned into another dtype.
VALUES_AT_ONCE = 1 << 22  # values that are worked on at once
CACHED = 1 << 17  # the same where many passes over them are made within the processor's cache


class TensorReader:
    """Open weights files. Use in a `with` statement; each file is opened once, on its first tensor."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._opened: dict[Path, tuple[FileIO, tuple[int, int]]] = {}

    def __enter__(self) -> TensorReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def raw(self, path: Path, name: str, entry: TensorEntry) -> Tensor:
        """Return a tensor as it is stored; in a GGUF block format its bytes, (n,) uint8."""
        data = torch.empty(entry.num_bytes, dtype=torch.uint8)
        self.read_into(path, entry.offset, data)
        if is_packed(entry.dtype):
            return data
        if entry.dtype not in TORCH_DTYPES:
            raise WeightsError(f"{path}: '{name}' is stored as {entry.dtype}, which is not read here")
        return data.view(TORCH_DTYPES[entry.dtype]).reshape(entry.shape)

    def read_into(self, path: Path, offset: int, memory: Tensor) -> None:
        """Fill flat uint8 memory from this byte of a file on; one call of the system reads 2 GB at most."""
        view, file, done = memory.numpy().data, self._file(path), 0
        file.seek(offset)
        while done < len(view):
            count = file.readinto(view[done:])
            if not count:
                raise WeightsError(f"{path} has become shorter since its header was read; {AGAIN}")
            done += count

    def value(self, stored: StoredTensor, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return a weight in full: scaled if it is quantized, in the dtype asked for, on the device."""
        if is_packed(stored.entry.dtype):
            return _decoded(self.raw(stored.path, stored.name, stored.entry), stored, dtype).to(device)
        if device.type == "cpu":
            value = torch.empty(stored.entry.shape, dtype=dtype)
            self.value_into(stored, value)
            return value
        raw = self.raw(stored.path, stored.name, stored.entry).to(device)
        scale = self.scale(stored)
        if scale is None and not stored.shift:
            return raw.to(dtype)
        return _affine(raw, None if scale is None else scale.to(device), stored.shift, dtype)

    def value_into(self, stored: StoredTensor, out: Tensor) -> None:
        """`value` into memory that is there, of its shape and on the CPU; little else is taken."""
        entry = stored.entry
        if is_packed(entry.dtype):
            out.copy_(self.value(stored, out.dtype, out.device))
            return
        if not out.numel():
            return
        kind, scale = TORCH_DTYPES[entry.dtype], self.scale(stored)
        flat = out.view(entry.shape[0], -1) if entry.shape else out.view(1, 1)
        if kind == out.dtype and scale is None and not stored.shift:
            self.read_into(stored.path, entry.offset, flat.view(torch.uint8).flatten())
            return
        num_rows, columns = flat.shape
        rows = min(num_rows, max(1, CACHED // max(1, columns)))
        stride = columns * kind.itemsize
        memory = torch.empty(rows * stride, dtype=torch.uint8)
        wide = WideE4m3(rows * columns) if kind == torch.float8_e4m3fn else None
        for start in range(0, num_rows, rows):
            target = flat[start : start + rows]
            part = memory[: target.shape[0] * stride]
            self.read_into(stored.path, entry.offset + start * stride, part)
            raw = part.view(kind).view(target.shape)
            if scale is None and not stored.shift and wide is None:
                target.copy_(raw)
                continue
            values = raw.float() if wide is None else wide(raw)
            if scale is not None:
                values *= scale if scale.dim() == 0 else scale[start : start + rows]
            target.copy_(values + stored.shift if stored.shift else values)

    def scale(self, stored: StoredTensor) -> Tensor | None:
        """Return a weight's scale, () or (rows, 1) float32, or None. Raises WeightsError for a bad one."""
        if stored.scale is None:
            return None
        entry = stored.sidecars["weight_scale"][1]
        scale = self.raw(stored.path, stored.scale, entry).float()
        if not (torch.isfinite(scale).all() and (scale > 0).all()):
            raise WeightsError(
                f"{stored.path}: the scale '{stored.scale}' is not positive and finite; {AGAIN}"
            )
        return scale.reshape(()) if scale.numel() == 1 else scale.reshape(-1, 1)

    def quantized(
        self, stored: StoredTensor, device: torch.device
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return a quantized weight as stored: values, their scale, the scale of the layer's input."""
        values = self.raw(stored.path, stored.name, stored.entry).to(device)
        scale, of_input = self.scale(stored), stored.sidecars.get("input_scale")
        input_scale = None if of_input is None else self.raw(stored.path, *of_input).float().reshape(())
        return (
            values,
            None if scale is None else scale.to(device),
            None if input_scale is None else input_scale.to(device),
        )

    def pieces(self, path: Path, name: str, entry: TensorEntry, size: int) -> Iterator[bytes]:
        """Yield the stored bytes of a tensor, at most `size` at a time."""
        file = self._file(path)
        for start in range(0, entry.num_bytes, size):
            file.seek(entry.offset + start)
            wanted = min(size, entry.num_bytes - start)
            piece = file.read(wanted)
            if len(piece) != wanted:
                raise WeightsError(f"{path} ends within '{name}'; {AGAIN}")
            yield piece

    def _file(self, path: Path) -> FileIO:
        """Opened once. Raises WeightsError if its content was written to since then."""
        if path not in self._opened:
            try:
                file = self._stack.enter_context(FileIO(path))
            except OSError as error:
                raise WeightsError(f"{path} cannot be read ({error}); check the file") from error
            self._opened[path] = file, _stamp(file)
        file, stamp = self._opened[path]
        if _stamp(file) != stamp:
            raise WeightsError(
                f"{path} was written to while its weights were being read; load the model again"
            )
        return file


def _stamp(file: FileIO) -> tuple[int, int]:
    found = os.fstat(file.fileno())
    return found.st_size, found.st_mtime_ns


def _affine(raw: Tensor, scale: Tensor | None, shift: float, dtype: torch.dtype) -> Tensor:
    """raw * scale + shift, computed in float32, some rows at a time."""
    flat = raw.reshape(raw.shape[0], -1) if raw.dim() else raw.reshape(1, 1)
    value = torch.empty(flat.shape, dtype=dtype, device=raw.device)
    rows = max(1, VALUES_AT_ONCE // max(1, flat.shape[1]))
    for start in range(0, flat.shape[0], rows):
        part = flat[start : start + rows].float()
        if scale is not None:
            part *= scale if scale.dim() == 0 else scale[start : start + rows]
        value[start : start + rows] = part + shift if shift else part
    return value.reshape(raw.shape)


class WideE4m3:
    """`values.float()` of e4m3 on a CPU, bit for bit: PyTorch converts one by one, four times slower.

    The bits of an e4m3, moved up by 7, are those of a float16 whose exponent is 8 too small. num_values: at
    most in a call. What a call gives is overwritten by the next.
    """

    def __init__(self, num_values: int) -> None:
        self._bits = torch.empty(num_values, dtype=torch.int16)
        self._wide = torch.empty(num_values)

    def __call__(self, values: Tensor) -> Tensor:
        stored, count = values.contiguous().view(torch.int8).flatten(), values.numel()
        magnitudes = torch.bitwise_and(stored, 127, out=self._bits.view(torch.int8)[:count])
        if count and magnitudes.amax() == 127:  # it is NaN, and would become 480
            return values.float()
        bits = self._bits[:count].copy_(stored)
        bits.bitwise_left_shift_(7).bitwise_and_(~0x4000)  # the sign is the highest bit, and stays alone
        return self._wide[:count].copy_(bits.view(torch.float16)).mul_(256.0).view(values.shape)


def _decoded(data: Tensor, stored: StoredTensor, dtype: torch.dtype) -> Tensor:
    """Return a tensor of a GGUF block format, some blocks at a time."""
    kind, value = stored.entry.dtype, torch.empty(stored.entry.num_params, dtype=dtype)
    step = VALUES_AT_ONCE // 16 // block_bytes(kind) * block_bytes(kind)
    done = 0
    for start in range(0, len(data), step):
        part = torch.from_numpy(decode_blocks(data[start : start + step].numpy(), kind))
        value[done : done + len(part)] = part + stored.shift
        done += len(part)
    return value.reshape(stored.entry.shape)
