"""Small ONNX models, written byte by byte: the package that writes them is no dependency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

INT, INTS = 2, 7
TYPES = {"float32": 1, "uint8": 2, "int32": 6, "int64": 7, "float16": 10}
Shape = Sequence[int | str]


def mean_model(
    path: Path, shape: Shape, copies: int = 0, *, kind: str = "float32", names: tuple[str, str] = ("x", "y")
) -> Path:
    """Write a model of pictures (N, 3, H, W) that gives the mean of the channels, (N, H, W).

    shape: the input's; a word is a side of any length. copies: give (N, copies, H, W) instead. kind: of its
    numbers.
    """
    channel, (given, made) = len(shape) - 3, names
    reduced = _node(
        "ReduceMean", [given], "m" if copies else made, {"axes": [channel], "keepdims": int(bool(copies))}
    )
    nodes = [reduced, *([_node("Concat", ["m"] * copies, made, {"axis": channel})] if copies else [])]
    outputs = [n for i, n in enumerate(shape) if i != channel or copies]
    if copies:
        outputs[channel] = copies
    return _written(path, nodes, [(given, shape, kind)], [(made, outputs, kind)])


def share_model(path: Path, shape: Shape) -> Path:
    """Write a model of clips (N, T, 3, H, W) that gives the channels' mean as a share of its highest."""
    mean = _node("ReduceMean", ["x"], "m", {"axes": [2], "keepdims": 0})
    highest = _node("ReduceMax", ["m"], "h", {"keepdims": 1})
    nodes = [mean, highest, _node("Div", ["m", "h"], "depth", {})]
    outputs = [n for i, n in enumerate(shape) if i != 2]
    return _written(path, nodes, [("x", shape, "float32")], [("depth", outputs, "float32")])


def fixed_model(
    path: Path,
    shape: Shape,
    outputs: Mapping[str, NDArray[Any]],
    *,
    name: str = "images",
    kind: str = "float32",
    opset: int = 13,
    apart: str = "",
    shapes: Mapping[str, Shape] | None = None,
) -> Path:
    """Write a model that gives the same outputs for every picture.

    shape, name, kind: of its input. apart: the file beside it in which its numbers lie. shapes: of outputs,
    as the model states them.
    """
    nodes = [_node("Identity", [f"{key}_"], key, {}) for key in outputs]
    tensors, place = [], 0
    for key, value in outputs.items():
        head = b"".join(_number(1, side) for side in value.shape) + _number(2, TYPES[str(value.dtype)])
        head += _bytes(8, f"{key}_".encode())
        if apart:
            where = {"location": apart, "offset": str(place), "length": str(value.nbytes)}
            head += b"".join(_bytes(13, _pair(k, v)) for k, v in where.items()) + _number(14, 1)
            place += value.nbytes
        else:
            head += _bytes(9, value.tobytes())
        tensors.append(head)
    if apart:
        (path.parent / apart).write_bytes(b"".join(value.tobytes() for value in outputs.values()))
    stated = {key: value.shape for key, value in outputs.items()} | dict(shapes or {})
    made = [(key, stated[key], str(value.dtype)) for key, value in outputs.items()]
    return _written(path, nodes, [(name, shape, kind)], made, tensors, opset)


def _written(
    path: Path,
    nodes: Sequence[bytes],
    inputs: Sequence[tuple[str, Shape, str]],
    outputs: Sequence[tuple[str, Shape, str]],
    tensors: Sequence[bytes] = (),
    opset: int = 13,
) -> Path:
    graph = b"".join(_bytes(1, node) for node in nodes) + _bytes(2, b"g")
    graph += b"".join(_bytes(5, tensor) for tensor in tensors)
    graph += b"".join(_bytes(11, _value(*one)) for one in inputs)
    graph += b"".join(_bytes(12, _value(*one)) for one in outputs)
    path.write_bytes(_number(1, 8) + _bytes(7, graph) + _bytes(8, _number(2, opset)))
    return path


def _node(kind: str, inputs: Sequence[str], output: str, attributes: dict[str, int | list[int]]) -> bytes:
    made = b"".join(_bytes(1, name.encode()) for name in inputs) + _bytes(2, output.encode())
    made += _bytes(4, kind.encode())
    for name, value in attributes.items():
        many = isinstance(value, list)
        numbers = b"".join(_number(8, v) for v in value) if isinstance(value, list) else _number(3, value)
        made += _bytes(5, _bytes(1, name.encode()) + numbers + _number(20, INTS if many else INT))
    return made


def _value(name: str, shape: Shape, kind: str) -> bytes:
    sides = [_bytes(2, side.encode()) if isinstance(side, str) else _number(1, side) for side in shape]
    tensor = _number(1, TYPES[kind]) + _bytes(2, b"".join(_bytes(1, side) for side in sides))
    return _bytes(1, name.encode()) + _bytes(2, _bytes(1, tensor))


def _pair(key: str, value: str) -> bytes:
    return _bytes(1, key.encode()) + _bytes(2, value.encode())


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    made = bytearray()
    while value > 127:
        made.append(value & 127 | 128)
        value >>= 7
    return bytes([*made, value])


def rows(count: int, width: int, first: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (1, count, width) of nothing, but for its first rows."""
    made = np.zeros((1, count, width), np.float32)
    made[0, : len(first)] = first
    return made
