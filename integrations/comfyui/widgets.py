"""Widgets of ComfyUI made from the fields of Soundstage's records, and the fields again from their values.

A field is described once, beside its type: its meaning becomes the tooltip, its range the widget's. ComfyUI
has no empty number, so a number below the range leaves a field out; so do the word `auto` and an empty text.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from soundstage.errors import RequestError, shown
from soundstage.fields.describe import FieldHelp, field_help, field_names
from soundstage.request.request import Request

AUTO = "auto"
BOTH = " and "  # between the words of a field that takes several
MOST_WHOLE = 2**53 - 1  # a browser's numbers hold no larger whole one
SOCKETS = frozenset({"guides", "references", "source", "audio", "loras", "take"})  # of a request
MEDIA = frozenset({"image", "video", "audio", "mask", "file"})  # of its records
Widget = tuple[Any, dict[str, Any]]


def plain_fields(owner: type) -> list[str]:
    """Return the fields of a record that are typed, not linked to another node."""
    linked = SOCKETS if owner is Request else MEDIA
    return [name for name in field_names(owner) if name not in linked]


def widgets(owner: type, names: Iterable[str]) -> dict[str, Widget]:
    """Return the widgets of some fields of a record by name."""
    return {name: _widget(field_help(owner, name)) for name in names}


def read(owner: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that widgets hold, without those left out. Values of other names are passed over."""
    found = {}
    for name in plain_fields(owner):
        if name in values:
            value = _value(field_help(owner, name), values[name])
            found.update({} if value is None else {name: value})
    return found


def _widget(told: FieldHelp) -> Widget:
    """Return the type and the options of a field's widget."""
    words = _words(told)
    if words:
        default = _joined(told.default) if told.default else words[0]
        return words, {"default": default, "tooltip": _tooltip(told)}
    if told.kinds == {"boolean"}:
        return "BOOLEAN", {"default": bool(told.default), "tooltip": told.meaning}
    if _is_number(told):
        return _number(told)
    many_lines = told.path.endswith("prompt")
    default = "" if told.default in (None, {}, []) else str(told.default)
    return "STRING", {"default": default, "multiline": many_lines, "tooltip": _tooltip(told)}


def _number(told: FieldHelp) -> Widget:
    low, high = _low(told), min(told.most or MOST_WHOLE, MOST_WHOLE)
    options = {"default": told.default, "min": low, "max": high, "tooltip": _tooltip(told)}
    if told.default is None:
        below = low if told.above is not None else low - 1
        tooltip = f"{_tooltip(told)} {below:g} leaves it out."
        options.update({"default": below, "min": below, "tooltip": tooltip})
    if told.path == "seed":
        options.update({"default": 0, "min": 0, "control_after_generate": True, "tooltip": _tooltip(told)})
    if told.whole:
        return "INT", {key: int(v) if isinstance(v, float) else v for key, v in options.items()}
    return "FLOAT", {**options, "step": 0.05, "round": False}


def _value(told: FieldHelp, value: Any) -> Any:
    """Return what a field is given by its widget; None where it is left out."""
    if _words(told):
        if value == AUTO and told.default is None:
            return None
        return str(value).split(BOTH) if "array" in told.kinds else str(value)
    if told.kinds == {"boolean"}:
        return bool(value)
    if _is_number(told):
        left_out = told.default is None and told.path != "seed" and _is_below(told, value)
        return None if left_out else value
    return _from_text(told, str(value).strip()) if value is not None else None


def _from_text(told: FieldHelp, text: str) -> Any:
    """Return the value that a text spells: JSON, a list with commas, a number, or words."""
    if not text:
        return None
    if text[0] in "[{" and told.kinds & {"object", "array"}:
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise RequestError(
                f"{told.path} is {shown(text)}, which is not JSON ({error})", field=told.path
            ) from None
    if "array" in told.kinds and ("," in text or "string" not in told.kinds):
        return [_plain(part.strip()) for part in text.split(",")]
    return _plain(text) if told.kinds & {"number", "integer"} else text


def _plain(text: str) -> Any:
    """Return a number where a text is one."""
    try:
        return int(text) if text.lstrip("-").isdecimal() else float(text)
    except ValueError:
        return text


def _words(told: FieldHelp) -> list[str]:
    """Return the entries of a field's list of words; none where it is no such field."""
    if not told.choices or told.kinds & {"number", "integer"}:
        return []
    if "array" in told.kinds:
        return [_joined(told.default), *told.choices]
    return list(told.choices) if told.default is not None else [AUTO, *told.choices]


def _joined(value: Any) -> str:
    return BOTH.join(value) if isinstance(value, list) else str(value)


def _is_number(told: FieldHelp) -> bool:
    """Return whether a field is one number, and a number below its range can leave it out where it may be."""
    alone = told.kinds <= {"number", "integer", "null"} and bool(told.kinds)
    return alone and (told.default is not None or _low(told) >= 0)


def _low(told: FieldHelp) -> float:
    return next((bound for bound in (told.least, told.above) if bound is not None), 0)


def _is_below(told: FieldHelp, value: float) -> bool:
    return value <= told.above if told.above is not None else value < _low(told)


def _tooltip(told: FieldHelp) -> str:
    return f"{told.meaning} {told.takes.capitalize()}.".removesuffix(" .")
