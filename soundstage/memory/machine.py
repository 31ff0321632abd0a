"""The number format of a run: what was asked, else what the model wishes where the device is fast at it.

    choose_format(asked_format(None), "bfloat16", "cpu")  # float32 on a laptop, bfloat16 on an AMX server

bfloat16 halves the memory everywhere, but a CPU without units for it computes it many times slower than
float32, and some of oneDNN's products refuse it.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from soundstage.errors import RequestError

FormatName = Literal["bfloat16", "float32"]
FORMATS: tuple[FormatName, ...] = get_args(FormatName)
VARIABLE = "SOUNDSTAGE_DTYPE"
# oneDNN's names of what it may use, up to the first with bfloat16 products; DNNL_ is the old prefix.
ISA_VARIABLES = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
WITHOUT_BFLOAT16 = (
    "SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI",
)  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """A format that was asked for, None for none. where: the setting that asked."""

    name: FormatName | None = None
    where: str = "dtype"


@dataclass(frozen=True)
class NumberFormat:
    """The format of a run, and why it is this one, in words."""

    name: FormatName
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


def asked_format(dtype: str | None, environment: Mapping[str, str] = os.environ) -> Asked:
    """Return what an option asks for, else what SOUNDSTAGE_DTYPE does; "auto", "" and None ask nothing.

    Raises RequestError for another word, naming the option or the variable.
    """
    given = dtype if dtype not in (None, "", "auto") else environment.get(VARIABLE, "auto")
    where = "dtype" if dtype not in (None, "", "auto") else VARIABLE
    if given in ("", "auto"):
        return Asked()
    name: FormatName | None = next((name for name in FORMATS if name == given), None)
    if name is None:
        raise RequestError(f"{where} is '{given}'; give one of auto, {', '.join(FORMATS)}", field="dtype")
    return Asked(name, where)


def choose_format(asked: Asked, wish: str, device: str) -> NumberFormat:
    """Return the format of a run.

    wish: the model's, which holds on other devices than CPUs, and on a CPU that has units for it. device: its
    type, such as "cpu". Raises RequestError for a wish that is no format.
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
    capability = os.environ.get("ATEN_CPU_CAPABILITY")
    held = isa or (f"ATEN_CPU_CAPABILITY={capability}" if capability else None)
    return "this processor has no bfloat16 units" if held is None else f"{held} rules bfloat16 units out"


def bfloat16_units() -> str | None:
    """Return the name of this processor's fast bfloat16 products, None without.

    Only what PyTorch and oneDNN may use counts: ONEDNN_MAX_CPU_ISA=AVX2 and ATEN_CPU_CAPABILITY=avx2 make a
    processor one without.
    """
    import torch

    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return None  # without oneDNN, PyTorch multiplies bfloat16 in plain loops
    if any(_holds_back(name) for name in ISA_VARIABLES):
        return None
    if platform.machine().lower() in ("aarch64", "arm64"):
        return "Arm BF16" if "bf16" in _linux_features() else None
    if torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "NO AVX", "AVX2"):
        return None
    flags = _linux_features()
    if "amx_bf16" in flags:
        return "AMX"
    avx512 = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)  # also where there is no /proc
    return "AVX512-BF16" if "avx512_bf16" in flags or avx512() else None


def _holds_back(variable: str) -> bool:
    return os.environ.get(variable, "").upper() in WITHOUT_BFLOAT16


def _linux_features() -> frozenset[str]:
    """Return the features that Linux lists for the first processor; none elsewhere."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return frozenset()
    lines = (line.partition(":") for line in path.read_text(errors="replace").splitlines())
    found = (words for key, _, words in lines if key.strip() in ("flags", "Features"))
    return frozenset(next(found, "").split())
