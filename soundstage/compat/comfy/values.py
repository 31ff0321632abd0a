"""Numbers and texts that nodes compute for others: constants, sums, switches, sizes of pictures."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soundstage.compat.comfy.graph import ComfyNode, Graph, Link
from soundstage.compat.comfy.nodes import NODES
from soundstage.errors import SoundstageError

if TYPE_CHECKING:
    from soundstage.media.probe import Info

MAX_LETTERS = 500  # of an expression
_CONSTANTS = ("value", "string", "Number", "String", "text", "seed")
_SUMS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "min": min,
    "max": max,
    "round": round,
    "floor": math.floor,
    "ceil": math.ceil,
    "int": int,
    "float": float,
    "abs": abs,
}


class NodeValues:
    """Work out what the inputs of a graph's nodes are. find: gives a file by its name, or None."""

    def __init__(self, graph: Graph, find: Callable[[str], Path | None]) -> None:
        self.graph = graph
        self.find = find
        self.read: set[str] = set()  # nodes that were used for a value

    def of(self, node: ComfyNode, name: str, default: Any = None) -> Any:
        """Return the value of an input, or the default where it has none that can be worked out."""
        found = self.value(node.inputs.get(name))
        return default if found is None else found

    def number(self, node: ComfyNode, name: str, default: float | None = None) -> float | None:
        """Return the number of an input; other values count as none."""
        found = self.of(node, name, default)
        if isinstance(found, str):  # some constants are typed as text
            try:
                found = float(found)
            except ValueError:
                return default
        return float(found) if isinstance(found, (int, float)) and math.isfinite(found) else default

    def value(self, given: Any) -> Any:
        """Return a value, or what the link computes; None where that is not known."""
        if not isinstance(given, Link):
            return given
        node = self.graph.nodes[given.node]
        self.read.add(node.id)
        if node.type in ("GetImageSize", "GetImageSizeAndCount"):
            return self._size_output(node, given.slot)
        if node.type == "EmptyImage":
            return None
        if node.type == "ImageResizeKJv2":
            size = self.size(Link(node.id, 0))
            return size[given.slot - 1] if size is not None and given.slot in (1, 2) else None
        if node.type == "GetVideoComponents":
            return self._rate(node) if given.slot == 2 else None
        kind = NODES.get(node.type)
        if kind is None:
            return None
        if kind.role == "switch":
            return self.value(self.switched(node))
        if kind.role == "enhancer":
            return self.of(node, "prompt")
        return self._computed(node, given.slot) if kind.role in ("value", "image") else None

    def switched(self, node: ComfyNode) -> Any:
        """Return the input of a switch that is on."""
        return node.inputs.get("on_true" if self.of(node, "switch") else "on_false")

    def _computed(self, node: ComfyNode, slot: int) -> Any:
        if node.type == "StringConcatenate":
            parts = [str(self.of(node, name, "")) for name in ("string_a", "string_b")]
            return str(self.of(node, "delimiter", "")).join(parts)
        if node.type in ("CM_FloatToInt", "LTXFloatToInt"):
            found = self.number(node, "a")
            return None if found is None else int(found)
        if node.type == "PreviewAny":
            return self.of(node, "source")
        if "MathExpression" in node.type or node.type in ("SimpleMath+", "SimpleCalculatorKJ"):
            found = self._sum(node)
            whole = slot == (0 if node.type in ("SimpleMath+", "MathExpression|pysssss") else 1)
            return int(found) if whole and found is not None else found
        found = next((self.of(node, name) for name in _CONSTANTS if name in node.inputs), None)
        return _number(found) if node.type in ("Int", "Float") else found

    def _sum(self, node: ComfyNode) -> float | None:
        text = str(self.of(node, "value" if node.type == "SimpleMath+" else "expression", ""))
        names = {name.rpartition(".")[2]: self.value(value) for name, value in node.inputs.items()}
        try:
            return expression(text, names)
        except (ValueError, TypeError, KeyError, ArithmeticError, SyntaxError, RecursionError):
            return None

    def _size_output(self, node: ComfyNode, slot: int) -> Any:
        slot -= 1 if node.type == "GetImageSizeAndCount" else 0
        if slot == 2:
            return self._count(node.inputs.get("image"))
        size = self.size(node.inputs.get("image"))
        return size[slot] if size is not None and slot in (0, 1) else None

    def _count(self, given: Any) -> int | None:
        """Return the number of pictures of a clip, where they can be counted."""
        while isinstance(given, Link):
            node = self.graph.nodes[given.node]
            kind = NODES.get(node.type)
            if node.type in ("RepeatImageBatch", "ImageFromBatch"):
                number = self.number(node, "amount" if node.type == "RepeatImageBatch" else "length")
                return None if number is None else int(number)
            if kind is not None and kind.role == "file":
                info = self._probed(node)
                return None if info is None else info.num_frames
            if kind is None or not (kind.through or kind.role == "switch"):
                return None
            given = self.switched(node) if kind.role == "switch" else node.inputs.get(kind.through[0])
        return None

    def size(self, given: Any) -> tuple[int, int] | None:
        """Return width and height of a picture, where they can be worked out."""
        if not isinstance(given, Link):
            return None
        node = self.graph.nodes[given.node]
        self.read.add(node.id)
        kind = NODES.get(node.type)
        if kind is None or kind.role not in ("image", "file", "switch", "value", "drawn"):
            return None
        if kind.role == "switch":
            return self.size(self.switched(node))
        if kind.role == "file":
            return self._file_size(node)
        if node.type == "EmptyImage":
            return self._pair(node, "width", "height")
        return self._resized(node, self.size(node.inputs.get(kind.through[0])) if kind.through else None)

    def _resized(self, node: ComfyNode, size: tuple[int, int] | None) -> tuple[int, int] | None:
        if node.type == "ImageScale":
            return self._scaled(size, self.number(node, "width", 0), self.number(node, "height", 0))
        if node.type == "ResizeImageMaskNode":
            return self._by_way(node, size)
        if node.type == "ResizeAndPadImage":
            return self._pair(node, "target_width", "target_height")
        if node.type == "ImageResizeKJv2":
            return self._by_proportion(node, size)
        if size is None:
            return None
        if node.type == "ImageScaleToTotalPixels":
            pixels = (self.number(node, "megapixels") or 0) * 1024 * 1024
            return _times(size, math.sqrt(pixels / (size[0] * size[1])))
        if node.type == "ImageScaleBy":
            return _times(size, self.number(node, "scale_by"))
        if node.type in ("ImageScaleToMaxDimension", "ResizeImagesByLongerEdge"):
            longest = self.number(node, "largest_size" if "Max" in node.type else "longer_edge")
            return _times(size, longest / max(size)) if longest else None
        return size

    def _by_proportion(self, node: ComfyNode, size: tuple[int, int] | None) -> tuple[int, int] | None:
        """Return the size that ImageResizeKJv2 makes by the way that is chosen."""
        width, height = (int(self.number(node, name) or 0) for name in ("width", "height"))
        way = str(self.of(node, "keep_proportion", "stretch"))
        if way in ("resize", "total_pixels"):
            made = None if size is None else _fitted(size, width, height, whole=way == "resize")
        elif size is not None and way in ("stretch", "crop"):
            made = (width or size[0], height or size[1])
        else:
            made = self._pair(node, "width", "height")
        step = int(self.number(node, "divisible_by") or 1) or 1
        return None if made is None else (made[0] // step * step, made[1] // step * step)

    def _by_way(self, node: ComfyNode, size: tuple[int, int] | None) -> tuple[int, int] | None:
        """Return the size that ResizeImageMaskNode makes by the way that is chosen."""
        way = self.of(node, "resize_type")
        number = {
            key.partition(".")[2]: self.number(node, key)
            for key in node.inputs
            if key.startswith("resize_type.")
        }
        if way == "scale dimensions":
            return self._scaled(size, number.get("width"), number.get("height"))
        if size is None:
            return None
        if way == "scale by multiplier":
            return _times(size, number.get("multiplier"))
        for word, given in (
            ("longer", max(size)),
            ("shorter", min(size)),
            ("width", size[0]),
            ("height", size[1]),
        ):
            wanted = number.get(f"{word}_size") or number.get(word)
            if way in (f"scale {word} dimension", f"scale {word}") and wanted:
                return _times(size, wanted / given)
        multiple = number.get("multiple")
        if way == "scale to multiple" and multiple:
            return int(size[0] // multiple * multiple), int(size[1] // multiple * multiple)
        return None

    def _scaled(
        self, size: tuple[int, int] | None, width: float | None, height: float | None
    ) -> tuple[int, int] | None:
        """Return a size of which a side left at 0 keeps the picture's shape."""
        if width and height:
            return int(width), int(height)
        if size is None or not (width or height):
            return size
        return _times(size, width / size[0] if width else (height or 0) / size[1])

    def _pair(self, node: ComfyNode, *names: str) -> tuple[int, int] | None:
        width, height = (self.number(node, name) for name in names)
        return (int(width), int(height)) if width and height else None

    def _probed(self, node: ComfyNode) -> Info | None:
        """Return what is known of the file of a loading node; None where it is not here, or no media file."""
        from soundstage.media.probe import probe

        path = self.find(file_name(self, node))
        try:
            return None if path is None else probe(str(path))
        except SoundstageError:
            return None

    def _file_size(self, node: ComfyNode) -> tuple[int, int] | None:
        info = self._probed(node)
        return (info.width, info.height) if info is not None and info.width else None

    def _rate(self, node: ComfyNode) -> float | None:
        """Return the rate of a clip's file."""
        link = node.inputs.get("video")
        file = self.graph.nodes[link.node] if isinstance(link, Link) else None
        info = self._probed(file) if file is not None and file.type in NODES else None
        return None if info is None else info.fps


def file_name(values: NodeValues, node: ComfyNode) -> str:
    """Return the name of the file that a node loads, as it is written there."""
    name = next(
        (values.of(node, key) for key in ("image", "file", "video", "audio") if key in node.inputs), ""
    )
    return str(name or "").removesuffix(" [input]").removesuffix(" [output]")


def expression(text: str, names: Mapping[str, Any]) -> float:
    """Return the value of a sum of numbers, named values and a few functions, such as "a * b + 1".

    Raises ValueError for anything else, KeyError for a name that has no number.
    """
    if len(text) > MAX_LETTERS:
        raise ValueError("too long")
    return _worked_out(ast.parse(text.strip(), mode="eval").body, names)


def _worked_out(part: ast.expr, names: Mapping[str, Any]) -> float:
    if isinstance(part, ast.Constant) and isinstance(part.value, (int, float)):
        return part.value
    if isinstance(part, ast.Name):
        value = names[part.id]
        if not isinstance(value, (int, float)):
            raise KeyError(part.id)
        return value
    if isinstance(part, ast.UnaryOp) and isinstance(part.op, (ast.USub, ast.UAdd)):
        value = _worked_out(part.operand, names)
        return -value if isinstance(part.op, ast.USub) else value
    if isinstance(part, ast.BinOp) and type(part.op) in _SUMS:
        return float_or_int(
            _SUMS[type(part.op)](_worked_out(part.left, names), _worked_out(part.right, names))
        )
    if isinstance(part, ast.Call) and isinstance(part.func, ast.Name) and part.func.id in _FUNCTIONS:
        return float_or_int(_FUNCTIONS[part.func.id](*(_worked_out(arg, names) for arg in part.args)))
    raise ValueError(f"{type(part).__name__} is no part of a sum")


def _fitted(size: tuple[int, int], width: int, height: int, *, whole: bool) -> tuple[int, int] | None:
    """Return a picture's size within another, or with as many pixels. A side of 0 is left to the picture."""
    if not whole:
        return _times(size, math.sqrt(width * height / (size[0] * size[1])))
    factors = [wanted / own for wanted, own in zip((width, height), size, strict=True) if wanted]
    return _times(size, min(factors, default=1.0))


def _number(value: Any) -> Any:
    """Return the number that a text is; other values as they are."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return None


def float_or_int(value: Any) -> float:
    if abs(value) > 1e15:
        raise ValueError("too large")
    return value  # type: ignore[no-any-return]


def _times(size: tuple[int, int], factor: float | None) -> tuple[int, int] | None:
    return (round(size[0] * factor), round(size[1] * factor)) if factor else None
