"""Fused kernels against their plain twins: on a device where there is one, else in Triton's interpreter.

The interpreter cuts bfloat16 off where a device rounds, so that format is held to two steps here; float32 and
float16 show that both round at the same places.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from soundstage.lora.adapters import Adapters
from soundstage.model.arithmetic import PLAIN, Arithmetic, ModulationRows, use
from soundstage.model.block import Perturbation
from soundstage.model.modulation import Modulation
from soundstage.model.nag import NegativeText
from soundstage.model.rope import RopeTable
from soundstage.weights.quantize import PLAIN_ROUNDING, Format, Quantized, QuantizedLinear, quantize
from tests.tiny_transformer import modalities, random_lora, transformer

pytest.importorskip("triton", reason="Triton is not installed")
from soundstage.speed import cuda, triton_kernels
from soundstage.speed.cuda import Fused, FusedRounding
from tests.limits import SLOW_S

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TOLERANCE = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 4e-2}
FORMATS = pytest.mark.parametrize("dtype", list(TOLERANCE))


def noise(*sizes: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(sizes))
    return torch.randn(sizes, generator=generator).to(DEVICE, dtype)


def assert_near(found: Tensor, wanted: Tensor) -> None:
    assert found.shape == wanted.shape
    assert found.dtype == wanted.dtype
    size = wanted.float().abs().clamp(min=1)
    assert ((found.float() - wanted.float()).abs() / size).max() <= TOLERANCE[wanted.dtype]


class Counting:
    """The kernels' module, and how often each was launched."""

    def __init__(self) -> None:
        self.calls: dict[str, int] = {}

    def __getattr__(self, name: str) -> Any:
        found = getattr(triton_kernels, name)
        if not callable(found):
            return found

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.calls[name] = self.calls.get(name, 0) + 1
            return found(*args, **kwargs)

        return counted


def fused(kernels: Any = triton_kernels, on: Sequence[str] = Fused.METHODS) -> Fused:
    return Fused(kernels, on=on, device_type=DEVICE.type)


# --- one by one ------------------------------------------------------------------------------------------


def modulations(dtype: torch.dtype) -> list[Modulation]:
    """One group for all; one for each; shared by the batch."""
    groups = torch.tensor([0, 2, 1, 1, 0], device=DEVICE)
    rows = noise(2, 3, 6, 24, dtype=dtype)
    return [Modulation(rows[:, :1]), Modulation(rows, groups), Modulation(rows[:1], groups)]


@FORMATS
@pytest.mark.parametrize("case", range(3))
def test_modulated_norms(dtype: torch.dtype, case: int) -> None:
    x, rows = noise(2, 5, 24, dtype=dtype), modulations(dtype)[case]
    for places in ((ModulationRows(1, 0),), (ModulationRows(1, 0), ModulationRows(4, 3))):
        found = fused().modulated_norms(x, 1e-6, rows, places)
        wanted = PLAIN.modulated_norms(x, 1e-6, rows, places)
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            assert_near(one, other)


@FORMATS
@pytest.mark.parametrize("case", range(3))
def test_add_gated(dtype: torch.dtype, case: int) -> None:
    x, h, rows = noise(2, 5, 24, dtype=dtype), noise(2, 5, 24, dtype=dtype, seed=1), modulations(dtype)[case]
    for keep in (None, torch.tensor([False, True], device=DEVICE).view(2, 1, 1)):
        assert_near(fused().add_gated(x, rows, 2, h, keep), PLAIN.add_gated(x, rows, 2, h, keep))


@FORMATS
@pytest.mark.parametrize("shared", [True, False])
def test_heads_are_normed_and_rotated(dtype: torch.dtype, shared: bool) -> None:
    angles = noise(1 if shared else 2, 5, 3, 4)
    rotation = RopeTable(angles.cos(), angles.sin()).rotation(dtype)
    norm = nn.RMSNorm(24, eps=1e-6).to(DEVICE, dtype).requires_grad_(False)
    norm.weight.copy_(noise(24))
    x = noise(2, 5, 24, dtype=dtype)
    assert_near(fused().heads(x, norm, 3, rotation), PLAIN.heads(x, norm, 3, rotation))


@FORMATS
def test_heads_are_gated_at_any_stride(dtype: torch.dtype) -> None:
    logits = noise(2, 5, 3, dtype=dtype)
    for heads in (noise(2, 5, 3, 8, dtype=dtype), noise(2, 3, 5, 8, dtype=dtype).transpose(1, 2)):
        assert_near(fused().gate_heads(heads, logits), PLAIN.gate_heads(heads, logits))


def edges(columns: int) -> Tensor:
    """Rows with numbers halfway between e4m3's, zeros, tiny and huge numbers, and one that is none."""
    e4m3 = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    held = e4m3[e4m3.isfinite()].sort().values
    halfway = torch.cat([(held[1:] + held[:-1]) / 2, held])[:columns]
    halfway[0] = 448.0  # the scale is then exactly 1
    rows = [halfway, torch.zeros(columns), noise(columns).cpu() * 1e-30, noise(columns).cpu() * 1e30]
    rows += list(noise(5, columns).cpu())
    return torch.stack(rows).to(DEVICE)


@pytest.mark.parametrize("format", ["fp8", "int8"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_activations_are_rounded_to_the_same_bytes(format: Format, dtype: torch.dtype) -> None:
    rounding = FusedRounding(triton_kernels, device_type=DEVICE.type)
    x = edges(400).to(dtype)
    given = torch.full((1, 1), 0.5, device=DEVICE)
    for scale in (None, given) if format == "fp8" else (None,):
        found, wanted = (r.activations(x, format, scale) for r in (rounding, PLAIN_ROUNDING))
        assert torch.equal(found.scale.expand(len(x), 1), wanted.scale.expand(len(x), 1))
        assert torch.equal(found.values.view(torch.uint8), wanted.values.view(torch.uint8))


@pytest.mark.skipif(DEVICE.type == "cpu", reason="Triton's interpreter casts what is no number to 384")
def test_what_is_not_a_number_stays_none_in_e4m3() -> None:
    x = edges(400)
    x[2, 7] = float("nan")
    found = FusedRounding(triton_kernels, device_type=DEVICE.type).activations(x, "fp8")
    assert found.values.float()[2].isnan().any()


@FORMATS
@pytest.mark.parametrize("format", ["fp8", "int8"])
def test_weights_are_cast_into_one_buffer(format: Format, dtype: torch.dtype) -> None:
    rounding = FusedRounding(triton_kernels, device_type=DEVICE.type)
    buffers = set()
    for weight in (noise(6, 40), noise(5, 40), noise(4, 40)):
        values = (weight * 20).to(torch.int8 if format == "int8" else torch.float8_e4m3fn)
        for scale in (noise(len(weight), 1).abs(), noise(1, 1).abs()):
            held = Quantized(values, scale)
            assert_near(rounding.weight(held, dtype), PLAIN_ROUNDING.weight(held, dtype))
            buffers.add(rounding.weight(held, dtype).untyped_storage().data_ptr())
    assert len(buffers) == 1


@FORMATS
def test_sums_are_scaled_back(dtype: torch.dtype) -> None:
    rounding = FusedRounding(triton_kernels, device_type=DEVICE.type)
    sums = (noise(7, 40) * 1e5).to(torch.int32)
    for scale in (noise(40, 1).abs(), noise(1, 1).abs()):
        for bias in (None, noise(40, dtype=dtype)):
            row_scale = noise(7, 1).abs() * 1e-5
            given = sums, row_scale, scale, bias, dtype
            found, wanted = rounding.rescaled(*given), PLAIN_ROUNDING.rescaled(*given)
            assert_near(found, wanted)


# --- a whole model ---------------------------------------------------------------------------------------


def run(model: nn.Module, batch: int = 1, **changes: Any) -> tuple[Tensor, Tensor]:
    perturbation = changes.pop("perturbation", None)
    with torch.no_grad():
        video, audio = model(*modalities(batch, **changes), perturbation=perturbation)
    return video, audio


def two_timesteps() -> dict[str, Tensor]:
    timesteps = modalities(1)[0].timesteps.clone()
    timesteps[:, :5] = 0
    return {"timesteps": timesteps}


FORWARDS: dict[str, Callable[[], dict[str, Any]]] = {
    "a timestep of its own for some tokens": two_timesteps,
    "one sample without the exchange": lambda: {
        "batch": 2,
        "perturbation": [Perturbation.isolated(), Perturbation()],
    },
    "a negative text": lambda: {"negative": NegativeText(modalities(1)[0].context.flip(1))},
}


@pytest.mark.skipif(DEVICE.type != "cpu", reason="the model of this test is on the CPU")
@pytest.mark.parametrize("forward", list(FORWARDS))
def test_a_transformer_gives_the_same_velocities(forward: str) -> None:
    model, kernels = transformer(), Counting()
    wanted = run(model, **FORWARDS[forward]())
    methods = [name for name in Fused.METHODS if name != "linear_gelu"]  # another GELU on a CPU
    assert use(model, fused(kernels, methods)) > 0
    for found, other in zip(run(model, **FORWARDS[forward]()), wanted, strict=True):
        torch.testing.assert_close(found, other, rtol=2e-5, atol=2e-5)
    # All that two blocks do: with the exchange, and at least without it in both directions.
    calls = {"modulated_norms": 16, "add_gated": 16, "rotated_heads": 16, "gate_heads": 12}
    assert kernels.calls == calls


@pytest.mark.skipif(DEVICE.type != "cpu", reason="the model of this test is on the CPU")
def test_adapters_change_what_they_change_without_kernels() -> None:
    model = transformer()
    adapters = Adapters(model)
    adapters.add("one", random_lora(model))
    adapters.set({"one": 1.0})
    wanted = run(model)
    use(model, fused())
    for found, other in zip(run(model), wanted, strict=True):
        torch.testing.assert_close(found, other, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("scheme", ["int8", "fp8-cast", "int8-dynamic"])
def test_an_8_bit_layer_gives_the_same_numbers(scheme: Any) -> None:
    model, kernels = nn.ModuleDict({"transformer_blocks": nn.ModuleList([nn.ModuleDict()])}), Counting()
    attention = nn.ModuleDict({"to_q": nn.Linear(32, 48), "to_k": nn.Linear(32, 48, bias=False)})
    model["transformer_blocks"][0]["attn1"] = attention.requires_grad_(False).to(DEVICE)  # type: ignore[index]
    assert len(quantize(model, scheme)) == 2
    x = noise(2, 20, 32)
    wanted = [layer(x) for layer in attention.values()]
    cuda.set_rounding(
        [layer for layer in attention.values() if isinstance(layer, QuantizedLinear)],
        FusedRounding(kernels, device_type=DEVICE.type),
    )
    for layer, other in zip(attention.values(), wanted, strict=True):
        torch.testing.assert_close(layer(x), other, rtol=1e-5, atol=1e-5)
    dynamic = {"quantize_rows": 1, "rescale": 2}  # both layers read one rounding
    assert kernels.calls == (dynamic if scheme == "int8-dynamic" else {"dequantize": 2})


class Plainly:
    """Rounds as the kernel does, and keeps nothing alive as the interpreter does."""

    MOST_COLUMNS = 64

    def __init__(self) -> None:
        self.calls = 0

    def quantize_rows(self, x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        self.calls += 1
        return PLAIN_ROUNDING.activations(x, "int8" if dtype == torch.int8 else "fp8")


def test_queries_keys_and_values_share_one_rounding() -> None:
    kernels = Plainly()
    rounding = FusedRounding(kernels, device_type="cpu")
    x = torch.randn(3, 4, 32)
    first = rounding.activations(x.reshape(-1, 32), "int8")
    second = rounding.activations(x.reshape(-1, 32), "int8")
    assert second is first
    assert rounding.activations(x[:2].reshape(-1, 32), "int8").values.shape == (8, 32)
    x.add_(1)  # other numbers in the same place
    again = rounding.activations(x.reshape(-1, 32), "int8")
    wanted = PLAIN_ROUNDING.activations(x.reshape(-1, 32), "int8")
    assert torch.equal(again.values, wanted.values)
    assert kernels.calls == 3
    del x
    assert rounding._kept is None  # nothing outlives what it was made from


# --- when the plain way is taken -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "unfit",
    ["gradients", "autocast", "float64", "not contiguous", "three places", "switched off"],
)
def test_what_does_not_fit_takes_the_plain_way(unfit: str) -> None:
    kernels = Counting()
    on = () if unfit == "switched off" else Fused.METHODS
    arithmetic: Arithmetic = fused(kernels, on)
    dtype = torch.float64 if unfit == "float64" else torch.float32
    x, rows = noise(2, 5, 24, dtype=dtype), Modulation(noise(2, 1, 6, 24, dtype=dtype))
    x = x.transpose(0, 1).contiguous().transpose(0, 1) if unfit == "not contiguous" else x
    x.requires_grad_(unfit == "gradients")
    places = (ModulationRows(1, 0),) * (3 if unfit == "three places" else 1)
    with torch.autocast(DEVICE.type, enabled=unfit == "autocast"):
        found = arithmetic.modulated_norms(x, 1e-6, rows, places)[0]
        wanted = PLAIN.modulated_norms(x, 1e-6, rows, places)[0]
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    assert kernels.calls == {}


def test_weights_that_gradients_need_share_a_buffer_and_are_widened_again() -> None:
    weights = [Quantized(noise(16, 16).to(torch.int8), noise(16, 1).abs()) for _ in range(2)]

    def gradient(kernels: Counting | None) -> Tensor:
        layers = [QuantizedLinear(weight, None, native=False) for weight in weights]
        if kernels is not None:
            cuda.set_rounding(layers, FusedRounding(kernels, device_type=DEVICE.type))
        x = torch.linspace(-1, 1, 32).reshape(2, 16).to(DEVICE).requires_grad_()
        layers[1](layers[0](x)).square().sum().backward()
        assert x.grad is not None
        return x.grad

    kernels = Counting()
    torch.testing.assert_close(gradient(kernels), gradient(None), rtol=1e-5, atol=1e-5)
    assert kernels.calls == {"dequantize": 4}


# --- for devices that are not here -----------------------------------------------------------------------

COMPILE = """
import sys
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from soundstage.speed import triton_kernels as kernels

B, I, L, F = "*bf16", "i32", "*i64", "*fp32"
def build(kernel, arch, constants, *types):
    names = [name for name in kernel.arg_names if name not in constants]
    signature = {**dict(zip(names, types, strict=True)), **{name: "constexpr" for name in constants}}
    signature = {name: signature[name] for name in kernel.arg_names}
    at = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=at)
    assert len(compile(source, target=GPUTarget("cuda", arch, 32)).asm["cubin"]) > 0

for arch in (80, 90):
    rows = dict(GROUPS=True, BLOCK=4096)
    build(kernels._modulated_norm_kernel, arch, {**rows, "TWO": True}, B, B, L, B, B, I, I, "fp32", *[I] * 7)
    build(kernels._add_gated_kernel, arch, {**rows, "KEEP": True}, B, B, L, B, "*u8", B, *[I] * 5)
    build(kernels._rotated_heads_kernel, arch, dict(PAIRS=64, BLOCK=2048), B, B, B, B, B, I, I, "fp32", I)
    build(kernels._gate_heads_kernel, arch, dict(HEAD_DIM=128, BLOCK=4096), B, B, B, *[I] * 5)
    build(kernels._rescale_kernel, arch, dict(PER_COLUMN=True, BIAS=True, BLOCK=4096), "*i32", F, F, B, B, I)
    for values in ("*i8",) if arch < 89 else ("*i8", "*fp8e4nv"):
        how = dict(E4M3=values != "*i8", GIVEN=False, BLOCK=16384)
        build(kernels._quantize_rows_kernel, arch, how, B, F, values, F, I)
        build(kernels._dequantize_kernel, arch, dict(PER_ROW=True, BLOCK=4096), values, F, B, I)
print("compiled")
"""


@pytest.mark.slow
def test_the_kernels_compile_for_devices_that_are_not_here() -> None:
    """For the A100 and the H100, with the assembler that Triton brings along."""
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_DEFAULT_FP_FUSION": "1"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=SLOW_S,
    )
    if "No module named 'triton.backends.nvidia'" in done.stderr:
        pytest.skip("this Triton is without its CUDA compiler")
    assert done.stdout.strip() == "compiled", done.stderr[-2000:]
