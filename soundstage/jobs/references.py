"""References in a request: the words that stand for files where a client has no path.

"asset:as_...", "lora:NAME", "file:REL" below a server's own folder, and https addresses and data: URIs, which
are brought in as assets first. The stored request keeps references; local paths take their places only where
it is planned and made.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from soundstage.errors import RequestError, shown
from soundstage.jobs.views import AssetKind
from soundstage.request.request import Request

ASSET, LORA, FILE = "asset:", "lora:", "file:"
REMOTE = ("https:", "http:", "data:")
DATA = "data"  # the key of a training's zip
LISTS = {
    "guides": ("image",),
    "references": ("video", "mask"),
    "controls": ("file", "mask", "image"),
    "speakers": ("file",),
    "loras": ("path",),
}
RECORDS = {"source": ("video", "audio", "mask"), "audio": ("file",)}
TRAINING = "training."
RIGHT = 'give "asset:ID" of an uploaded file, an https address, or a data: URI'
RIGHT_DATA = 'give "asset:ID" of a zip that was uploaded with the purpose data, or an https address'
RIGHT_LORA = 'give "lora:NAME" of a registered LoRA, or "asset:ID" of an uploaded one'


@dataclass(frozen=True)
class Brought:
    """A file that was fetched or decoded, in the folder of temporary files. info: fields of an Asset."""

    path: Path
    name: str | None
    media_type: str
    info: Mapping[str, Any] = field(default_factory=dict)


# Brings what an address or data: URI refers to. Gets the reference, its field, the folder for the file, and
# the kind of asset that is wanted.
Bring = Callable[[str, str, Path, AssetKind], Brought]


@dataclass(frozen=True)
class ReferencePlace:
    """A place of a request that names a file: record[key]. where: as messages call it."""

    record: MutableMapping[str, Any]
    key: str
    where: str

    @property
    def is_lora(self) -> bool:
        return self.key == "path"

    @property
    def field(self) -> str:
        """Return the field of the request, or of a training's config with what is before it."""
        own = self.where.removeprefix(TRAINING)
        return self.where[: len(self.where) - len(own)] + re.split(r"[\[.]", own, maxsplit=1)[0]

    @property
    def text(self) -> str:
        return str(self.record[self.key])

    def put(self, text: str) -> None:
        """Put another word for the file there."""
        self.record[self.key] = text


def checked_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request's fields, checked and written out, without those left at their defaults.

    Raises RequestError for what no server takes: folders of takes, files of recipes, embeddings and configs.
    """
    request = Request(**apart(fields))
    if request.take is not None and getattr(request.take, "folder", None) is not None:
        raise RequestError("take.folder is a folder of one's own machine; a server takes none", field="take")
    if "/" in request.recipe or "\\" in request.recipe or request.recipe.endswith((".yaml", ".yml")):
        raise RequestError(
            f"recipe is {shown(request.recipe)}; give the name of one, a server takes no file", field="recipe"
        )
    for i, control in enumerate(request.controls):
        own = next(
            (name for name in ("model", "detector", "paths") if getattr(control, name) is not None), None
        )
        if own is not None:
            raise RequestError(
                f"controls[{i}].{own} is a file of one's own machine; a server takes none: prepare the "
                "reference with `soundstage control prepare` and give it by references",
                field="controls",
            )
    if request.embeddings is not None:
        raise RequestError(
            "embeddings is a file of one's own machine; a server takes none", field="embeddings"
        )
    ocio = None if request.output is None else request.output.ocio
    if ocio is not None and ("/" in ocio or "\\" in ocio or ocio.endswith(".ocio")):
        raise RequestError(
            f"output.ocio is {shown(ocio)}; give the name of a built-in config, a server takes no file",
            field="output",
        )
    plain = Request(prompt=request.prompt).to_dict()
    found = request.to_dict()
    return {key: value for key, value in found.items() if key == "prompt" or value != plain[key]}


def places(fields: Mapping[str, Any]) -> Iterator[ReferencePlace]:
    """Yield the places of checked fields that name a file."""
    for name, keys in LISTS.items():
        for index, record in enumerate(fields.get(name) or ()):
            yield from _of_record(record, keys, f"{name}[{index}]")
    for name, keys in RECORDS.items():
        record = fields.get(name)
        if record:
            yield from _of_record(record, keys, name)


def kind_of(place: ReferencePlace) -> AssetKind:
    """Return the kind of asset that a place takes."""
    if place.key == DATA:
        return "data"
    return "lora" if place.is_lora else "mask" if place.key == "mask" else "input"


def unknown(place: ReferencePlace) -> RequestError:
    """Return the error for a word that is no reference."""
    right = RIGHT_LORA if place.is_lora else RIGHT_DATA if place.key == DATA else RIGHT
    return RequestError(f"{place.where} is {shown(place.text)}; {right}", field=place.field)


def _of_record(
    record: MutableMapping[str, Any], keys: tuple[str, ...], where: str
) -> Iterator[ReferencePlace]:
    for key in keys:
        if record.get(key) is not None:
            yield ReferencePlace(record, key, f"{where}.{key}")


def apart(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields with data: URIs as fields of records, since they are longer than any path may be."""
    found: dict[str, Any] = {}
    for name, value in fields.items():
        keys = LISTS.get(name, RECORDS.get(name, ("",)))
        if isinstance(value, list | tuple):
            found[name] = [_apart_one(item, keys[0]) for item in value]
        else:
            found[name] = _apart_one(value, keys[0])
    return found


def _apart_one(value: Any, key: str) -> Any:
    return {key: value} if key and isinstance(value, str) and value.startswith("data:") else value
