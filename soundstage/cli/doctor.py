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

    from soundstage.plan import Plan
    from soundstage.speed.formats import NumberFormat
    from soundstage.weights.budget import Machine, ModelSizes

app = typer.Typer(**PLAIN)

GB = 1e9
SIZES = ((768, 512, 121), (1344, 768, 121), (1920, 1088, 121))
CODECS = {"h264": "libx264", "aac": "aac", "prores": "prores_ks", "opus": "libopus", "flac": "flac"}
NEEDED_CODECS = ("h264", "aac")
PROMPT = "A red ball drops onto a wooden floor."
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

    weights: the column. storage: how the transformer is held, of weights.storage.STORAGES.
    """

    recipe: str
    weights: str
    size: str
    policy: str | None
    device_bytes: float
    host_bytes: float
    seconds: float
    sentence: str
    needs_input: bool = False
    storage: str = ""


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
        str | None, typer.Option(help="A model folder or name to price. [default: the published 22B]")
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
    """Look at the machine. model: a folder or name; None prices the published 22B in full and in fp8.

    weights: how that model's are held. dtype: what to compute in. Raises RequestError for a device or a model
    that is not there, and for a word of `weights` or `dtype` that does not exist or does not go with it.
    """
    import torch

    from soundstage.defaults import Defaults
    from soundstage.model_set import find_model
    from soundstage.parts import pick_device
    from soundstage.speed.formats import asked_format, choose_format
    from soundstage.weights.residency import this_machine

    chosen = pick_device(device)
    machine = this_machine(chosen)
    dtypes, codecs = tuple(_dtypes(chosen)), tuple(_codecs())
    wish = (Defaults() if model is None else find_model(model).defaults).dtype
    used = choose_format(asked_format(dtype), wish, chosen.type)
    needs = tuple(_needs(machine, model, weights, used))
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
        advice=tuple(_advice(machine, dtypes, codecs, needs, disk, bool(torch.version.cuda))),
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

    return float(shutil.disk_usage(Path.home()).free)


# --- what recipes need ---------------------------------------------------------------------------------


def _needs(machine: Machine, model: str | None, weights: str, used: NumberFormat) -> Iterator[Need]:
    from soundstage.recipes import RECIPES

    for held in _models(model, weights, used):
        for recipe in RECIPES:
            for width, height, num_frames in SIZES:
                yield _need(machine, held, recipe, width, height, num_frames)


def _models(model: str | None, weights: str, used: NumberFormat) -> list[tuple[ModelSizes, ...]]:
    """Of each model the ways its weights may be held, the one wanted most first."""
    from soundstage.weights.budget import ModelSizes
    from soundstage.weights.storage import storage_named

    storage = storage_named(weights)
    if model is None:
        if storage is not None:
            raise RequestError(
                f"weights is '{weights}', and no model is named; give --model, without which the published "
                "22B is priced in full and in fp8",
                field="weights",
            )
        full = ModelSizes.published(used.name)
        return [(full,), (ModelSizes.published("fp8", full.item_bytes),)]
    from soundstage.model_set import find_model
    from soundstage.parts import DTYPES, model_sizes

    return [model_sizes(find_model(model), DTYPES[used.name], storage)]


def _need(
    machine: Machine, held: Sequence[ModelSizes], recipe: str, width: int, height: int, num_frames: int
) -> Need:
    from soundstage.weights.budget import choose_held

    name = held[0].name
    size = f"{width}x{height}x{num_frames}"
    planned = False
    try:
        plan = _plan(recipe, width, height, num_frames)
        planned = True
        choice = choose_held(plan, held, machine)
    except SoundstageError as error:
        return Need(recipe, name, size, None, 0.0, 0.0, 0.0, str(error), needs_input=not planned)
    found = choice.price
    return Need(
        recipe, name, size, found.residency.policy, found.device_bytes, found.host_bytes, found.seconds,
        choice.reason, storage=choice.weights,
    )  # fmt: skip


def _plan(recipe: str, width: int, height: int, num_frames: int) -> Plan:
    """The plan of a prompt alone. Raises RequestError for a recipe that needs more than a prompt."""
    from soundstage.defaults import Defaults
    from soundstage.model_set import EXTRAS, ModelFile, ModelSet
    from soundstage.planning import make_plan
    from soundstage.request import Request

    class Complete(ModelSet):
        """The published model with every file that a recipe may ask for."""

        def files(self) -> tuple[ModelFile, ...]:
            return ()

        def extra(self, role: str) -> ModelFile:
            return ModelFile(EXTRAS[role][1], Path(role), 0)

    request = Request(prompt=PROMPT, recipe=recipe, size=(width, height), num_frames=num_frames)
    return make_plan(request, Complete("LTX-2.3", Path(), Defaults()))


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
    refused = [need for need in needs if need.policy is None and not need.needs_input]
    if refused:
        yield f"{len(refused)} of {len(needs)} clips do not fit, the first because {refused[0].sentence}"
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
    """A row per recipe and size, a column per model: weights, policy, peak and seconds."""
    columns = list(dict.fromkeys(need.weights for need in report.needs))
    peak = "GB on the device" if report.kind == "cuda" else "GB of memory"
    yield f"what a clip takes: weights, policy, {peak}, seconds (worked out, not measured)"
    yield f"{'recipe':<14}{'size':<16}" + "".join(f"{name:<36}" for name in columns)
    rows: dict[tuple[str, str], dict[str, Need]] = {}
    for need in report.needs:
        rows.setdefault((need.recipe, need.size), {})[need.weights] = need
    for (recipe, size), needs in rows.items():
        cells = "".join(f"{_cell(needs[name], report.kind):<36}" for name in columns)
        yield f"{recipe:<14}{size:<16}{cells}".rstrip()


def _cell(need: Need, kind: str) -> str:
    if need.policy is None:
        return "needs an input" if need.needs_input else "does not fit"
    peak = need.device_bytes if kind == "cuda" else need.host_bytes
    return f"{need.storage}: {need.policy}, {peak / GB:.1f} GB, {need.seconds:.0f} s"
