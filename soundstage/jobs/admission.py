"""Admission: a job is checked, planned and priced before it waits. Loads no torch."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from soundstage.engine import Engine, load
from soundstage.errors import MediaError, RequestError, SoundstageError, WeightsError, listed
from soundstage.jobs.ids import hash_of
from soundstage.jobs.references import places
from soundstage.jobs.views import PassView, PlanView
from soundstage.library.catalog import find
from soundstage.library.sizes import model_sizes
from soundstage.media import formats
from soundstage.media.hdr import ARCHIVE, Hdr
from soundstage.memory.machine import ITEM_BYTES, Machine, this_machine
from soundstage.planning.given import GivenStart
from soundstage.planning.placement import Choice, choose_held
from soundstage.planning.plan import Plan
from soundstage.request.request import Request

FILM, SOUND = "mp4", "wav"
GB = 1e9


@dataclass(frozen=True)
class Admitted:
    """A job that can be made.

    price_s: expected seconds of its work. worked_out_s: those by the headers alone. shape: a word that jobs
    of the same work share. affinity: model and adapters.
    """

    fields: Mapping[str, Any]
    model: str | None = None
    plan: PlanView | None = None
    seed: int | None = None
    format: str | None = None
    price_s: float | None = None
    worked_out_s: float | None = None
    shape: str | None = None
    affinity: str | None = None


class Admission:
    """Plans requests for the models of a server. Threads may share it; an engine of each is kept."""

    def __init__(self, models: Sequence[str]) -> None:
        self.models = tuple(models)
        self._engines: dict[str, Engine] = {}
        self._lock = threading.Lock()

    def engine(self, model: str | None) -> tuple[str, Engine]:
        """Return a model's name and its engine. Raises RequestError for one that this server has not."""
        name = self.models[0] if model is None else model
        if name not in self.models:
            raise RequestError(
                f"model is {name!r}; this server has {listed(name, self.models)}", field="model"
            )
        with self._lock:
            if name not in self._engines:
                self._engines[name] = load(name, device="cpu")
            return name, self._engines[name]

    def admit(
        self,
        fields: Mapping[str, Any],
        model: str | None,
        wanted: str | None,
        paths: Mapping[str, Path],
        machines: Sequence[Mapping[str, Any]] = (),
        start: GivenStart | None = None,
    ) -> Admitted:
        """Plan and price a request. fields: checked, with references. wanted: the format, None for the usual.

        paths: where the files of references are. machines: those of the workers. start: latents that are
        given. Raises RequestError for
        what cannot be made, and for what fits no worker, with the sizes that do.
        """
        name, engine = self.engine(model)
        with ToldByReference(paths):
            plan = engine.plan(Request(**with_paths(fields, paths)))
        plan = plan if start is None else start.applied(plan)
        form = file_format(plan, wanted)
        choice = _chosen(plan, engine, machines)
        seed = plan.request.seed
        loras = [str(lora["path"]) for lora in fields.get("loras") or ()]
        return Admitted(
            fields=fields,
            model=name,
            plan=plan_view(plan, choice),
            seed=seed,
            format=form,
            price_s=None if choice is None else choice.price.seconds,
            worked_out_s=None if choice is None else choice.price.seconds,
            shape=shape_of(plan),
            affinity=" ".join([name, *sorted(loras)]),
        )

    def admit_training(
        self,
        fields: Mapping[str, Any],
        model: str | None,
        looked: Mapping[str, Any],
        paths: Mapping[str, Path],
        machines: Sequence[Mapping[str, Any]] = (),
        check: Callable[[Plan], None] = lambda plan: None,
    ) -> Admitted:
        """Check a training beside its model and data, and price it. fields: as `checked_training` gives them.

        looked: what `zips.looked_into` has found in its zip. check: is called with the plans of its
        clips. Raises RequestError for what cannot be made, and
        for what fits no worker, with what would.
        """
        from soundstage.dataset.identity import model_identity  # NumPy and more, which clips do not need
        from soundstage.dataset.index import EncodedIndex, SampleInfo
        from soundstage.jobs import training
        from soundstage.training.tuning.agreement import check_with
        from soundstage.training.tuning.price import training_seconds

        name, engine = self.engine(model)
        samples = tuple(SampleInfo(**sample) for sample in looked["samples"])
        data = EncodedIndex(Path("data"), model_identity(engine.model), samples)
        with ToldByReference(paths), training.told_of_training():
            config = training.config_of(training.with_local_paths(fields, paths), name)
            check_with(config, engine.model, data, check)
            work = training.training_work(config, engine.model, data)
            known = [_machine(fields) for fields in machines] or [this_machine("cpu")]
            place, machine = training.training_place(config, engine.model, work, known)
        seconds = training_seconds(work, place, machine, config)
        return Admitted(
            fields=fields,
            model=name,
            plan=training.training_view(config, name, data, looked["notes"], seconds, place.num_bytes),
            seed=config.seed,
            price_s=seconds,
            shape=training.shape_of_training(config, work, len(samples)),
        )


def admit_pull(model: str | None) -> Admitted:
    """Return the download of a published model. Raises RequestError for an unknown one."""
    if model is None:
        raise RequestError("model is missing; name the published model to pull", field="model")
    find(model)
    return Admitted({}, model=model)


def admit_convert(reference: str, path: Path, wanted: str | None) -> Admitted:
    """Return the conversion of a finished clip. Raises RequestError for a format that cannot hold it."""
    from soundstage.conversion import Wanted, planned_conversion  # loads NumPy, which other jobs do not need

    if wanted is None:
        raise RequestError("format is missing; give the ending to convert to, such as webm", field="format")
    ending = wanted.lower().removeprefix(".")
    if f".{ending}" not in formats.FORMATS:
        known = ", ".join(name.removeprefix(".") for name in formats.FORMATS)
        raise RequestError(f"format is {wanted!r}; give one of {known}", field="format")
    with ToldByReference({reference: path, "the result": Path(f"clip.{ending}")}):
        planned_conversion(path, f"clip.{ending}", Wanted())
    return Admitted({}, format=ending)


def with_paths(fields: Mapping[str, Any], paths: Mapping[str, Path]) -> dict[str, Any]:
    """Return fields with local paths in place of references."""
    local = deepcopy(dict(fields))
    for place in places(local):
        if place.text in paths:
            place.put(str(paths[place.text]))
    return local


class ToldByReference:
    """Let errors within the block name files by their references, never by the server's paths."""

    def __init__(self, paths: Mapping[str, Path]) -> None:
        self._paths = paths

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, SoundstageError):
            return
        text = str(error)
        for reference, path in self._paths.items():
            text = text.replace(str(path), reference)
        if isinstance(error, MediaError):
            raise MediaError(text) from None
        if isinstance(error, WeightsError):
            raise WeightsError(text) from None
        raise RequestError(text, field=getattr(error, "field", None)) from None


def file_format(plan: Plan, wanted: str | None) -> str:
    """Return the ending of a clip's file, without the dot.

    Raises RequestError for one that cannot hold the clip.
    """
    film = "video" in plan.modalities
    if plan.hdr is not None:
        return _light_format(plan.hdr, wanted)
    if wanted is None:
        return FILM if film else SOUND
    ending = f".{wanted.lower().removeprefix('.')}"
    num_frames = -(-plan.num_shown // plan.thin) if film else 0
    right = [known.removeprefix(".") for known in formats.endings(num_frames)]
    if ending.removeprefix(".") not in right:
        raise RequestError(f"format is {wanted!r}; give one of {', '.join(right)}", field="format")
    return ending.removeprefix(".")


def _light_format(hdr: Hdr, wanted: str | None) -> str:
    own = ARCHIVE if hdr.ending == ".exr" else hdr.ending.removeprefix(".")
    if wanted is not None and wanted.lower().removeprefix(".") != own:
        raise RequestError(
            f"format is {wanted!r}, and output.format {hdr.format} is handed out as {own}; leave format out",
            field="format",
        )
    return own


def plan_view(plan: Plan, choice: Choice | None) -> PlanView:
    """Return a plan as clients see it."""
    size = plan.shown_size or (plan.width, plan.height)
    notes = [*map(str, plan.snaps), *plan.notices]
    memory = None
    if choice is not None:
        memory = round((choice.price.device_bytes or choice.price.host_bytes) / GB, 2)
    return PlanView(
        model=plan.model,
        summary=plan.summary,
        size=size,
        num_frames=-(-plan.num_shown // plan.thin),
        fps=plan.fps / plan.thin,
        duration_s=plan.duration_s,
        passes=[PassView(name=p.name, size=(p.width, p.height), steps=p.num_steps) for p in plan.passes],
        seed=plan.request.seed,
        seconds=None if choice is None else round(choice.price.seconds, 3),
        memory_gb=memory,
        notes=notes,
    )


def shape_of(plan: Plan) -> str:
    """Return a word that jobs of the same work share: sizes, lengths, steps and guidance of all passes."""
    told = [
        (p.video_tokens, p.audio_tokens, p.added_video, p.added_audio, p.num_forwards, p.width, p.height)
        for clip in plan.made_clips
        for p in clip.passes
    ]
    return hash_of(json.dumps([plan.modalities, plan.num_frames, told]))


def _chosen(plan: Plan, engine: Engine, machines: Sequence[Mapping[str, Any]]) -> Choice | None:
    """Return the placement on the first machine that fits the plan; this machine's where none is known."""
    known = [_machine(fields) for fields in machines] or [this_machine("cpu")]
    refusal: RequestError | None = None
    for machine in known:
        item_bytes = ITEM_BYTES["float32" if machine.kind == "cpu" else "bfloat16"]
        sizes = model_sizes(engine.model, item_bytes)
        try:
            return choose_held(plan, sizes, machine)
        except RequestError as error:
            refusal = error
    if refusal is not None:
        raise refusal
    return None


def _machine(fields: Mapping[str, Any]) -> Machine:
    known = Machine.__dataclass_fields__
    return Machine(**{key: value for key, value in fields.items() if key in known})


def machine_fields(machine: Machine) -> dict[str, Any]:
    """Return a machine as its worker reports it."""
    return asdict(machine)
