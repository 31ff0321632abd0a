"""Read the words that stand for an input: a file's path, and what is said of it after the path.

    guide_fields("door.png@1.5:0.8")         # {"image": "door.png", "strength": 0.8, "at": 1.5}
    lora_fields("style.safetensors:0.8@1-2,audio=0.5")

The command line's options and the fields of a Request are read here. Each function returns the fields of a
record, which the record checks, and raises RequestError for words that do not fit.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from soundstage.errors import RequestError, shown

Fields = dict[str, Any]

# How the words are written.
GUIDE_WORDS, FILE_WORDS = "PATH[@TIME][:STRENGTH]", "PATH[:STRENGTH]"
LORA_WORDS = "PATH[:STRENGTH][@START-END][,GROUP=NUMBER]"
CONTROL_WORDS = "KIND:PATH[:STRENGTH][,NAME=VALUE]"
SPAN_WORDS, CANVAS_WORDS = "START-END", "LEFT,TOP,RIGHT,BOTTOM"
SPAN_EXAMPLES = "1.5-3 or 1:05-1:10"

MAX_LETTERS = 4096  # of a path with its words; no file system has longer ones

_STRENGTH = r"(?::(?P<strength>-?\d*\.?\d+))?"
_PICTURE = re.compile(r"(?P<path>.+?)(?:@(?P<time>last|before|f-?\d+|\d*\.?\d+s?))?" + _STRENGTH)
_FILE = re.compile(r"(?P<path>.+?)" + _STRENGTH)
# A file's name may hold ",rank=32" itself: what comes before its ending is no group.
_GROUPS = r"(?P<groups>(?:(?!.*\.safetensors)(?:,\w+=[^,]*)+)?)"
_LORA = re.compile(r"(?P<path>.+?)" + _STRENGTH + r"(?:@(?P<span>[\d.:]+s?-[\d.:]+s?))?" + _GROUPS)
_SETTINGS = r"(?P<settings>(?:,\w+=[^,]*)*)"
_CONTROL = re.compile(r"(?P<kind>[\w-]+):(?P<path>.+?)" + _STRENGTH + _SETTINGS)
# Those of a control's words that are fields of its own, not settings of its kind.
CONTROL_FIELDS = ("mask", "image", "model", "paths", "attention", "downscale", "temporal", "crop")
_TIME = r"(?:\d{1,3}:){0,2}(?:\d{1,6}\.?\d*|\.\d+)"  # 1.5, or 1:05 and 1:00:05
_SPAN = re.compile(rf"\s*({_TIME})?s?\s*-\s*({_TIME})?s?\s*")


def guide_fields(text: str, where: str = "guides") -> Fields:
    """Read PATH[@TIME][:STRENGTH] into the fields of a Guide. where: as messages call the option or field."""
    match = _matched(_PICTURE, text)
    if match is None:
        raise RequestError(
            f"{where} is {shown(text)}; give {GUIDE_WORDS}, such as door.png@1.5:0.8", field="guides"
        )
    guide: Fields = {"image": match["path"]} | _strength(match)
    time = match["time"]
    if time in ("last", "before"):
        guide["at"] = time
    elif time is not None and time[0] == "f":
        guide["frame"] = int(time[1:])
    elif time is not None:
        guide["at"] = float(time.rstrip("s"))
    return guide


def file_fields(key: str, text: str) -> Fields:
    """Read PATH[:STRENGTH] into fields. key: the field of the path."""
    match = _matched(_FILE, text)
    return {key: text} if match is None else {key: match["path"]} | _strength(match)


def lora_fields(text: str, where: str = "loras") -> Fields:
    """Read PATH[:STRENGTH][@START-END][,GROUP=NUMBER] into the fields of a Lora."""
    match = _matched(_LORA, text)
    if match is None:
        raise RequestError(
            f"{where} is {shown(text)}; give {LORA_WORDS}, such as style.safetensors:0.8",
            field="loras",
        )
    _, is_strength, rest = match["path"].rpartition(".safetensors:")
    if is_strength and "/" not in rest:
        raise RequestError(
            f"STRENGTH of {where} is {shown(rest)}; give a number from -10 to 10, such as 0.8", field="loras"
        )
    span = {} if match["span"] is None else {"span": span_fields(match["span"], "the span")}
    groups = _groups(match["groups"].split(",")[1:], where)
    return {"path": match["path"]} | _strength(match) | span | groups


def control_fields(text: str, where: str = "controls") -> Fields:
    """Read KIND:PATH[:STRENGTH][,NAME=VALUE...] into the fields of a Control."""
    match = _matched(_CONTROL, text)
    if match is None:
        raise RequestError(
            f"{where} is {shown(text)}; give {CONTROL_WORDS}, such as canny:clip.mp4:0.8", field="controls"
        )
    control: Fields = {"kind": match["kind"], "file": match["path"]} | _strength(match)
    settings: Fields = {}
    for word in match["settings"].split(",")[1:]:
        name, _, value = word.partition("=")
        if name in settings or name in control:
            raise RequestError(f"{where} has {name} twice, '{word}' too; give one", field="controls")
        if name in ("attention", "downscale", "temporal"):
            control[name] = number(value, where)
        elif name in CONTROL_FIELDS:
            control[name] = value
        else:
            settings[name] = value
    return control | ({"settings": settings} if settings else {})


def span_fields(text: str, where: str) -> Fields:
    """Read START-END into the fields of a Span."""
    start_s, end_s = span_times(text)
    if start_s is None or end_s is None:
        raise RequestError(
            f"{where} is {shown(text)}; give {SPAN_WORDS} in seconds, such as {SPAN_EXAMPLES}",
            field=where.partition(".")[0] if "." in where else None,
        )
    return {"start_s": start_s, "end_s": end_s}


def span_times(text: str) -> tuple[float | None, float | None]:
    """Read START-END, where each may be left out, into seconds. Both are None for words that do not fit."""
    match = _SPAN.fullmatch(text)
    return (None, None) if match is None else (_seconds(match[1]), _seconds(match[2]))


def _seconds(time: str | None) -> float | None:
    """Return 65.0 for 1:05."""
    if time is None:
        return None
    total = 0.0
    for part in time.split(":"):
        total = total * 60 + float(part)
    return total


def canvas_fields(text: str, where: str) -> Fields:
    """Read LEFT,TOP,RIGHT,BOTTOM into the fields of a Canvas."""
    parts = text.split(",")
    if len(parts) != 4 or not all(re.fullmatch(r"\s*[0-9]{1,9}\s*", part) for part in parts):
        raise RequestError(
            f"{where} is {shown(text)}; give {CANVAS_WORDS} in pixels, such as 64,0,64,0",
            field="source",
        )
    return dict(zip(("left", "top", "right", "bottom"), map(int, parts), strict=True))


def number(text: str, where: str) -> float:
    """Read a number."""
    try:
        return float(text)
    except ValueError:
        raise RequestError(
            f"{where} holds {shown(text)}, which is not a number; give one, such as 0.8"
        ) from None


def numbers(text: str, where: str, example: str) -> list[float]:
    """Read numbers between commas. example: what messages propose."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise RequestError(f"{where} is {shown(text)}; give numbers, such as {example}") from None


def _matched(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    return pattern.fullmatch(text) if len(text) <= MAX_LETTERS else None


def _strength(match: re.Match[str]) -> Fields:
    return {} if match["strength"] is None else {"strength": float(match["strength"])}


def _groups(words: Sequence[str], where: str) -> Fields:
    """Read GROUP=NUMBER words into a LoRA's groups."""
    groups: dict[str, float] = {}
    for word in words:
        name, _, value = word.partition("=")
        if name in groups:
            raise RequestError(f"{where} has {name} twice, '{word}' too; give one", field="loras")
        groups[name] = number(value, where)
    return {"groups": groups} if groups else {}
