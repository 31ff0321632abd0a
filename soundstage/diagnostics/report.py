"""Report what this machine has, what each recipe needs on it, and what to change.

`examine` gathers a `Report`, which is data. Needs are worked out, not measured: no weights are read.
"""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import torch

from soundstage.diagnostics.needs import Need, needs_of, priced_models
from soundstage.memory.machine import (
    Machine,
    NumberFormat,
    asked_format,
    choose_format,
    pick_device,
    this_machine,
)
from soundstage.request.defaults import Defaults

GB = 1e9
CODECS = {"h264": "libx264", "aac": "aac", "prores": "prores_ks", "opus": "libopus", "flac": "flac"}
NEEDED_CODECS = ("h264", "aac")
MIN_DISK_BYTES = 60e9  # one official set with its text encoder


@dataclass(frozen=True)
class Support:
    """A check of something that should work on this machine."""

    name: str
    works: bool
    detail: str  # what it is for, or how it was tried


@dataclass(frozen=True)
class MachineReport:
    """The findings on a machine."""

    system: dict[str, str]  # versions
    device: str
    kind: str  # "cuda" or "cpu"
    device_bytes: float  # free now, as the next two
    host_bytes: float
    disk_bytes: float
    format: NumberFormat  # what a model is computed in
    dtypes: tuple[Support, ...]  # formats that can be multiplied at all, fast or not
    codecs: tuple[Support, ...]
    needs: tuple[Need, ...]
    advice: tuple[str, ...]  # what to change, the most useful first


def examine(
    device: str = "auto", model: str | None = None, weights: str = "auto", dtype: str = "auto"
) -> MachineReport:
    """Examine this machine.

    model: a folder or name; None prices the models that are here and the published 22B. weights: how that
    model's weights are held. dtype: what to compute in. Raises RequestError for a device or a model that is
    not there, and for a word of `weights` or `dtype` that does not exist or does not go with the model.
    """
    machine = this_machine(pick_device(device))
    chosen = torch.device(pick_device(device))
    dtypes, codecs = tuple(_dtypes(chosen)), tuple(_codecs())
    priced, problems = priced_models(model, weights, dtype, chosen.type)
    wish = (Defaults() if model is None else priced[0].model.defaults).dtype
    used = choose_format(asked_format(dtype), wish, chosen.type)
    needs = tuple(needs_of(machine, priced))
    disk = _free_disk()
    return MachineReport(
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
        advice=(*problems, *advice_for(machine, dtypes, codecs, needs, disk, bool(torch.version.cuda))),
    )


def _dtypes(device: torch.device) -> Iterator[Support]:
    """Try each number format in the product that it is used in."""

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
    for name, encoder in CODECS.items():
        yield Support(name, encoder in av.codecs_available, f"encoder {encoder}")


def _ffmpeg() -> str:
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
    try:
        home = Path.home()
    except RuntimeError:  # a user without a home
        home = Path.cwd()
    place = next(p for p in (home, *home.parents) if p.exists())
    return float(shutil.disk_usage(place).free)


def advice_for(
    machine: Machine,
    dtypes: Sequence[Support],
    codecs: Sequence[Support],
    needs: Sequence[Need],
    disk: float,
    built_for_cuda: bool,
) -> Iterator[str]:
    """Yield what to change, the most useful first."""
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
