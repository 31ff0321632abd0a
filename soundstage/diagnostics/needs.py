"""Work out what each recipe needs on a machine: memory, time, where weights are. Reads no weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from soundstage.errors import RequestError, SoundstageError
from soundstage.library.catalog import MODELS
from soundstage.library.installed import Library
from soundstage.library.model_files import EXTRAS, SHIPPED_MODELS, ModelFile, ModelSet, find_model
from soundstage.library.sizes import ModelSizes, model_sizes
from soundstage.memory.machine import Machine, asked_format, choose_format
from soundstage.planning.placement import choose_held
from soundstage.planning.planner import make_plan
from soundstage.request.defaults import Defaults
from soundstage.request.recipes import SHIPPED as RECIPES
from soundstage.request.request import Request
from soundstage.weights.storage import Storage, storage_named

SIZES = ((768, 512, 121), (1344, 768, 121), (1920, 1088, 121))
PROMPT = "A red ball drops onto a wooden floor."
PUBLISHED = "LTX-2.3"
NEED_INPUT = ("dub", "upscale")  # recipes that start from a clip


@dataclass(frozen=True)
class Need:
    """The needs of one recipe at one size, or why it cannot be made."""

    model: str  # title of the model's table
    recipe: str
    weights: str  # how the weights are stored: the column
    size: str  # WIDTHxHEIGHTxFRAMES
    policy: str | None  # None if it cannot be made
    device_bytes: float  # peak
    host_bytes: float  # peak
    seconds: float
    sentence: str  # the reason for the policy, or against making it
    needs_input: bool = False  # it starts from a clip, not from a prompt alone
    refused: bool = False  # this model's plan refuses it
    storage: str = ""  # how the transformer is held, one of weights.storage.STORAGES


@dataclass(frozen=True)
class Priced:
    """A model whose clips are priced."""

    title: str
    model: ModelSet
    held: tuple[ModelSizes, ...]  # the ways its weights may be held, the preferred one first
    sizes: tuple[tuple[int, int, int], ...]  # (width, height, frames) of the clips


def needs_of(machine: Machine, priced: Sequence[Priced]) -> Iterator[Need]:
    """Yield what every recipe needs, for each model and size."""
    for one in priced:
        for recipe in RECIPES:
            for size in one.sizes:
                yield _need(machine, one, recipe, size)


def priced_models(
    model: str | None, weights: str, dtype: str, kind: str
) -> tuple[tuple[Priced, ...], tuple[str, ...]]:
    """Return (models to price, problems of models that are here).

    model: the one to price; None prices those that are here and the published 22B. kind: "cuda" or "cpu".
    Raises RequestError for words that do not exist or do not go together.
    """
    storage = storage_named(weights)
    if model is not None:
        named = find_model(model)
        return (_priced(named, storage, dtype, kind),), named.notices
    if storage is not None:
        raise RequestError(
            f"weights is '{weights}', and no model is named; give --model, without which the models here and "
            "the published 22B are priced",
            field="weights",
        )
    found: list[Priced] = []
    problems: list[str] = []
    for name in _installed():
        try:
            here = find_model(name)
            found.append(_priced(here, None, dtype, kind))
            problems += here.notices
        except SoundstageError as error:
            problems.append(f"model {name}: {error}")
    return (*found, *published(dtype, kind)), tuple(problems)


def _installed() -> Iterator[str]:
    """Yield the names of models on this machine: shipped, added, and published ones that are complete."""
    yield from (name for name, folder in SHIPPED_MODELS.items() if folder.is_dir())
    library = Library.open()
    yield from library.models
    for name in MODELS:
        try:
            library.lookup(name)
        except SoundstageError:
            continue
        yield name


def _priced(model: ModelSet, storage: Storage | None, dtype: str, kind: str) -> Priced:
    """Return a model that is here with the sizes to price: for a small one its usual clip and its longest."""
    used = choose_format(asked_format(dtype), model.defaults.dtype, kind)
    defaults = model.defaults
    longest = int(defaults.max_duration_s * defaults.fps) // 8 * 8 + 1
    own = tuple((*defaults.size, frames) for frames in (defaults.num_frames, longest))
    sizes = own if defaults.size[0] < SIZES[0][0] else SIZES
    return Priced(model.name, model, model_sizes(model, used.item_bytes, storage), sizes)


def published(dtype: str, kind: str) -> Iterator[Priced]:
    """Yield the published 22B as bfloat16 and as fp8, with every file that a recipe may ask for.

    It need not be on this machine.
    """

    class Complete(ModelSet):
        def files(self) -> tuple[ModelFile, ...]:
            return ()

        def extra(self, role: str) -> ModelFile:
            return ModelFile(EXTRAS[role][1], Path(role), 0)

        def check_extra(self, role: str) -> None:
            """Accept any file: it may not be here."""

    model = Complete(PUBLISHED, Path(), Defaults())
    full = ModelSizes.published(choose_format(asked_format(dtype), Defaults().dtype, kind).name)
    for held in (full, ModelSizes.published("fp8", full.item_bytes)):
        yield Priced(PUBLISHED, model, (held,), SIZES)


def _need(machine: Machine, priced: Priced, recipe: str, size: tuple[int, int, int]) -> Need:
    name, (width, height, num_frames) = priced.held[0].name, size
    words = f"{width}x{height}x{num_frames}"
    planned = False
    try:
        request = Request(prompt=PROMPT, recipe=recipe, size=(width, height), num_frames=num_frames)
        plan = make_plan(request, priced.model)
        planned = True
        choice = choose_held(plan, priced.held, machine)
    except SoundstageError as error:
        needs_input = not planned and recipe in NEED_INPUT
        return Need(
            priced.title, recipe, name, words, None, 0.0, 0.0, 0.0, str(error),
            needs_input=needs_input, refused=not planned and not needs_input,
        )  # fmt: skip
    found = choice.price
    return Need(
        priced.title, recipe, name, words, found.residency.policy, found.device_bytes, found.host_bytes,
        found.seconds, choice.reason, storage=choice.weights,
    )  # fmt: skip
