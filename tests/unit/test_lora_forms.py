"""LoKr, LoHa and whole differences: they change a layer as their matrix does, and become plain LoRAs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from soundstage.errors import WeightsError
from soundstage.lora import combine, rewrite
from soundstage.lora.adapters import Adapters
from soundstage.lora.asked import RankLimit
from soundstage.lora.effect import measure
from soundstage.lora.factoring import singular_values, truncated
from soundstage.lora.files import read_lora, write_lora
from soundstage.lora.layers import Layer, LowRank
from soundstage.lora.merge import merged
from soundstage.weights.quantize import QuantizedLinear, put, quantized_linear

KEY = "transformer_blocks.0.attn1.to_q"
LAYER = Layer("transformer", KEY)
OUT, IN, ALPHA = 24, 20, 6.0


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def product(tensors: dict[str, Tensor], name: str) -> Tensor:
    return tensors[name] if name in tensors else tensors[f"{name}_a"] @ tensors[f"{name}_b"]


# Tensors of each form, and the rank that its alpha is divided by; None where alpha says nothing.
FORMS: dict[str, tuple[dict[str, Tensor], int | None]] = {
    "lokr of two whole matrices": ({"lokr_w1": numbers(4, 5), "lokr_w2": numbers(6, 4)}, None),
    "lokr of a matrix and factors": (
        {"lokr_w1": numbers(4, 5), "lokr_w2_a": numbers(6, 2), "lokr_w2_b": numbers(2, 4)}, 2,
    ),
    "lokr of factors alone": (
        {
            "lokr_w1_a": numbers(4, 3), "lokr_w1_b": numbers(3, 5),
            "lokr_w2_a": numbers(6, 3), "lokr_w2_b": numbers(3, 4),
        }, 3,
    ),
    "lokr of factors and a matrix": (
        {"lokr_w1_a": numbers(4, 3), "lokr_w1_b": numbers(3, 5), "lokr_w2": numbers(6, 4)}, 3,
    ),
    "loha": (
        {
            "hada_w1_a": numbers(OUT, 3), "hada_w1_b": numbers(3, IN),
            "hada_w2_a": numbers(OUT, 3) + 1, "hada_w2_b": numbers(3, IN) - 1,
        }, 3,
    ),
    "difference": ({"diff": numbers(OUT, IN)}, None),
}  # fmt: skip


def change_of(form: str) -> Tensor:
    """Return the matrix by the definition of its form."""
    tensors, divisor = FORMS[form]
    scale = 1.0 if divisor is None else ALPHA / divisor
    if "diff" in tensors:
        return tensors["diff"]
    if form == "loha":
        return product(tensors, "hada_w1") * product(tensors, "hada_w2") * scale
    return torch.kron(product(tensors, "lokr_w1"), product(tensors, "lokr_w2")) * scale


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def written(path: Path, form: str, prefix: str = f"diffusion_model.{KEY}") -> Path:
    tensors, divisor = FORMS[form]
    named = {f"{prefix}.{name}": tensor.clone() for name, tensor in tensors.items()}
    if divisor is not None:
        named[f"{prefix}.alpha"] = torch.tensor(ALPHA)
    save_file(named, path)
    return path


class OneLayer(nn.Module):
    """As much of a transformer as the adapter looks for."""

    def __init__(self) -> None:
        super().__init__()
        attention = nn.Module()
        attention.to_q = nn.Linear(IN, OUT)
        block = nn.Module()
        block.attn1 = attention
        self.transformer_blocks = nn.ModuleList([block])

    @property
    def layer(self) -> nn.Module:
        return self.get_submodule(KEY)


@pytest.mark.parametrize("prefix", [f"diffusion_model.{KEY}", "lycoris_" + KEY.replace(".", "_")])
def test_a_layer_changes_by_the_matrix_at_its_strength_and_token_weights(
    tmp_path: Path, form: str, prefix: str
) -> None:
    model, x = OneLayer(), numbers(2, 7, IN)
    before = model.layer(x)
    adapters = Adapters(model)
    report = adapters.add("a", read_lora(written(tmp_path / "a.safetensors", form, prefix)))
    assert report.matched == 1
    adapters.set({"a": 0.5})
    wanted = 0.5 * x @ change_of(form).T
    torch.testing.assert_close(model.layer(x) - before, wanted, rtol=1e-4, atol=1e-4)
    across = numbers(2, IN, 7).transpose(1, 2)  # as a piece of a wider tensor, its numbers are apart
    torch.testing.assert_close(model.layer(across), model.layer(across.contiguous()))
    weights = torch.linspace(0, 1, 7)[None, :, None]
    adapters.weigh("a", video=weights)
    torch.testing.assert_close(model.layer(x) - before, wanted * weights, rtol=1e-4, atol=1e-4)
    adapters.set({})
    assert torch.equal(model.layer(x), before)


def test_a_layer_in_eight_bits_changes_by_the_same_matrix(tmp_path: Path, form: str) -> None:
    model, x = OneLayer(), numbers(1, 3, IN)
    put(model, KEY, quantized_linear(nn.Linear(IN, OUT), "fp8", "row"))
    assert isinstance(model.layer, QuantizedLinear)
    before = model.layer(x)
    adapters = Adapters(model)
    adapters.add("a", read_lora(written(tmp_path / "a.safetensors", form)))
    adapters.set({"a": 1.0})
    torch.testing.assert_close(model.layer(x) - before, x @ change_of(form).T, rtol=1e-4, atol=1e-4)


def test_a_weight_takes_the_change_for_good(tmp_path: Path, form: str) -> None:
    weight = numbers(OUT, IN)
    change = read_lora(written(tmp_path / "a.safetensors", form)).layers[LAYER]
    assert change.shape == (OUT, IN)
    torch.testing.assert_close(
        merged(weight, [(change, 2.0)]), weight + 2 * change_of(form), rtol=1e-4, atol=1e-4
    )
    assert change.norm() == pytest.approx(change_of(form).norm().item(), rel=1e-5)


def test_singular_values_and_the_best_pair_are_those_of_the_matrix(tmp_path: Path, form: str) -> None:
    change = read_lora(written(tmp_path / "a.safetensors", form)).layers[LAYER]
    values = torch.linalg.svdvals(change_of(form))
    found = singular_values(change)
    torch.testing.assert_close(found[:4], values[:4], rtol=1e-3, atol=1e-4)
    assert change.rank >= torch.linalg.matrix_rank(change_of(form))
    cut = truncated(change, RankLimit(4, None))
    error = (cut.delta() - change_of(form)).norm()
    assert error <= values[4:].norm() * 1.01 + 1e-4 * values[0]


def test_resizing_makes_a_plain_lora_and_other_tools_say_so(tmp_path: Path, form: str) -> None:
    path = written(tmp_path / "a.safetensors", form)
    made = rewrite.resize(path, tmp_path / "small.safetensors", rank=20)
    plain = read_lora(tmp_path / "small.safetensors").layers[LAYER]
    assert isinstance(plain, LowRank)
    torch.testing.assert_close(
        plain.delta(), change_of(form), rtol=1e-3, atol=1e-2 * float(change_of(form).abs().max())
    )
    assert made.error < 1e-5
    for act in (
        lambda: rewrite.convert(path, tmp_path / "b.safetensors"),
        lambda: combine.merge(
            [combine.Ingredient(path), combine.Ingredient(path)], tmp_path / "b.safetensors"
        ),
        lambda: write_lora(tmp_path / "b.safetensors", read_lora(path)),
    ):
        with pytest.raises(WeightsError, match="another form of change; `soundstage lora resize"):
            act()
    assert not (tmp_path / "b.safetensors").exists()


def test_the_effect_is_measured(tmp_path: Path, form: str) -> None:
    (layer,) = measure(read_lora(written(tmp_path / "a.safetensors", form))).layers
    assert layer.change == pytest.approx(change_of(form).norm().item(), rel=1e-3)


def test_another_model_and_numbers_that_are_not_finite_are_refused(tmp_path: Path, form: str) -> None:
    model = OneLayer()
    model.transformer_blocks[0].attn1.to_q = nn.Linear(IN, OUT + 1)  # type: ignore[union-attr]
    path = written(tmp_path / "a.safetensors", form)
    with pytest.raises(WeightsError, match=r"weight of shape \[24, 20\] where the model has \[25, 20\]"):
        Adapters(model).add("a", read_lora(path))
    tensors, _ = FORMS[form]
    broken = {f"{KEY}.{name}": torch.full_like(tensor, torch.nan) for name, tensor in tensors.items()}
    save_file(broken, path)
    with pytest.raises(WeightsError, match="not finite"):
        Adapters(OneLayer()).add("a", read_lora(path))
