"""A training as a server takes it: clips of this machine become a zip, other files references to uploads.

Fields are those of a training's config, by their names or with dots; a recipe, a .yaml file, the config.json
of a training before, or a request of a hosted trainer may stand below them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soundstage.client.sending import KNOWN, Upload, check_words, outgoing
from soundstage.client.training_data import dataset_words
from soundstage.dataset.config import CONFIG
from soundstage.errors import RequestError, shown
from soundstage.jobs.references import ASSET, LORA, REMOTE
from soundstage.jobs.training import OWN, RECIPE, spread, training_places, with_over
from soundstage.training.tuning.config import config_path, fields_of, recipe_names, with_changes

JOB_WORDS = ("model", "priority", "label", "webhook_url")
ConfigSource = str | Path | Mapping[str, Any]


@dataclass(frozen=True)
class OutgoingTraining:
    """A training to send: the JSON of its job, the zip or folder of its clips, and other files."""

    asked: dict[str, Any]
    data: Path | None
    uploads: list[Upload]


def outgoing_training(
    data: str | Path | None, config: ConfigSource | None, words: Mapping[str, Any]
) -> OutgoingTraining:
    """Return a training to send. data: a folder or zip, or a reference; None is what the config names.

    config: a recipe, a file, or fields. words: fields above it, and those of the job. Raises RequestError.
    """
    given = dict(words)
    job = {name: given.pop(name) for name in JOB_WORDS if given.get(name) is not None}
    dataset = dict(given.pop("dataset", None) or {})
    below = {} if config is None else _read(config)
    if below.get("model") and "model" not in job and Path(str(below["model"])).name == below["model"]:
        job["model"] = below["model"]
    training = with_changes(below.get("training", {}), dict(spread(given)))
    place = data if data is not None else below.get("data")
    if place is None:
        raise RequestError("data is missing; give a folder of clips, or a zip of them", field="data")
    asked: dict[str, Any] = {
        "kind": "train", **job, "data": str(place), "training": training,
        "dataset": {**below.get("dataset", {}), **dataset},
    }  # fmt: skip
    training.update(with_over(training))
    uploads = _written_out(training)
    for reference in training_places(asked):
        if reference.key != "data" and (upload := _upload(reference)) is not None:
            uploads.append(upload)
    local = None if str(place).startswith((ASSET, "as_", *REMOTE)) else Path(place)
    if local is not None and not local.exists():
        raise RequestError(
            f"data is {shown(str(place))}, and there is no such folder or zip; give one, or "
            '"asset:ID" of an upload',
            field="data",
        )
    if local is not None:
        local = local.parent if local.name == CONFIG else local
        asked["dataset"] = dataset_words(local, asked["dataset"])
    check_words({**asked, "data": ASSET})
    return OutgoingTraining(asked, local, uploads)


def _read(config: ConfigSource) -> dict[str, Any]:
    """Return what a config has, as parts of a job: data, model, dataset and training."""
    if isinstance(config, Mapping):
        return _parts(dict(config))
    if str(config) in recipe_names():
        return {"training": {RECIPE: str(config)}}
    path = config_path(config)
    if path.suffix.lower() == ".json":
        return _of_json(path)
    return _parts(fields_of(path))


def _parts(fields: dict[str, Any]) -> dict[str, Any]:
    """Return a config's fields without those that are a server's own."""
    if fields.get("kind") == "train":
        return {name: fields[name] for name in ("data", "model", "dataset", "training") if name in fields}
    kept = {name: value for name, value in fields.items() if name.partition(".")[0] not in OWN}
    return {"training": kept, "model": fields.get("model"), "data": fields.get("data")}


def _of_json(path: Path) -> dict[str, Any]:
    """Return what the config.json of a training, or a request of a hosted trainer, asks for."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(
            f"{path} is no JSON file that can be read ({error}); correct it", field="config"
        ) from error
    inner = found.get("input", found) if isinstance(found, dict) else {}
    if isinstance(inner, dict) and "training_data_url" in inner:
        from soundstage.training.tuning.hosted import config_fields, dataset_fields, read_hosted

        asked = read_hosted(path)
        own = {"training": config_fields(asked), "dataset": dataset_fields(asked)}
        return {**own, "data": asked.training_data_url}
    if not isinstance(found, dict):
        raise RequestError(f"{path} holds {shown(found)}; give the fields of a training", field="config")
    return _parts(found)


def _written_out(training: dict[str, Any]) -> list[Upload]:
    """Write the requests of validation clips out, in place, and return the files that they need."""
    inner = training.get("validation")
    asked = inner.get("requests") if isinstance(inner, Mapping) else None
    if not isinstance(asked, list | tuple):
        return []
    made, uploads = [], []
    for fields in asked:
        if not isinstance(fields, Mapping):
            return []  # the server says what is wrong
        own = {str(name): value for name, value in fields.items()}
        written, files = outgoing(str(own.pop("prompt", "")), own)
        made.append(written)
        uploads += files
    training["validation"] = {**inner, "requests": made}  # type: ignore[dict-item]
    return uploads


def _upload(place: Any) -> Upload | None:
    """Return the upload of a LoRA below; None where the server has what a place names."""
    if place.text.startswith(KNOWN):
        return None
    path = Path(place.text)
    if path.is_file():
        return Upload(place, path)
    if place.is_lora and path.name == place.text and path.suffix != ".safetensors":
        place.put(LORA + place.text)
        return None
    raise RequestError(
        f"{place.where} is {shown(place.text)}, and there is no such file; give the path of one",
        field=place.field,
    )
