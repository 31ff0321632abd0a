"""This machine: the device to compute on, its free memory and speed, and the number format it is fast at.

    device = pick_device("auto")                                     # "cuda" or "cpu"
    machine = this_machine(device)                                   # free memory, rates
    choose_format(asked_format(None), "bfloat16", kind_of(device))   # float32 on a laptop, bfloat16 with AMX

A plan asks for all of this, so it is read from the system. torch is imported only where it alone knows: on a
machine with a GPU driver, for another device than the CPU, and on Windows with AVX-512.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from soundstage.errors import RequestError

FormatName = Literal["bfloat16", "float32"]
FORMAT_NAMES: tuple[FormatName, ...] = get_args(FormatName)
ITEM_BYTES: Mapping[FormatName, int] = {"bfloat16": 2, "float32": 4}
VARIABLE = "SOUNDSTAGE_DTYPE"
# oneDNN's names of what it may use, up to the first with bfloat16 products; DNNL_ is the old prefix.
ISA_VARIABLES = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
WITHOUT_BFLOAT16 = (
    "SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI",
)  # fmt: skip
CAPABILITY = "ATEN_CPU_CAPABILITY"  # PyTorch's own variable, and its words that rule AVX-512 out
WITHOUT_AVX512 = ("default", "avx2")
AVX512 = frozenset({"avx512vl", "avx512bw", "avx512dq", "fma"})  # what PyTorch wants of it
WINDOWS_AVX512 = 41  # PF_AVX512F_INSTRUCTIONS_AVAILABLE

# FLOP/s that are reached, by a part of the name. Source: docs/model/memory.md, "Rates".
RATES = {"H100": 5e14, "H200": 5e14, "A100": 2e14, "5090": 2.5e14, "4090": 1.5e14, "3090": 7e13}
SMALLER_RATE, CPU_RATE = 5e13, 1e11
FREE_SHARE = 0.95  # of the host's free memory; the system needs some for itself
UNKNOWN_FREE_BYTES = 8e9
# What importing torch and the model's modules adds to a process: measured, PyTorch 2.13 for CPUs on Linux.
TORCH_BYTES = 0.2e9


@dataclass(frozen=True)
class Machine:
    """Free memory and speeds. On a CPU device and host memory are one; device_bytes is then not read.

    process_bytes: held on the host before any weight is loaded. Rates are what is reached, not the maker's.
    """

    name: str
    kind: Literal["cpu", "cuda"]
    host_bytes: float
    device_bytes: float = 0.0
    flops_per_s: float = CPU_RATE
    copy_bytes_per_s: float = 2.5e10
    disk_bytes_per_s: float = 2e9
    process_bytes: float = 0.0

    def limited(self, num_bytes: float) -> Machine:
        """Return the machine with at most this much memory to work in: the device's, or a CPU's host's."""
        if self.kind == "cpu":
            return replace(self, host_bytes=min(self.host_bytes, num_bytes))
        return replace(self, device_bytes=min(self.device_bytes, num_bytes))


def this_machine(device: str) -> Machine:
    """Return this machine's free memory, and rates stated for its kind, not measured. device: a name."""
    still_to_come = 0.0 if "torch" in sys.modules else TORCH_BYTES
    process = process_bytes() + still_to_come
    host = FREE_SHARE * max(0.0, free_host_bytes() - still_to_come) + process
    if kind_of(device) != "cuda":
        return Machine("the CPU", "cpu", host, process_bytes=process)
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    name = torch.cuda.get_device_name(device)
    rate = next((rate for model, rate in RATES.items() if model in name), SMALLER_RATE)
    own = torch.cuda.memory_reserved(device)  # can be had again
    return Machine(name, "cuda", host, float(free + own), flops_per_s=rate, process_bytes=process)


# --- the device ------------------------------------------------------------------------------------------


def pick_device(name: str) -> str:
    """Return the name of the device to compute on; "auto" is a CUDA device where there is one.

    Raises RequestError for a device that is not there.
    """
    if name == "auto":
        return "cuda" if _has_cuda() else "cpu"
    return checked_device(name)


def all_devices() -> list[str]:
    """Return the names of all GPUs where there are several, else the device that "auto" is."""
    first = pick_device("auto")
    if first != "cuda":
        return [first]
    import torch

    count = torch.cuda.device_count()
    return [first] if count < 2 else [f"cuda:{number}" for number in range(count)]


def checked_device(name: Any) -> str:
    """Return the name of a device: a name, or a device of PyTorch. "auto" stays as it is.

    A CUDA device is counted, not opened: a process that has opened one cannot be forked. Raises RequestError
    for a device that is not there.
    """
    if isinstance(name, str) and name in ("auto", "cpu"):
        return name
    import torch

    try:
        device = torch.device(name) if isinstance(name, str | torch.device) else None
        if device is not None and device.type == "cuda":
            found = (device.index or 0) < torch.cuda.device_count()
        else:
            found = device is not None and torch.empty(0, device=device).device.type != "meta"
    except (RuntimeError, AssertionError):
        found = False
    if not found:
        raise RequestError(
            f"device is '{name}', which this machine does not have; give {_device_names()}", field="device"
        )
    return str(name)


def _device_names() -> str:
    """Return the names that may be given, "'auto', 'cpu' or 'cuda:0'"."""
    import torch

    names = ["auto", "cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    *most, last = (f"'{name}'" for name in names)
    return f"{', '.join(most)} or {last}"


def kind_of(device: str) -> str:
    """Return the kind of a device's name: "cuda" for "cuda:1"."""
    return device.partition(":")[0]


def _has_cuda() -> bool:
    if not has_gpu_driver():
        return False
    import torch

    return torch.cuda.is_available()


@cache
def has_gpu_driver() -> bool:
    """Return False where no driver is installed that a CUDA or ROCm build of PyTorch could use.

    libcuda is NVIDIA's driver; /dev/kfd is AMD's, and /dev/dxg either's under WSL.
    """
    if sys.platform == "darwin":
        return False
    if sys.platform == "win32":
        system = Path(os.environ.get("SYSTEMROOT", "C:/Windows"), "System32")
        return any(path.exists() for path in (system / "nvcuda.dll", *system.glob("amdhip64*.dll")))
    if Path("/dev/kfd").exists() or Path("/dev/dxg").exists():
        return True
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


# --- memory ----------------------------------------------------------------------------------------------


def free_host_bytes() -> float:
    """Return the memory that can be had without swapping; half of all of it where the system does not say."""
    if sys.platform == "win32":
        return _free_windows_bytes()
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = (line.split() for line in meminfo.read_text().splitlines())
        free = {line[0]: int(line[1]) * 1024 for line in lines}
        return float(free.get("MemAvailable:", 0))
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2


def _free_windows_bytes() -> float:
    """Return ullAvailPhys of Windows' MEMORYSTATUSEX: two 32-bit numbers, then seven of 64 bits."""
    status = (ctypes.c_uint64 * 8)()
    status[0] = ctypes.sizeof(status)
    kernel: Any = getattr(ctypes, "windll").kernel32  # noqa: B009  # only Windows has it
    return float(status[2]) if kernel.GlobalMemoryStatusEx(ctypes.byref(status)) else UNKNOWN_FREE_BYTES


def process_bytes() -> float:
    """Return the memory this process holds; 0 where the system does not list it as Linux does."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0.0


# --- the number format -----------------------------------------------------------------------------------
# bfloat16 halves the memory everywhere, but a CPU without units for it computes it many times slower than
# float32, and some of oneDNN's products refuse it.


@dataclass(frozen=True)
class AskedFormat:
    """A format that was asked for, None for none. where: the setting that names it."""

    name: FormatName | None = None
    where: str = "dtype"


@dataclass(frozen=True)
class NumberFormat:
    """The format of a run, and why it is this one, in words."""

    name: FormatName
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"

    @property
    def item_bytes(self) -> int:
        """Return the bytes of one number."""
        return ITEM_BYTES[self.name]


def asked_format(dtype: Any, environment: Mapping[str, str] = os.environ) -> AskedFormat:
    """Return what an option asks for, else what SOUNDSTAGE_DTYPE does; "auto", "" and None ask nothing.

    dtype: a name, or a dtype of PyTorch. Raises RequestError for another one, naming the option or the
    variable.
    """
    option = None if dtype in (None, "", "auto") else str(dtype).removeprefix("torch.")
    given = environment.get(VARIABLE, "auto") if option is None else option
    where = VARIABLE if option is None else "dtype"
    if given in ("", "auto"):
        return AskedFormat()
    name: FormatName | None = next((name for name in FORMAT_NAMES if name == given), None)
    if name is None:
        raise RequestError(
            f"{where} is '{given}'; give one of auto, {', '.join(FORMAT_NAMES)}", field="dtype"
        )
    return AskedFormat(name, where)


def choose_format(asked: AskedFormat, wish: str, device: str) -> NumberFormat:
    """Return the format of a run: what was asked, else what the model wishes where the device is fast at it.

    wish: the model's format; it holds on every device but a CPU without units for it. device: its kind, such
    as "cpu". Raises RequestError for a wish that is no format.
    """
    if asked.name is not None:
        return NumberFormat(asked.name, f"{asked.where} asks for it{_warning(asked.name, device)}")
    name = asked_format(wish, {}).name or "bfloat16"
    if device != "cpu":
        return NumberFormat(name, "the model asks for it")
    if name == "float32":
        return NumberFormat("float32", "the model asks for it")
    units = bfloat16_units()
    if units is None:
        return NumberFormat("float32", f"{_without_units()}; the model would have bfloat16")
    return NumberFormat("bfloat16", f"the model asks for it, and this processor has units for it ({units})")


def _warning(name: FormatName, device: str) -> str:
    slow = name == "bfloat16" and device == "cpu" and bfloat16_units() is None
    return f", but {_without_units()}: float32 is faster" if slow else ""


def _without_units() -> str:
    isa = next((f"{name}={os.environ[name]}" for name in ISA_VARIABLES if _holds_back(name)), None)
    capability = os.environ.get(CAPABILITY)
    held = isa or (f"{CAPABILITY}={capability}" if capability else None)
    return "this processor has no bfloat16 units" if held is None else f"{held} rules bfloat16 units out"


def bfloat16_units() -> str | None:
    """Return the name of this processor's fast bfloat16 products, None without.

    Only what PyTorch and oneDNN may use counts: ONEDNN_MAX_CPU_ISA=AVX2 and ATEN_CPU_CAPABILITY=avx2 make a
    processor one without.
    """
    if any(_holds_back(name) for name in ISA_VARIABLES):
        return None
    if platform.machine().lower() in ("aarch64", "arm64"):
        units = "Arm BF16" if "bf16" in linux_features() else None
    elif os.environ.get(CAPABILITY) in WITHOUT_AVX512:
        units = None
    elif sys.platform == "win32":
        units = "AVX512-BF16" if _windows_has_avx512_bf16() else None
    else:
        units = _avx512_units(linux_features())
    # Without oneDNN, PyTorch multiplies bfloat16 in plain loops.
    return units if units is not None and torch_has_onednn() else None


def _avx512_units(features: frozenset[str]) -> str | None:
    if not features >= AVX512:
        return None
    return "AMX" if "amx_bf16" in features else "AVX512-BF16" if "avx512_bf16" in features else None


def _holds_back(variable: str) -> bool:
    return os.environ.get(variable, "").upper() in WITHOUT_BFLOAT16


def linux_features() -> frozenset[str]:
    """Return the features that Linux lists for the first processor; none elsewhere."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return frozenset()
    with path.open(errors="replace") as lines:
        found = (line.partition(":") for line in lines)
        words = (words for key, _, words in found if key.strip() in ("flags", "Features"))
        return frozenset(next(words, "").split())


def _windows_has_avx512_bf16() -> bool:
    """Return what torch says of the processor; it is asked only where Windows reports AVX-512."""
    kernel: Any = getattr(ctypes, "windll").kernel32  # noqa: B009  # only Windows has it
    if not kernel.IsProcessorFeaturePresent(WINDOWS_AVX512):
        return False
    import torch

    return bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())


@cache
def torch_has_onednn() -> bool:
    """Return whether PyTorch was built with oneDNN: as its headers say, or itself where it has none."""
    found = importlib.util.find_spec("torch")
    config = Path((found and found.origin) or "").parent / "include/ATen/Config.h"
    if config.is_file():
        stated = re.search(r"#define AT_MKLDNN_ENABLED\(\) (\d)", config.read_text())
        if stated is not None:
            return stated[1] == "1"
    import torch

    return bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
