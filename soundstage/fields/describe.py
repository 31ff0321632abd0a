"""Meaning and values of fields, read from the JSON schema of their record.

    field_help(Request, "guides.strength").text
    "How firmly the guide is kept: 1 keeps it, 0 ignores it. From 0 to 1. [default: 1]"

The command line's help, the tables in docs/ and the messages about values out of range are made from it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

Node = Mapping[str, Any]  # of a JSON schema


@dataclass(frozen=True)
class FieldHelp:
    """Meaning and values of one field."""

    path: str
    """Where it is in its record: "guides.strength"."""
    meaning: str
    """One or more sentences; names neither the range, the unit nor the default."""
    unit: str = ""
    """In words: "seconds"."""
    range: str = ""
    """"from 0 to 1", "above 0 and up to 20", "16 or more"."""
    choices: tuple[str, ...] = ()
    """The words it takes, where only some are right."""
    examples: tuple[str, ...] = ()
    default: Any = None
    """As JSON has it; None where the meaning says what is taken instead."""
    required: bool = False
    whole: bool = False
    """Whether its numbers are whole."""
    kinds: frozenset[str] = frozenset()
    """JSON types of its values: "number", "string", "array", "null"."""
    least: float | None = None
    """Smallest of its numbers, where there is one."""
    above: float | None = None
    """The number that its numbers are larger than, where there is one."""
    most: float | None = None
    """Largest of its numbers, where there is one."""

    @property
    def takes(self) -> str:
        """Return the range with its unit, or the right words unless the meaning names them."""
        if self.range:
            return f"{self.range} {self.unit}".strip()
        named = all(word in self.meaning for word in self.choices)
        return "" if named else f"one of {', '.join(self.choices)}"

    @property
    def default_text(self) -> str:
        """Return the default in words; empty where there is none."""
        if self.default is None or self.default in ([], {}):
            return ""
        if isinstance(self.default, list):
            return " and ".join(map(_shown, self.default))
        return _shown(self.default)

    @property
    def text(self) -> str:
        """Return meaning, range and default in one line."""
        takes = f" {self.takes[0].upper()}{self.takes[1:]}." if self.takes else ""
        default = f" [default: {self.default_text}]" if self.default_text else ""
        return f"{self.meaning}{takes}{default}"

    @property
    def wanted(self) -> str:
        """Return what a message asks for: "a whole number of frames from 1 to 9, such as 4"."""
        kind = "a whole number" if self.whole else "a number"
        of = f" of {self.unit}" if self.unit else ""
        such_as = f", such as {self.examples[0]}" if self.examples else ""
        return f"{kind}{of} {self.range}{such_as}"


def field_help(owner: type, path: str) -> FieldHelp:
    """Return what a field means and takes. owner: Request or another record. path: "guides.strength".

    Raises KeyError for a field that does not exist.
    """
    node, required = _at(owner, path)
    parts = list(_within(node, _schema(owner)))
    return FieldHelp(
        path=path,
        meaning=" ".join(node.get("description", "").split()),
        unit=next((part["unit"] for part in parts if "unit" in part), ""),
        range=next((text for part in parts if (text := _range(part))), ""),
        choices=tuple(dict.fromkeys(str(word) for part in parts for word in _words(part))),
        examples=tuple(_shown(value) for part in parts for value in part.get("examples", ())),
        default=node.get("default"),
        required=required,
        whole=any(part.get("type") == "integer" for part in parts),
        kinds=frozenset(_kinds(node, _schema(owner))),
        least=_bound(parts, "minimum"),
        above=_bound(parts, "exclusiveMinimum"),
        most=_bound(parts, "maximum"),
    )


def field_names(owner: type, path: str = "") -> tuple[str, ...]:
    """Return the names of a record's fields, or of those of the record at a path within it."""
    node = _at(owner, path)[0] if path else _schema(owner)
    return tuple(name for part in _within(node, _schema(owner)) for name in part.get("properties", ()))


def _at(owner: type, path: str) -> tuple[Node, bool]:
    """Return the node of a field, or of a mapping's value, and whether the field must be given."""
    schema = _schema(owner)
    node: Node = schema
    required = False
    for name in path.split("."):
        parts = list(_within(node, schema))
        home = next((part for part in parts if name in part.get("properties", {})), None)
        values = next((part for part in parts if isinstance(part.get("additionalProperties"), Mapping)), None)
        if home is not None:
            node, required = home["properties"][name], name in home.get("required", ())
        elif values is not None:
            node, required = values["additionalProperties"], False
        else:
            raise KeyError(f"{owner.__name__} has no field {path}")
    return node, required


@functools.cache
def _schema(owner: type) -> dict[str, Any]:
    return TypeAdapter(owner).json_schema()


def _within(node: Node, schema: Node) -> Iterator[Node]:
    """Yield a node and the nodes of what it may hold: of a union, a list's items, a mapping's values."""
    yield node
    if "$ref" in node:
        yield from _within(schema["$defs"][node["$ref"].rpartition("/")[2]], schema)
    for key in ("anyOf", "allOf", "prefixItems"):
        for item in node.get(key, ()):
            yield from _within(item, schema)
    for key in ("items", "additionalProperties"):
        if isinstance(node.get(key), Mapping):
            yield from _within(node[key], schema)


def _words(node: Node) -> tuple[Any, ...]:
    """Return the words a node takes; of one that takes any text, those it names as examples."""
    named = node.get("examples", ()) if node.get("type") == "string" else ()
    return tuple(node.get("enum", named)) or ((node["const"],) if "const" in node else ())


def _kinds(node: Node, schema: Node) -> Iterator[str]:
    """Yield the JSON types of a field's own values, not of what they hold."""
    if "type" in node:
        yield node["type"]
    if "$ref" in node:
        yield from _kinds(schema["$defs"][node["$ref"].rpartition("/")[2]], schema)
    for item in node.get("anyOf", ()):
        yield from _kinds(item, schema)


def _bound(parts: list[Node], key: str) -> float | None:
    return next((part[key] for part in parts if key in part), None)


def _range(node: Node) -> str:
    low, high = node.get("minimum"), node.get("maximum")
    above, below = node.get("exclusiveMinimum"), node.get("exclusiveMaximum")
    if low is not None and high is not None:
        text = f"from {_shown(low)} to {_shown(high)}"
    elif low is not None and below is not None:
        text = f"from {_shown(low)} to below {_shown(below)}"
    else:
        ends = [
            "" if low is None else f"{_shown(low)} or more",
            "" if above is None else f"above {_shown(above)}",
            "" if high is None else f"up to {_shown(high)}",
        ]
        text = " and ".join(filter(None, ends))
    return f"{text}, in multiples of {_shown(node['multipleOf'])}" if "multipleOf" in node else text


def _shown(value: Any) -> str:
    """Return a number or word as help shows it: 1 for 1.0, on and off for flags."""
    if value == 2**63 - 1:
        return "2^63 - 1"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else f"{value:g}"
    return str(value)
