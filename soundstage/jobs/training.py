"""Jobs of kind train: the fields that a stranger may set, checked, planned and priced. Loads no torch.

A training is asked for by `data` (a zip), `dataset` (how samples are made of its clips) and `training`
(fields of a training's config, and a recipe they stand on). What is a server's own to say, or names its
files, is refused. `config_of` makes the config from the same fields where a job is admitted and made.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from soundstage.dataset.archives import unpack
from soundstage.errors import ConfigError, DatasetError, MediaError, RequestError, listed, shown
from soundstage.fields.describe import field_names
from soundstage.jobs import references
from soundstage.jobs.ids import hash_of, new_id
from soundstage.jobs.views import JobRequest, PassView, PlanView
from soundstage.library.model_files import ModelSet
from soundstage.library.sizes import model_sizes
from soundstage.memory.machine import ITEM_BYTES, Machine
from soundstage.training.tuning import zips
from soundstage.training.tuning.config import (
    RECIPES,
    TrainConfig,
    fields_of,
    read_config,
    recipe_names,
    with_changes,
)
from soundstage.training.tuning.price import (
    TuningPlace,
    TuningWork,
    choose_place,
    trained_numbers,
)
from soundstage.weights.header import read_header
from soundstage.weights.layouts import find_parts
from soundstage.weights.storage import Storage

RECIPE = "recipe"
# Fields of a config that are the server's, each with why.
OWN: Mapping[str, str] = {
    "data": "give data beside training",
    "output": "the server keeps the run",
    "model": "give model beside training",
    "device": "the server's workers have their devices",
    "memory_gb": "the server knows its memory",
    "logs": "losses are part of the result",
    "keep": "the last file is the result",
    "wants": "it is a recipe's word for people",
}
DATA_FOLDER, RUN_FOLDER = "data", "run"
PASS = "train"
GB = 1e9


def checked_training(asked: JobRequest, most: int | None = None) -> dict[str, Any]:
    """Return what a job's training is asked for by: data, dataset and training, checked, with references.

    most: steps that the server takes; 0 is no training. Raises RequestError for a field that is unknown,
    that a server takes from nobody, or that does not fit.
    """
    if not asked.data:
        raise RequestError('data is missing; give "asset:ID" of an uploaded zip of clips', field="data")
    data = f"{references.ASSET}{asked.data}" if asked.data.startswith("as_") else asked.data
    zips.check_fields(asked.dataset)
    _check_own(asked.training)
    training = with_changes({}, asked.training)
    fields = {"data": data, "dataset": dict(asked.dataset), "training": training}
    training.update(_with_lists(training))
    config = config_of(fields, "nano")
    _check_files(config, training)
    if most == 0:
        raise RequestError("kind is 'train', and this server trains nothing", field="kind")
    if most is not None and config.steps > most:
        raise refused("steps", f"is {config.steps}; this server trains up to {most} steps")
    if config.kind != "lora":
        raise refused("kind", f"is '{config.kind}'; a server trains LoRAs, so give lora or leave it out")
    if config.lora.start is not None:
        raise refused("lora.start", "names a file on a disk; a server takes none")
    if config.regularisers.prior_data is not None or config.regularisers.prior:
        raise refused("regularisers.prior_data", "names a dataset on a disk; a server takes none")
    return fields


def refused(name: str, why: str) -> RequestError:
    """Return the error for a field of a training."""
    return RequestError(f"training.{name} {why}", field=f"training.{name}")


@contextmanager
def told_of_training() -> Iterator[None]:
    """Let errors of a training's own checks within the block name the field of the job."""
    try:
        yield
    except DatasetError as error:
        raise RequestError(str(error), field="data") from None
    except RequestError as error:
        name = error.field or ""
        if name.split(".")[0] in TrainConfig.__dataclass_fields__:
            raise RequestError(str(error), field=f"training.{name}") from None
        raise


def _check_own(training: Mapping[str, Any]) -> None:
    known = (RECIPE, *(name for name in field_names(TrainConfig) if name not in OWN))
    for name in training:
        first = str(name).partition(".")[0]
        if first in OWN:
            raise refused(first, f"is not for a request to say: {OWN[first]}")
        if first not in known:
            raise RequestError(
                f"training has the field {shown(name)}, which does not exist; the fields are "
                f"{listed(first, known)}",
                field="training",
            )
    recipe = training.get(RECIPE)
    if recipe is not None and recipe not in recipe_names():
        raise refused(RECIPE, f"is {shown(recipe)}; give one of {listed(str(recipe), recipe_names())}")


def _with_lists(training: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that hold records with files, written out: validation clips, and LoRAs below."""
    found: dict[str, Any] = {}
    requests = _in(training, "validation").get("requests") or ()
    if not isinstance(requests, list | tuple) or not all(isinstance(one, Mapping) for one in requests):
        raise refused("validation.requests", "is no list of requests; give fields such as prompt for each")
    if requests:
        found["validation"] = {
            **_in(training, "validation"),
            "requests": [_checked_request(number, fields) for number, fields in enumerate(requests)],
        }
    return found | with_over(training)


def with_over(training: Mapping[str, Any]) -> dict[str, Any]:
    """Return the field lora with the LoRAs below as records, where it has some. Raises RequestError."""
    inner = _in(training, "lora")
    over = inner.get("over") or ()
    if not isinstance(over, list | tuple) or not all(isinstance(one, Mapping | str) for one in over):
        raise refused("lora.over", 'is no list of LoRAs; give {"path": "lora:NAME"} for each')
    records = [{"path": one} if isinstance(one, str) else dict(one) for one in over]
    return {"lora": {**inner, "over": records}} if records else {}


def _check_files(config: TrainConfig, training: Mapping[str, Any]) -> None:
    """Raise RequestError where a config has files that are not among those of the fields' own places."""
    over = [record.get("path") for record in _in(training, "lora").get("over") or ()]
    requests = _in(training, "validation").get("requests") or ()
    if [lora.path for lora in config.lora.over] != over or list(config.validation.requests) != list(requests):
        raise refused("lora.over and training.validation.requests", "are given in two ways; give each once")


def _in(fields: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    inner = fields.get(name)
    return inner if isinstance(inner, Mapping) else {}


def _checked_request(number: int, fields: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return references.checked_fields({str(name): value for name, value in fields.items()})
    except RequestError as error:
        raise refused(f"validation.requests[{number}]", f"cannot be made: {error}") from error


def training_places(fields: Mapping[str, Any]) -> Iterator[references.ReferencePlace]:
    """Yield the places of checked fields that name a file: the zip, LoRAs below, inputs of clips."""
    yield references.ReferencePlace(fields, "data", "data")  # type: ignore[arg-type]
    training = fields["training"]
    for index, record in enumerate(_in(training, "lora").get("over") or ()):
        if record.get("path") is not None:
            yield references.ReferencePlace(record, "path", f"training.lora.over[{index}].path")
    for index, request in enumerate(_in(training, "validation").get("requests") or ()):
        for place in references.places(request):
            yield replace(place, where=f"training.validation.requests[{index}].{place.where}")


def with_local_paths(fields: Mapping[str, Any], paths: Mapping[str, Path]) -> dict[str, Any]:
    """Return checked fields with local paths in place of references."""
    local: dict[str, Any] = json.loads(json.dumps(fields))
    for place in training_places(local):
        if place.text in paths:
            place.put(str(paths[place.text]))
    return local


def config_of(
    fields: Mapping[str, Any], model: str, *, folder: Path = Path(), device: str = "auto"
) -> TrainConfig:
    """Return the config of a training. folder: where its data and its run are. device: that of its worker.

    Raises RequestError with the field of the job that does not fit.
    """
    training = {name: value for name, value in fields["training"].items() if name != RECIPE}
    recipe = fields["training"].get(RECIPE)
    base = {} if recipe is None else fields_of(RECIPES / f"{recipe}.yaml")
    trigger = fields["dataset"].get("trigger")
    own = {
        "data": str(folder / DATA_FOLDER), "output": str(folder / RUN_FOLDER), "model": model,
        "device": device, "keep": 1,
    }  # fmt: skip
    named = {} if not trigger else {"trigger": trigger}
    try:
        return read_config({**base, **named}, {**dict(spread(training)), **own})
    except (RequestError, ConfigError) as error:
        name = getattr(error, "field", None)
        where = "training" if name is None else f"training.{name}"
        raise RequestError(f"training: {error}", field=where) from None


def spread(fields: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield fields by names with dots, so that those of a recipe which are not named stay."""
    for name, value in fields.items():
        if isinstance(value, Mapping) and value:
            yield from spread(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def looked_into(
    fields: Mapping[str, Any], paths: Mapping[str, Path], tmp: Path, guarded: Callable[..., Any]
) -> dict[str, Any]:
    """Return what a training's zip holds: it is unpacked aside, looked into under guard, and removed.

    guarded: calls what reads files of strangers. Raises RequestError for what is no data to train on.
    """
    folder = tmp / new_id("tmp")
    try:
        unpack(paths[fields["data"]], folder)
        found: dict[str, Any] = guarded(zips.looked_into, str(folder), fields["dataset"])
        return found
    except (DatasetError, MediaError) as error:
        told = str(error).replace(f"{folder}/", "").replace(str(folder), "the zip")
        raise RequestError(f"data: {told}", field="data") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# --- what it takes ------------------------------------------------------------------------------------


def training_place(
    config: TrainConfig, model: ModelSet, work: TuningWork, machines: Sequence[Machine]
) -> tuple[TuningPlace, Machine]:
    """Return where weights would be on the first machine that a training fits, and that machine.

    Raises RequestError where it fits none, with what would have to change.
    """
    refusal: RequestError | None = None
    for machine in machines:
        usual: Literal["float32", "bfloat16"] = "float32" if machine.kind == "cpu" else "bfloat16"
        item = ITEM_BYTES[usual if config.precision == "auto" else config.precision]
        storage: Storage | None = None if config.weights == "auto" else config.weights
        try:
            return choose_place(work, model_sizes(model, item, storage), machine, config), machine
        except RequestError as error:
            refusal = error
    assert refusal is not None
    raise RequestError(str(refusal), field="training") from None


def training_work(config: TrainConfig, model: ModelSet, data: Any) -> TuningWork:
    """Return the work of the largest batch, by headers alone. data: the index of the samples."""
    parts = find_parts([read_header(path) for path in model.weights_files])
    return TuningWork.of(data, config, trained_numbers(parts["transformer"], config))


def shape_of_training(config: TrainConfig, work: TuningWork, count: int) -> str:
    """Return a word that trainings of the same work share."""
    told = [work.video, work.audio, work.text, work.trained, count, config.steps, config.batch]
    clips = [sorted(map(str, request.items())) for request in config.validation.requests]
    return hash_of(json.dumps([*told, config.accumulate, config.validation.every, clips]))


def training_view(
    config: TrainConfig, name: str, data: Any, notes: Sequence[str], seconds: float, num_bytes: float
) -> PlanView:
    """Return the plan of a training as clients see it: the size is that of its largest samples."""
    sizes = [info.size for info in data.samples if info.size is not None]
    width, height, frames = max(sizes, key=lambda size: size[0] * size[1] * size[2], default=(0, 0, 0))
    longest_s = max((info.num_audio or 0) / 25 for info in data.samples)
    duration_s = frames / data.fps if frames else longest_s
    what = f"{width}x{height}x{frames}" if frames else f"{longest_s:g} s of sound"
    return PlanView(
        model=name,
        summary=f"a LoRA of mode {config.mode}, rank {config.lora.rank}: {config.steps} steps on "
        f"{len(data.samples)} samples of {what} at most",
        size=(width, height),
        num_frames=frames,
        fps=data.fps,
        duration_s=duration_s,
        passes=[PassView(name=PASS, size=(width, height), steps=config.steps)],
        seed=config.seed,
        seconds=round(seconds, 3),
        memory_gb=round(num_bytes / GB, 2),
        notes=list(notes),
    )
