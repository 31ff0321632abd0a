"""ONNX models of two operators, written byte by byte: the package that writes them is no dependency."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

FLOAT, INT, INTS = 1, 2, 7


def mean_model(path: Path, shape: Sequence[int | str], copies: int = 0) -> Path:
    """Write a model of pictures (N, 3, H, W) that gives the mean of the channels, (N, H, W).

    shape: the input's; a word is a side of any length. copies: give (N, copies, H, W) instead.
    """
    channel = len(shape) - 3
    reduced = _node("ReduceMean", ["x"], "m", {"axes": [channel], "keepdims": int(bool(copies))})
    nodes = [reduced, *([_node("Concat", ["m"] * copies, "y", {"axis": channel})] if copies else [])]
    outputs = [n for i, n in enumerate(shape) if i != channel or copies]
    if copies:
        outputs[channel] = copies
    graph = b"".join(_bytes(1, node) for node in nodes) + _bytes(2, b"g")
    graph += _bytes(11, _value("x", shape)) + _bytes(12, _value("y" if copies else "m", outputs))
    path.write_bytes(_number(1, 8) + _bytes(7, graph) + _bytes(8, _number(2, 13)))
    return path


def _node(kind: str, inputs: Sequence[str], output: str, attributes: dict[str, int | list[int]]) -> bytes:
    made = b"".join(_bytes(1, name.encode()) for name in inputs) + _bytes(2, output.encode())
    made += _bytes(4, kind.encode())
    for name, value in attributes.items():
        many = isinstance(value, list)
        numbers = b"".join(_number(8, v) for v in value) if isinstance(value, list) else _number(3, value)
        made += _bytes(5, _bytes(1, name.encode()) + numbers + _number(20, INTS if many else INT))
    return made


def _value(name: str, shape: Sequence[int | str]) -> bytes:
    sides = [_number(1, side) if isinstance(side, int) else _bytes(2, side.encode()) for side in shape]
    tensor = _number(1, FLOAT) + _bytes(2, b"".join(_bytes(1, side) for side in sides))
    return _bytes(1, name.encode()) + _bytes(2, _bytes(1, tensor))


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
