"""What is known of this machine without torch, and the number format that follows from it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import soundstage as ss
from soundstage.cli.main import app
from soundstage.errors import RequestError
from soundstage.library.model_files import find_model
from soundstage.library.sizes import ModelSizes, model_sizes
from soundstage.memory import machine as this
from soundstage.memory.machine import AskedFormat, asked_format, bfloat16_units, choose_format
from tests.limits import LONG_S
from tests.tiny_model import write_tiny_model

runner = CliRunner()
AVX512 = "avx2 fma avx512f avx512vl avx512bw avx512dq"
NOTHING = AskedFormat()


def on(monkeypatch: pytest.MonkeyPatch, flags: str, *, capability: str = "", machine: str = "x86_64") -> None:
    """Pretend to be a processor with oneDNN and no variable set."""
    for name in (*this.ISA_VARIABLES, "ATEN_CPU_CAPABILITY"):
        monkeypatch.delenv(name, raising=False)
    if capability:
        monkeypatch.setenv("ATEN_CPU_CAPABILITY", capability)
    monkeypatch.setattr(this, "torch_has_onednn", lambda: True)
    monkeypatch.setattr(this.platform, "machine", lambda: machine)
    monkeypatch.setattr(this, "linux_features", lambda: frozenset(flags.split()))


@pytest.mark.parametrize(
    ("flags", "capability", "machine", "units"),
    [
        ("avx2 fma", "", "x86_64", None),
        (AVX512, "", "x86_64", None),
        (f"{AVX512} avx512_bf16", "", "x86_64", "AVX512-BF16"),
        (f"{AVX512} avx512_bf16 amx_bf16 amx_tile", "", "AMD64", "AMX"),
        (f"{AVX512} avx512_bf16 amx_bf16", "avx512", "x86_64", "AMX"),
        ("fp asimd bf16", "", "aarch64", "Arm BF16"),
        ("fp asimd", "", "aarch64", None),
        (f"{AVX512} avx512_bf16 amx_bf16", "avx2", "x86_64", None),
        (f"{AVX512} avx512_bf16 amx_bf16", "default", "x86_64", None),
        ("avx2 fma avx512f avx512_bf16", "", "x86_64", None),  # PyTorch wants more of AVX-512
    ],
)
def test_units_are_those_of_the_processor(
    monkeypatch: pytest.MonkeyPatch, flags: str, capability: str, machine: str, units: str | None
) -> None:
    on(monkeypatch, flags, capability=capability, machine=machine)
    assert bfloat16_units() == units
    assert choose_format(NOTHING, "bfloat16", "cpu").name == ("float32" if units is None else "bfloat16")


def test_the_switch_of_onednn_makes_a_processor_one_without(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, f"{AVX512} avx512_bf16 amx_bf16")
    assert bfloat16_units() == "AMX"
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "avx2")
    assert bfloat16_units() is None
    assert "ONEDNN_MAX_CPU_ISA=avx2" in choose_format(NOTHING, "bfloat16", "cpu").reason
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")
    assert bfloat16_units() is not None


def test_a_wish_is_kept_off_the_cpu_and_when_it_is_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, "avx2 fma")
    assert choose_format(NOTHING, "bfloat16", "cuda").name == "bfloat16"
    assert choose_format(NOTHING, "float32", "cuda").name == "float32"
    assert choose_format(NOTHING, "float32", "cpu").name == "float32"


def test_what_is_read_without_torch_is_what_torch_says() -> None:
    assert this.torch_has_onednn() == torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if Path("/proc/cpuinfo").exists() and platform.machine() == "x86_64":
        features = this.linux_features()
        assert ("avx512_bf16" in features) == torch.cpu._is_avx512_bf16_supported()
        if "ATEN_CPU_CAPABILITY" not in os.environ:
            assert (features >= this.AVX512) == (torch.backends.cpu.get_cpu_capability() == "AVX512")
    assert torch.cuda.is_available() <= this.has_gpu_driver()
    assert this.pick_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("word", ["default", "avx2", "avx512", "other"])
def test_pytorch_obeys_its_variable_as_it_is_read_here(word: str) -> None:
    code = "import torch; print(torch.backends.cpu.get_cpu_capability())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "ATEN_CPU_CAPABILITY": word},
        capture_output=True,
        text=True,
        check=True,
        timeout=LONG_S,
    )
    assert (done.stdout.strip() in ("DEFAULT", "AVX2")) >= (word in this.WITHOUT_AVX512)


def test_memory_that_torch_will_take_is_counted_before_it_is_loaded() -> None:
    code = """
from soundstage.memory.machine import this_machine
before = this_machine("cpu").process_bytes
import soundstage.rendering.parts
print(this_machine("cpu").process_bytes / before)"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=LONG_S
    )
    assert 0.8 < float(done.stdout) < 1.6 or not Path("/proc/self/statm").exists()


def test_an_option_wins_over_the_variable_and_both_over_the_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, "avx2 fma")
    variable = {"SOUNDSTAGE_DTYPE": "bfloat16"}
    assert (
        asked_format(None, variable)
        == asked_format("auto", variable)
        == AskedFormat("bfloat16", "SOUNDSTAGE_DTYPE")
    )
    assert asked_format("float32", variable) == AskedFormat("float32", "dtype")
    assert asked_format(None, {}) == asked_format("auto", {"SOUNDSTAGE_DTYPE": ""}) == NOTHING
    slow = choose_format(asked_format(None, variable), "float32", "cpu")
    assert slow.name == "bfloat16"
    assert "float32 is faster" in slow.reason
    with pytest.raises(RequestError, match="SOUNDSTAGE_DTYPE is 'half'; give one of auto, bfloat16, float32"):
        asked_format(None, {"SOUNDSTAGE_DTYPE": "half"})
    with pytest.raises(RequestError, match="dtype is 'half'"):
        asked_format("half", variable)


def test_the_variable_reaches_the_engine_and_is_checked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOUNDSTAGE_DTYPE", "bfloat16")
    assert ss.load("nano", device="cpu").number_format.name == "bfloat16"
    assert ss.load("nano", device="cpu", dtype="float32").number_format.name == "float32"
    monkeypatch.setenv("SOUNDSTAGE_DTYPE", "fp8")
    with pytest.raises(RequestError, match="SOUNDSTAGE_DTYPE is 'fp8'"):
        ss.load("nano")


def test_memory_is_priced_in_the_format_that_is_used(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "tiny")
    request = ss.Request(prompt="a", size=(64, 64), num_frames=9, steps=1)

    def taken(dtype: str) -> float:
        stage = ss.load(folder, device="cpu", dtype=dtype, residency="resident")
        choice = stage.choose(stage.plan(request))
        return choice.price.host_bytes - choice.process_bytes

    narrow = model_sizes(find_model(folder), 2, "full")[0].parts
    assert taken("float32") > taken("bfloat16") + narrow["transformer"] + narrow["video_vae"]


def test_the_published_model_is_priced_in_it_too() -> None:
    narrow, wide = ModelSizes.published("bfloat16"), ModelSizes.published("float32")
    assert wide.item_bytes == 2 * narrow.item_bytes
    assert wide.parts["transformer"] == 2 * narrow.parts["transformer"]
    assert wide.parts["vocoder"] == narrow.parts["vocoder"]
    fp8, beside = ModelSizes.published("fp8"), ModelSizes.published("fp8", 4)
    assert fp8.blocks == beside.blocks
    assert beside.parts["video_vae"] == wide.parts["video_vae"]


def test_plan_and_doctor_say_the_format_and_why() -> None:
    text = runner.invoke(app, ["plan", "A red ball.", "--frames", "9", "--dtype", "bfloat16"])
    assert "format    bfloat16: dtype asks for it" in text.stdout
    found = json.loads(runner.invoke(app, ["plan", "A red ball.", "--frames", "9", "--json"]).stdout)[
        "format"
    ]
    chosen = choose_format(asked_format(None), "bfloat16", "cpu")
    if not torch.cuda.is_available():
        assert found == {"name": chosen.name, "reason": chosen.reason}
    told = json.loads(
        runner.invoke(app, ["doctor", "--device", "cpu", "--dtype", "float32", "--json"]).stdout
    )
    assert told["format"]["name"] == "float32"
    assert runner.invoke(app, ["plan", "A red ball.", "--dtype", "int4"]).exit_code == 2
