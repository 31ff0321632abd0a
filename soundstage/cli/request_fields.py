"""Read the values of options into the fields of a Request."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from soundstage.cli.options import TABLE, Values
from soundstage.errors import RequestError, listed


def request_fields(values: Values) -> Values:
    """Return the fields of a Request; options that were not given are left out.

    Raises RequestError for words that do not fit their option.
    """
    given = {name: value for name, value in values.items() if value not in (None, (), [])}
    fields = _filled("", given)
    crop = {"crop": given["crop"]} if "crop" in given else {}
    for key, read in INPUTS.items():
        found = read(given, crop)
        if found:
            fields[key] = found
    _check_used(given, fields)
    if "lora" in given:
        fields["loras"] = [_lora(text) for text in given["lora"]]
    if "only" in given:
        fields["modalities"] = {_choice("--only", given["only"], "video", "audio")}
    for key in ("sigmas", "lengths"):
        if key in given:
            fields[key] = [_number(f"--{key}", part) for part in given[key].split(",")]
    for key in ("relay", "take"):
        if key in given:
            fields[key] = dict(_setting(f"--{key}", text) for text in given[key])
    for key in ("video_scale", "audio_scale"):
        if key in given:
            fields[f"{key}s"] = _scales(f"--{key.replace('_', '-')}", given[key])
    return fields


# Options that are about an input, the request's fields that have one, and how to give one.
_ABOUT = {
    "image_mode": (("guides",), "a picture; give one by --image"),
    "crf": (("guides",), "a picture; give one by --image"),
    "crop": (("guides", "references", "source"), "a picture or a clip; give one by --image or --video"),
    "reference_attention": (("references",), "a clip beside; give one by --reference"),
    "reference_downscale": (("references",), "a clip beside; give one by --reference"),
}


def _check_used(given: Values, fields: Values) -> None:
    """Raise RequestError for an option about an input that is not given: nothing would read it."""
    for name, (inputs, what) in _ABOUT.items():
        if name in given and not any(key in fields for key in inputs):
            raise RequestError(f"--{name.replace('_', '-')} is about {what}", field=inputs[0])


def _filled(record: str, given: Values) -> Values:
    """Return the fields of a record that options fill as they are; the record "" is the request itself."""
    return {
        o.field.rpartition(".")[2]: given[o.name]
        for o in TABLE
        if o.field and _record(o.field) == record and o.name in given
    }


def _record(field: str) -> str:
    """Return the record that a field is in: "source" for "source.start_s"."""
    return field.rpartition(".")[0]


# --- Words of one option ----------------------------------------------------------------------------

_STRENGTH = r"(?::(?P<strength>-?\d*\.?\d+))?$"
_PICTURE = re.compile(r"^(?P<path>.+?)(?:@(?P<time>last|before|f-?\d+|\d*\.?\d+s?))?" + _STRENGTH)
_CLIP = re.compile(r"^(?P<path>.+?)" + _STRENGTH)
# A file's name may hold ",rank=32" itself: what comes before its ending is no group.
_GROUPS = r"(?P<groups>(?:,\w+=(?!.*\.safetensors)[^,]*)*)$"
_ADAPTER = re.compile(
    r"^(?P<path>.+?)(?::(?P<strength>-?\d*\.?\d+))?(?:@(?P<span>[\d.]+s?-[\d.]+s?))?" + _GROUPS
)


def _guides(given: Values, crop: Values) -> list[Values]:
    shared = crop | _filled("guides", given)
    if "mode" in shared:
        _choice("--image-mode", shared["mode"], "replace", "guide")
    guides = [_picture(text) | shared for text in given.get("image", [])]
    if "last_image" in given:
        guides.append(_clip("image", given["last_image"]) | {"at": "last"} | shared)
    return guides


def _picture(text: str) -> Values:
    match = _PICTURE.match(text)
    if match is None:
        raise RequestError(
            f"guides.image is '{text}'; give PATH[@TIME][:STRENGTH], such as door.png@1.5:0.8", field="guides"
        )
    guide: Values = {"image": match["path"]} | _strength(match["strength"])
    time = match["time"]
    if time in ("last", "before"):
        guide["at"] = time
    elif time is not None and time[0] == "f":
        guide["frame"] = int(time[1:])
    elif time is not None:
        guide["at"] = float(time.rstrip("s"))
    return guide


def _clip(key: str, text: str) -> Values:
    match = _CLIP.match(text)
    return {key: text} if match is None else {key: match["path"]} | _strength(match["strength"])


def _strength(text: str | None) -> Values:
    return {} if text is None else {"strength": float(text)}


def _references(given: Values, crop: Values) -> list[Values]:
    shared = crop | _filled("references", given)
    return [_clip("video", text) | shared for text in given.get("reference", [])]


def _source(given: Values, crop: Values) -> Values:
    parts = _filled("source", given)
    if "remake" in given:
        parts["modalities"] = {_choice("--remake", given["remake"], "video", "audio")}
    if "span" in given:
        parts["regenerate"] = [_span("source.regenerate", text) for text in given["span"]]
    if "canvas" in given:
        parts["canvas"] = _canvas(given["canvas"])
    if parts and "video" not in parts:
        first = next(o for o in TABLE if o.name in given and any(_record(f) == "source" for f in o.fields))
        raise RequestError(
            f"{first.flags[0]} is about a clip to start from; give it by --video", field="source"
        )
    return parts | crop if parts else {}


def _audio(given: Values, _: Values) -> Values:
    parts = _filled("audio", given)
    if parts and "file" not in parts:
        raise RequestError("options of a sound are given, but no sound; give it by --audio", field="audio")
    return parts


def _lora(text: str) -> Values:
    match = _ADAPTER.match(text)
    if match is None:
        raise RequestError(
            f"--lora is '{text}'; give PATH[:STRENGTH][@START-END][,GROUP=NUMBER], such as "
            "style.safetensors:0.8",
            field="loras",
        )
    span = {} if match["span"] is None else {"span": _span("loras", match["span"])}
    groups = _groups(match["groups"].split(",")[1:])
    return {"path": match["path"]} | _strength(match["strength"]) | span | groups


def _groups(words: Sequence[str]) -> Values:
    """Read GROUP=NUMBER words into a LoRA's groups. The request checks the names."""
    groups: dict[str, float] = {}
    for word in words:
        name, _, value = word.partition("=")
        if name in groups:
            raise RequestError(f"--lora has {name} twice, '{word}' too; give one", field="loras")
        groups[name] = _number("--lora", value)
    return {"groups": groups} if groups else {}


def _span(field: str, text: str) -> Values:
    """Read START-END. field: what a message is about; the command replaces it by its own word."""
    match = re.fullmatch(r"\s*([\d.]+)s?\s*-\s*([\d.]+)s?\s*", text)
    if match is None:
        raise RequestError(
            f"{field} has the span '{text}'; give START-END in seconds, such as 1.5-3",
            field=field.partition(".")[0],
        )
    return {"start_s": _number(field, match[1]), "end_s": _number(field, match[2])}


def _canvas(text: str) -> Values:
    parts = text.split(",")
    if len(parts) != 4 or not all(part.strip().isdigit() for part in parts):
        raise RequestError(
            f"--canvas is '{text}'; give LEFT,TOP,RIGHT,BOTTOM in pixels, such as 64,0,64,0", field="source"
        )
    return dict(zip(("left", "top", "right", "bottom"), map(int, parts), strict=True))


def _scales(flag: str, texts: Sequence[str]) -> Values:
    """Read NAME=VALUE[@LEVEL] words into fields of guidance; those with a level are grouped under it."""
    scales: Values = {}
    for text in texts:
        word, at, level = text.partition("@")
        key, value = _assigned(flag, word)
        place = scales.setdefault(str(_number(flag, level)), {}) if at else scales
        place[key] = value
    return scales


def _assigned(flag: str, text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        example = {"--relay": "epsilon=0.5", "--take": "adain=0.2"}.get(flag, "stg=1")
        raise RequestError(f"{flag} is '{text}'; give NAME=VALUE, such as {example}")
    key = name.strip().replace("-", "_")
    if key == "stg_blocks":
        return key, [int(_number(flag, part)) for part in value.split(",")]
    number = _number(flag, value)
    return key, int(number) if key == "skip_step" and number.is_integer() else number


def _setting(flag: str, text: str) -> tuple[str, Any]:
    """Read NAME=VALUE. A value that is no number stays a word, which the record takes or refuses."""
    name, equals, value = text.partition("=")
    if name == "folder" and value:
        return name, value
    try:
        return _assigned(flag, text)
    except RequestError:
        if equals and value:
            return name.strip().replace("-", "_"), value
        raise


def _number(flag: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise RequestError(f"{flag} holds '{text}', which is not a number") from None


def _choice(flag: str, value: str, *options: str) -> str:
    if value not in options:
        raise RequestError(f"{flag} is '{value}'; give one of {listed(value, options)}")
    return value


# The request's fields for inputs, and what reads each from the values and the crop.
INPUTS: dict[str, Callable[[Values, Values], Any]] = {
    "guides": _guides,
    "references": _references,
    "source": _source,
    "audio": _audio,
}
