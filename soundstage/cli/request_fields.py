"""Read the values of options into the fields of a Request."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from soundstage.cli.options import TABLE, Values
from soundstage.errors import MediaError, RequestError, listed
from soundstage.request.words import (
    canvas_fields,
    control_fields,
    file_fields,
    guide_fields,
    lora_fields,
    number,
    numbers,
    span_fields,
)


def request_fields(values: Values, kept: Values | None = None) -> Values:
    """Return the fields of a Request; options that were not given are left out.

    kept: fields of a request that the options change, so that one about an input may be about that one's.
    Raises RequestError for words that do not fit their option.
    """
    given = {
        name: value for name, value in values.items() if value not in (None, (), []) and value is not False
    }
    fields, kept = _filled("", given), kept or {}
    crop = {"crop": given["crop"]} if "crop" in given else {}
    for key, read in INPUTS.items():
        found = read(given, crop, kept.get(key))
        if found:
            fields[key] = found
    _check_used(given, fields)
    if "seed" in given:
        fields["seed"] = None if given["seed"] == "random" else given["seed"]
    if "control" in given:
        fields["controls"] = [control_fields(text, "--control") for text in given["control"]]
    if "lora" in given:
        fields["loras"] = [lora_fields(text, "--lora") for text in given["lora"]]
    if given.get("speaker"):
        fields["speakers"] = [{"file": path} for path in given["speaker"]]
    if "only" in given:
        fields["modalities"] = {_choice("--only", given["only"], "video", "audio")}
    for key, example in (("sigmas", "1,0.7,0.4,0"), ("lengths", "2,1")):
        if key in given:
            fields[key] = numbers(given[key], f"--{key}", example)
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
    "reference_mask": (("references",), "a clip beside; give one by --reference"),
    "reference_downscale": (("references",), "a clip beside; give one by --reference"),
}


def _check_used(given: Values, fields: Values) -> None:
    """Raise RequestError for an option about an input that is not given: nothing would read it."""
    for name, (inputs, what) in _ABOUT.items():
        if name in given and not any(key in fields for key in inputs):
            told = f"--{name.replace('_', '-')} is about {what}"
            raise RequestError(told, field=inputs[0], unused=[name])


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


# --- Files of inputs ----------------------------------------------------------------------------------

_FILES = {
    "guides": ("image",),
    "references": ("video", "mask"),
    "controls": ("file", "mask", "image"),
    "source": ("video", "audio", "mask"),
    "audio": ("file",),
    "speakers": ("file",),
}


def check_files(fields: Values) -> None:
    """Raise RequestError for the first input of a request's fields whose file cannot be read."""
    from soundstage.media.probe import probe

    for field, place, file in _files(fields):
        try:
            probe(file)
        except MediaError as error:
            raise RequestError(f"{place}: {error}", field=field) from None


def _files(fields: Values) -> Iterator[tuple[str, str, str]]:
    """Yield (field, place in the request, file) of inputs that are given by their names."""
    for field, names in _FILES.items():
        value = fields.get(field)
        many = isinstance(value, list)
        for i, record in enumerate(value if isinstance(value, list) else [value]):
            for name in names if isinstance(record, dict) else ():
                if isinstance(record.get(name), (str, Path)):
                    yield field, f"{field}[{i}].{name}" if many else f"{field}.{name}", str(record[name])


# --- Words of one option ----------------------------------------------------------------------------


def _guides(given: Values, crop: Values, kept: Any) -> list[Values]:
    shared = crop | _filled("guides", given)
    if "mode" in shared:
        _choice("--image-mode", shared["mode"], "replace", "guide")
    guides = [guide_fields(text, "guides.image") | shared for text in given.get("image", [])]
    if "last_image" in given:
        guides.append(file_fields("image", given["last_image"]) | {"at": "last"} | shared)
    return guides or _changed(kept, shared)


def _references(given: Values, crop: Values, kept: Any) -> list[Values]:
    shared = crop | _filled("references", given)
    references = [file_fields("video", text) | shared for text in given.get("reference", [])]
    return references or _changed(kept, shared)


def _changed(kept: Any, shared: Values) -> list[Values]:
    """Return the records that are kept with other values, or nothing where there are none."""
    return [{**record, **shared} for record in kept or ()] if shared else []


def _source(given: Values, crop: Values, kept: Any) -> Values:
    parts = _filled("source", given)
    if "remake" in given:
        parts["modalities"] = {_choice("--remake", given["remake"], "video", "audio")}
    if "span" in given:
        parts["regenerate"] = [span_fields(text, "source.regenerate") for text in given["span"]]
    if "canvas" in given:
        parts["canvas"] = canvas_fields(given["canvas"], "--canvas")
    if parts and "video" not in parts and not kept:
        about = [o for o in TABLE if o.name in given and any(_record(f) == "source" for f in o.fields)]
        raise RequestError(
            f"{about[0].flags[0]} is about a clip to start from; give it by --video",
            field="source",
            unused=[option.name for option in about],
        )
    return parts | crop if parts or kept else {}


def _audio(given: Values, _: Values, kept: Any) -> Values:
    parts = _filled("audio", given)
    if parts and "file" not in parts and not kept:
        raise RequestError(
            "options of a sound are given, but no sound; give it by --audio",
            field="audio",
            unused=("audio_mode", "audio_start", "identity_guidance"),
        )
    return parts


def _output(given: Values, _: Values, kept: Any) -> Values:
    parts = _filled("output", given)
    if parts and "format" not in parts and not kept:
        raise RequestError(
            "options of high dynamic range are given, and the picture has none; ask for it by --hdr",
            field="output",
            unused=("hdr_curve", "exposure", "tone_map", "color_space", "ocio"),
        )
    return parts


def _scales(flag: str, texts: Sequence[str]) -> Values:
    """Read NAME=VALUE[@LEVEL] words into fields of guidance; those with a level are grouped under it."""
    scales: Values = {}
    for text in texts:
        word, at, level = text.partition("@")
        key, value = _assigned(flag, word)
        place = scales.setdefault(str(number(level, flag)), {}) if at else scales
        place[key] = value
    return scales


def _assigned(flag: str, text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        example = {"--relay": "epsilon=0.5", "--take": "adain=0.2"}.get(flag, "stg=1")
        raise RequestError(f"{flag} is '{text}'; give NAME=VALUE, such as {example}")
    key = name.strip().replace("-", "_")
    if key == "stg_blocks":
        return key, [int(number(part, flag)) for part in value.split(",")]
    read = number(value, flag)
    return key, int(read) if key == "skip_step" and read.is_integer() else read


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


def _choice(flag: str, value: str, *options: str) -> str:
    if value not in options:
        raise RequestError(f"{flag} is '{value}'; give one of {listed(value, options)}")
    return value


# The request's fields for inputs, and what reads each from the values, the crop and what is kept.
INPUTS: dict[str, Callable[[Values, Values, Any], Any]] = {
    "guides": _guides,
    "references": _references,
    "source": _source,
    "audio": _audio,
    "output": _output,
}
