"""`soundstage doctor`: what this machine has, what each recipe needs on it, and what to change.

`examine` gathers a `Report`, which is data; the command prints it as a table or as JSON.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from soundstage.cli.app import PLAIN, json_text
from soundstage.errors import RequestError, SoundstageError

if TYPE_CHECKING:
    import torch

    from soundstage.library.model_files import ModelSet
    from soundstage.library.sizes import ModelSizes
    from soundstage.memory.machine import Machine, NumberFormat
    from soundstage.weights.storage import Storage

app = typer.Typer(**PLAIN)

GB = 1e9
SIZES = ((768, 512, 121), (1344, 768, 121), (1920, 1088, 121))
CODECS = {"h264": "libx264", "aac": "aac", "prores": "prores_ks", "opus": "libopus", "flac": "flac"}
NEEDED_CODECS = ("h264", "aac")
PROMPT = "A red ball drops onto a wooden floor."
PUBLISHED = "LTX-2.3"
NEED_INPUT = ("dub", "upscale")  # recipes that want a clip
MIN_DISK_BYTES = 60e9  # one official set with its text encoder


@dataclass(frozen=True)
class Support:
    """Whether something works here, and how it was found out or what it is for."""

    name: str
    works: bool
    detail: str


@dataclass(frozen=True)
class Need:
    """One recipe at one size: the policy, its peaks in bytes and its seconds; or why it cannot be made.

    model: which it is made with. weights: the column. needs_input: it wants more than a prompt. refused: this
    model's plan says no. storage: how the transformer is held, of weights.storage.STORAGES.
    """

    model: str
    recipe: str
    weights: str
    size: str
    policy: str | None
    device_bytes: float
    host_bytes: float
    seconds: float
    sentence: str
    needs_input: bool = False
    refused: bool = False
    storage: str = ""


@dataclass(frozen=True)
class Priced:
    """A model whose clips are priced. held: the ways its weights may be held, the one wanted most first.

    sizes: (width, height, frames) of the clips. title: of its table.
    """

    title: str
    model: ModelSet
    held: tuple[ModelSizes, ...]
    sizes: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Report:
    """host_bytes, device_bytes, disk_bytes: free now. format: what a model is computed in. dtypes: which
    formats can be multiplied at all, fast or not. advice: what to change, the most useful first."""

    system: dict[str, str]
    device: str
    kind: str
    device_bytes: float
    host_bytes: float
    disk_bytes: float
    format: NumberFormat
    dtypes: tuple[Support, ...]
    codecs: tuple[Support, ...]
    needs: tuple[Need, ...]
    advice: tuple[str, ...]


@app.command()
def doctor(
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")] = "auto",
    model: Annotated[
        str | None,
        typer.Option(help="A model's name or folder to price. [default: those here, and the published 22B]"),
    ] = None,
    weights: Annotated[
        str, typer.Option(help="How --model's transformer is held: a word of `generate`'s --weights.")
    ] = "auto",
    dtype: Annotated[str, typer.Option(help="Number format: a word of `generate`'s --dtype.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")] = False,
) -> None:
    """Show the device, memory, number formats and codecs, what each recipe needs here, and what to change.

    Needs are worked out, not measured: no weights are read. Example: soundstage doctor --json
    """
    report = examine(device, model, weights, dtype)
    print(json_text(asdict(report), indent=2) if as_json else "\n".join(_lines(report)))


def examine(
    device: str = "auto", model: str | None = None, weights: str = "auto", dtype: str = "auto"
) -> Report:
    """Look at the machine. model: a folder or name; None prices the models here and the published 22B.

    weights: how that model's are held. dtype: what to compute in. Raises RequestError for a device or a model
    that is not there, and for a word of `weights` or `dtype` that does not exist or does not go with it.
    """
    import torch

    from soundstage.memory.machine import asked_format, choose_format, pick_device, this_machine
    from soundstage.request.defaults import Defaults

    machine = this_machine(pick_device(device))
    chosen = torch.device(pick_device(device))
    dtypes, codecs = tuple(_dtypes(chosen)), tuple(_codecs())
    priced, problems = priced_models(model, weights, dtype, chosen.type)
    wish = (Defaults() if model is None else priced[0].model.defaults).dtype
    used = choose_format(asked_format(dtype), wish, chosen.type)
    needs = tuple(_needs(machine, priced))
    disk = _free_disk()
    return Report(
        system={
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "cuda": str(torch.version.cuda),
            "driver": _driver(chosen),
            "ffmpeg": _ffmpeg(),
        },
        device=machine.name,
        kind=machine.kind,
        device_bytes=machine.device_bytes,
        host_bytes=machine.host_bytes,
        disk_bytes=disk,
        format=used,
        dtypes=dtypes,
        codecs=codecs,
        needs=needs,
        advice=(*problems, *_advice(machine, dtypes, codecs, needs, disk, bool(torch.version.cuda))),
    )


# --- what is here --------------------------------------------------------------------------------------


def _dtypes(device: torch.device) -> Iterator[Support]:
    """Each format is tried in the product it is used in."""
    import torch

    def product(dtype: torch.dtype) -> None:
        a = torch.ones(32, 32, device=device, dtype=dtype)
        (a @ a).sum().item()

    def fp8_product() -> None:
        a = torch.ones(32, 32, device=device).to(torch.float8_e4m3fn)
        one = torch.ones((), device=device)
        torch._scaled_mm(a, a.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16).sum().item()

    def int8_product() -> None:
        a = torch.ones(32, 32, device=device, dtype=torch.int8)
        torch._int_mm(a, a.t()).sum().item()

    tried: dict[str, tuple[Callable[[], None], str]] = {
        "float32": (lambda: product(torch.float32), "products"),
        "bfloat16": (lambda: product(torch.bfloat16), "products"),
        "fp8": (fp8_product, "products in e4m3; without them weights are cast on use"),
        "int8": (int8_product, "products with int32 sums; without them weights are cast on use"),
    }
    for name, (attempt, use) in tried.items():
        try:
            attempt()
        except (RuntimeError, NotImplementedError, ValueError) as error:
            yield Support(name, False, f"{use} ({str(error).splitlines()[0][:80]})")
        else:
            yield Support(name, True, use)


def _codecs() -> Iterator[Support]:
    import av

    for name, encoder in CODECS.items():
        yield Support(name, encoder in av.codecs_available, f"encoder {encoder}")


def _ffmpeg() -> str:
    import av

    versions = {name: ".".join(map(str, version)) for name, version in av.library_versions.items()}
    return f"PyAV {av.__version__}, libavcodec {versions.get('libavcodec', 'unknown')}"


def _driver(device: torch.device) -> str:
    if device.type != "cuda":
        return "none"
    path = Path("/proc/driver/nvidia/version")
    if not path.exists():
        return "unknown"
    words = path.read_text().splitlines()[0].split()
    return next((word for word in words if word[:1].isdigit() and "." in word), "unknown")


def _free_disk() -> float:
    import shutil

    try:
        home = Path.home()
    except RuntimeError:  # a user without a home
        home = Path.cwd()
    place = next(p for p in (home, *home.parents) if p.exists())
    return float(shutil.disk_usage(place).free)


# --- what recipes need ---------------------------------------------------------------------------------


def _needs(machine: Machine, priced: Sequence[Priced]) -> Iterator[Need]:
    from soundstage.request.recipes import SHIPPED

    for one in priced:
        for recipe in SHIPPED:
            for size in one.sizes:
                yield _need(machine, one, recipe, size)


def priced_models(
    model: str | None, weights: str, dtype: str, kind: str
) -> tuple[tuple[Priced, ...], tuple[str, ...]]:
    """(the models to price, what to know of those here): the one named, or those here and the published 22B.

    kind: of the device.
    """
    from soundstage.library.model_files import find_model
    from soundstage.weights.storage import storage_named

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
    return (*found, *_published(dtype, kind)), tuple(problems)


def _installed() -> Iterator[str]:
    """Names of models that are here: shipped, added, and published ones with all they need."""
    from soundstage.library.catalog import MODELS
    from soundstage.library.installed import Library
    from soundstage.library.model_files import SHIPPED

    yield from (name for name, folder in SHIPPED.items() if folder.is_dir())
    library = Library.open()
    yield from library.models
    for name in MODELS:
        try:
            library.lookup(name)
        except SoundstageError:
            continue
        yield name


def _priced(model: ModelSet, storage: Storage | None, dtype: str, kind: str) -> Priced:
    """A model that is here, at its own sizes: its usual clip and its longest."""
    from soundstage.library.sizes import model_sizes
    from soundstage.memory.machine import asked_format, choose_format

    used = choose_format(asked_format(dtype), model.defaults.dtype, kind)
    defaults = model.defaults
    longest = int(defaults.max_duration_s * defaults.fps) // 8 * 8 + 1
    own = tuple((*defaults.size, frames) for frames in (defaults.num_frames, longest))
    sizes = own if defaults.size[0] < SIZES[0][0] else SIZES
    return Priced(model.name, model, model_sizes(model, used.item_bytes, storage), sizes)


def _published(dtype: str, kind: str) -> Iterator[Priced]:
    """The published 22B, whether it is here or not, with every file that a recipe may ask for."""
    from soundstage.library.model_files import EXTRAS, ModelFile, ModelSet
    from soundstage.library.sizes import ModelSizes
    from soundstage.memory.machine import asked_format, choose_format
    from soundstage.request.defaults import Defaults

    class Complete(ModelSet):
        def files(self) -> tuple[ModelFile, ...]:
            return ()

        def extra(self, role: str) -> ModelFile:
            return ModelFile(EXTRAS[role][1], Path(role), 0)

        def check_extra(self, role: str) -> None:
            """Take it that the file is what it should be: it may not be here."""

    model = Complete(PUBLISHED, Path(), Defaults())
    full = ModelSizes.published(choose_format(asked_format(dtype), Defaults().dtype, kind).name)
    for held in (full, ModelSizes.published("fp8", full.item_bytes)):
        yield Priced(PUBLISHED, model, (held,), SIZES)


def _need(machine: Machine, priced: Priced, recipe: str, size: tuple[int, int, int]) -> Need:
    from soundstage.planning.placement import choose_held
    from soundstage.planning.planner import make_plan
    from soundstage.request.request import Request

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


# --- what to change --------------------------------------------------------------------------------------


def _advice(
    machine: Machine,
    dtypes: Sequence[Support],
    codecs: Sequence[Support],
    needs: Sequence[Need],
    disk: float,
    built_for_cuda: bool,
) -> Iterator[str]:
    if machine.kind == "cpu":
        if built_for_cuda:
            yield "no CUDA device answers: install or update the NVIDIA driver, or see that it is not hidden"
        else:
            yield "this PyTorch is built without CUDA: with an NVIDIA card, install the CUDA build"
    for codec in codecs:
        if codec.name in NEEDED_CODECS and not codec.works:
            yield f"PyAV lacks {codec.detail}, which .mp4 files need: reinstall it from its own wheels"
    too_large = [n for n in needs if n.policy is None and not n.needs_input and not n.refused]
    if too_large:
        yield f"{len(too_large)} of {len(needs)} clips do not fit, the first because {too_large[0].sentence}"
    if any(need.policy == "disk" for need in needs) and machine.kind == "cuda":
        yield "with so little host memory blocks are read from disk at every step: free some, or use fp8"
    if not next(d.works for d in dtypes if d.name == "fp8") and machine.kind == "cuda":
        yield "fp8 saves memory here but not time: this device multiplies it as bfloat16"
    if disk < MIN_DISK_BYTES:
        yield f"{disk / GB:.0f} GB of disk are free; a set of weights takes about {MIN_DISK_BYTES / GB:.0f}"


# --- printing ----------------------------------------------------------------------------------------------


def _lines(report: Report) -> Iterator[str]:
    on_device = report.kind == "cuda"
    yield f"device    {report.device}" + (f", {report.device_bytes / GB:.1f} GB free" if on_device else "")
    yield f"memory    {report.host_bytes / GB:.1f} GB free; disk {report.disk_bytes / GB:.0f} GB free"
    yield f"versions  {', '.join(f'{name} {version}' for name, version in report.system.items())}"
    yield f"format    {report.format}"
    for title, found in (("products", report.dtypes), ("codecs", report.codecs)):
        yield f"{title:10}{', '.join(f'{s.name} {_mark(s)}' for s in found)}"
    yield ""
    yield from _table(report)
    yield ""
    for sentence in report.advice:
        yield f"change    {sentence}"


def _mark(support: Support) -> str:
    return "yes" if support.works else "no"


def _table(report: Report) -> Iterator[str]:
    """For each model a row per recipe and size, a column per way its weights are stored."""
    peak = "GB on the device" if report.kind == "cuda" else "GB of memory"
    yield f"what a clip takes: weights, policy, {peak}, time (worked out, not measured)"
    for model in dict.fromkeys(need.model for need in report.needs):
        needs = [need for need in report.needs if need.model == model]
        columns = list(dict.fromkeys(need.weights for need in needs))
        yield ""
        titles = "".join(f"{name:<36}" for name in columns)
        yield f"{'recipe':<14}{'size':<16}{titles}".rstrip()
        rows: dict[tuple[str, str], dict[str, Need]] = {}
        for need in needs:
            rows.setdefault((need.recipe, need.size), {})[need.weights] = need
        for (recipe, size), found in rows.items():
            cells = "".join(f"{_cell(found[name], report.kind):<36}" for name in columns)
            yield f"{recipe:<14}{size:<16}{cells}".rstrip()
        yield from dict.fromkeys(f"{n.recipe} with {model}: {n.sentence}" for n in needs if n.refused)


def _cell(need: Need, kind: str) -> str:
    if need.policy is None:
        return (
            "needs an input" if need.needs_input else "refused, see below" if need.refused else "does not fit"
        )
    peak = need.device_bytes if kind == "cuda" else need.host_bytes
    return f"{need.storage}: {need.policy}, {peak / GB:.1f} GB, {_span(need.seconds)}"


def _span(seconds: float) -> str:
    """A length of time in the unit that people would use."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.0f} h"
