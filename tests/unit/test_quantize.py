"""8-bit layers: rounding, products, what is left alone, and what it costs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.quantization import quantization_error
from soundstage.errors import RequestError, WeightsError
from soundstage.model.config import TransformerConfig
from soundstage.model.published import transformer_header
from soundstage.model.transformer import Transformer
from soundstage.weights import quantize as quantize_module
from soundstage.weights.quantize import (
    FP8,
    QuantizedLinear,
    from_stored,
    has_fp8_product,
    quantize,
    quantize_weight,
    rounded,
    targets,
)
from soundstage.weights.storage import Scheme
from tests.tiny_transformer import assert_near, linears, relative_error, transformer, velocities

SCHEMES: list[Scheme] = ["fp8", "fp8-cast", "int8", "int8-dynamic"]
# Relative error by norm of a weight of normal numbers, one scale per row. e4m3's steps are 1/8 to 1/16 of
# a number, int8's 1/127 of the row's largest.
WEIGHT_TOLERANCE = {"fp8": 0.03, "int8": 0.01}
OUTPUT_TOLERANCE: dict[str, float] = {"fp8": 0.03, "fp8-cast": 0.03, "int8": 0.01, "int8-dynamic": 0.02}
FORMATS = pytest.mark.parametrize("format", ["fp8", "int8"])
PER = pytest.mark.parametrize("per", ["tensor", "row"])


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# --- rounding ---------------------------------------------------------------------------------------


@FORMATS
@PER
def test_a_weight_comes_back_within_half_a_step(format: Any, per: Any) -> None:
    weight = noise(48, 64)
    found = quantize_weight(weight, format, per)
    assert found.values.dtype == (torch.int8 if format == "int8" else FP8)
    assert found.scale.shape == ((48, 1) if per == "row" else (1, 1))
    assert (found.format, found.per) == (format, per)
    assert relative_error(found.dequantize(), weight) < WEIGHT_TOLERANCE[format]
    largest = weight.abs().amax(dim=1) if per == "row" else weight.abs().amax()
    top = found.dequantize().abs().amax(dim=1) if per == "row" else found.dequantize().abs().amax()
    torch.testing.assert_close(top, largest)


@FORMATS
def test_rows_of_zeros_and_the_meta_device(format: Any) -> None:
    weight = noise(4, 8)
    weight[1] = 0
    assert torch.equal(quantize_weight(weight, format).dequantize()[1], torch.zeros(8))
    assert quantize_weight(weight.to("meta"), format).scale.shape == (4, 1)


def all_e4m3() -> Tensor:
    values = torch.arange(256, dtype=torch.uint8).view(FP8).float()
    return values[values.isfinite()]


@FORMATS
def test_random_rounding_keeps_what_the_format_holds(format: Any) -> None:
    held = all_e4m3() if format == "fp8" else torch.arange(-127, 128).float()
    found = rounded(held, format, torch.Generator().manual_seed(0))
    assert torch.equal(found.float(), held)


@FORMATS
def test_random_rounding_goes_to_a_neighbour_and_is_right_on_average(format: Any) -> None:
    held = torch.unique(all_e4m3()) if format == "fp8" else torch.arange(-127, 128).float()
    low, high = held[:-1], held[1:]
    share = torch.rand(len(low), generator=torch.Generator().manual_seed(1))
    x = low + share * (high - low)
    generator = torch.Generator().manual_seed(2)
    draws = torch.stack([rounded(x, format, generator).float() for _ in range(400)])
    assert ((draws == low) | (draws == high)).all()
    assert (((draws.mean(0) - x) / (high - low)).abs() < 5 * 0.5 / 400**0.5).all()


@FORMATS
def test_rounding_is_seeded_and_clamps(format: Any) -> None:
    x = 1000 * noise(64)
    first, second = (rounded(x, format, torch.Generator().manual_seed(3)).float() for _ in range(2))
    assert torch.equal(first, second)
    assert first.abs().max() <= (127 if format == "int8" else 448)
    assert first.isfinite().all()


# --- the layer --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_layer_gives_what_the_wide_one_gives(scheme: Scheme, dtype: torch.dtype) -> None:
    linear = nn.Linear(64, 48).requires_grad_(False)
    torch.nn.init.normal_(linear.weight, generator=torch.Generator().manual_seed(0))
    x = noise(2, 5, 64)
    wanted = linear(x)
    layer = quantize_module.quantized_linear(linear.to(dtype), scheme)
    found = layer(x.to(dtype))
    assert found.dtype == dtype
    assert found.shape == (2, 5, 48)
    assert relative_error(found, wanted) < OUTPUT_TOLERANCE[scheme] + (dtype == torch.bfloat16) * 0.005


@FORMATS
@PER
def test_cast_on_use_is_bit_for_bit_the_dequantized_weight(format: Any, per: Any) -> None:
    weight = quantize_weight(noise(48, 64), format, per)
    layer = from_stored(weight.values, weight.scale.flatten(), noise(48).bfloat16(), native=False)
    dequantized = (weight.values.float() * weight.scale).bfloat16()
    x = noise(3, 64, seed=1).bfloat16()
    wide = nn.Linear(64, 48).requires_grad_(False)
    wide.weight.data, wide.bias.data = dequantized, layer.bias  # type: ignore[assignment]
    assert torch.equal(weight.dequantize(torch.bfloat16), dequantized)
    torch.testing.assert_close(layer(x), wide(x), atol=0, rtol=2**-7)


@PER
def test_the_fp8_product_is_that_of_the_rounded_numbers(per: Any) -> None:
    """Called directly: on the CPU PyTorch has it, but casting is faster."""
    weight = quantize_weight(noise(48, 64), "fp8", per)
    bias = noise(48)
    layer = QuantizedLinear(weight, bias, native=True)
    x = noise(5, 64, seed=1)
    scale = x.abs().amax(dim=1, keepdim=True) / 448
    rounded_x = (x / scale).to(FP8).float() * scale
    wanted = rounded_x @ weight.dequantize().T + bias
    assert relative_error(layer._fp8_product(x), wanted) < 0.005
    assert relative_error(layer._fp8_product(x), layer(x)) < 0.04


def test_a_files_input_scale_clamps_and_a_placeholder_is_ignored() -> None:
    weight = quantize_weight(noise(32, 64), "fp8", "tensor")
    x = noise(5, 64, seed=1)
    fixed = from_stored(weight.values, weight.scale, None, input_scale=torch.tensor(0.001))
    assert fixed._fp8_product(x).isfinite().all()
    torch.testing.assert_close(
        fixed._fp8_product(x), fixed._fp8_product(x.clamp(-0.448, 0.448)), atol=1e-3, rtol=1e-2
    )
    assert from_stored(weight.values, weight.scale, None, input_scale=torch.tensor(1.0)).input_scale is None


def test_the_int8_product_is_exact_in_its_integers() -> None:
    weight = quantize_weight(noise(48, 64), "int8")
    layer = QuantizedLinear(weight, None, native=True)
    for count in (1, 5, 40):  # CUDA's takes no fewer than 17 rows
        x = noise(count, 64, seed=count)
        scale = x.abs().amax(dim=1, keepdim=True) / 127
        sums = (x / scale).round().double() @ weight.values.double().T
        wanted = (sums * scale * weight.scale.T).float()
        torch.testing.assert_close(layer(x), wanted, atol=1e-5, rtol=1e-5)


def test_the_cpu_has_no_fp8_product() -> None:
    assert not has_fp8_product(torch.device("cpu"))


def test_gradients_pass_through_a_frozen_8_bit_layer() -> None:
    layer = QuantizedLinear(quantize_weight(noise(48, 64), "int8"), None, native=True)
    x = noise(3, 64, seed=1).requires_grad_()
    layer(x).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad[0], layer.quantized.dequantize().sum(0), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("weight", "scale", "message"),
    [
        (torch.zeros(4, 8), torch.ones(1), r"'w' is torch.float32 \[4, 8\]; e4m3 or int8"),
        (torch.zeros(4, 8, dtype=torch.int8), None, "'w' is int8 without a scale"),
        (torch.zeros(4, 8, dtype=torch.int8), torch.ones(3), r"scale of 'w' has the shape \[3\]"),
        (torch.zeros(4, 8, dtype=torch.int8), torch.zeros(1), "one positive number or 4"),
        (torch.zeros(4, 8, dtype=torch.int8), torch.tensor(float("nan")), "one positive number or 4"),
    ],
)
def test_stored_weights_of_another_kind_are_refused(
    weight: Tensor, scale: Tensor | None, message: str
) -> None:
    with pytest.raises(WeightsError, match=message):
        from_stored(weight, scale, None, name="w")


def test_a_plain_cast_has_the_scale_one() -> None:
    weight = noise(32, 64).to(FP8)
    layer = from_stored(weight, None, None)
    assert torch.equal(layer.quantized.dequantize(), weight.float())


# --- models -----------------------------------------------------------------------------------------


def test_28_layers_of_each_published_block_become_8_bit_and_nothing_else() -> None:
    with torch.device("meta"):
        model = Transformer(TransformerConfig.from_header({"transformer": transformer_header(num_layers=4)}))
    dtypes = {key: value.dtype for key, value in model.state_dict().items()}
    names = quantize(model, "fp8")
    assert len(names) == 4 * 28
    assert not any(
        word in name
        for name in names
        for word in ("gate", "adaln", "norm", "patchify", "proj_out", "table", "connector")
    )
    state = model.state_dict()
    weights = {f"{name}.weight" for name in names}
    assert {key for key, value in state.items() if value.dtype == FP8} == weights
    assert set(state) - set(dtypes) == {f"{name}.weight_scale" for name in names}
    assert all(state[key].dtype == dtype for key, dtype in dtypes.items() if key not in weights)


def test_layers_are_skipped_by_pattern() -> None:
    model = transformer()
    names = quantize(model, "int8", skip=("transformer_blocks.0.*", "*.audio_ff.*"))
    assert len(names) == 28 - 2
    assert all(name.startswith("transformer_blocks.1.") for name in names)
    assert not targets(model, ("transformer_blocks.0.*", "*.audio_ff.*"))


def test_what_cannot_be_quantized_is_refused() -> None:
    with pytest.raises(RequestError, match="quantize is 'int4'; give one of int8, fp8, fp8-cast"):
        quantize(transformer(), "int4")  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="no layer of Transformer is left"):
        quantize(transformer(), "fp8", skip=("*",))


def test_a_saved_8_bit_model_loads_into_one_built_without_weights() -> None:
    model = transformer()
    quantize(model, "fp8")
    with torch.device("meta"):
        empty = Transformer(model.config)
    quantize(empty, "fp8")
    empty.load_state_dict(model.state_dict(), strict=True, assign=True)
    for found, wanted in zip(velocities(empty.eval()), velocities(model), strict=True):
        assert torch.equal(found, wanted)


# Of the whole model's velocities, two blocks of random weights.
MODEL_TOLERANCE = {"fp8": 0.1, "fp8-cast": 0.1, "int8": 0.03, "int8-dynamic": 0.05}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_error_of_each_part_against_bfloat16(scheme: Scheme) -> None:
    model = transformer(torch.bfloat16)
    before = velocities(model)
    errors = quantization_error(model, scheme, lambda: velocities(model))
    for found, wanted in zip(velocities(model), before, strict=True):
        assert torch.equal(found, wanted)
    assert set(errors) == {
        "attn1", "attn2", "audio_attn1", "audio_attn2", "audio_to_video_attn", "video_to_audio_attn",
        "ff", "audio_ff",
    }  # fmt: skip
    for error in errors.values():
        assert 0 < error.weight < WEIGHT_TOLERANCE[scheme[:3] if scheme.startswith("fp8") else "int8"]
        assert 0 < error.output < OUTPUT_TOLERANCE[scheme] + 0.005
    quantize(model, scheme)
    assert not any(name in linears(model) for name in targets(transformer()))
    assert_near(velocities(model), before, MODEL_TOLERANCE[scheme])
