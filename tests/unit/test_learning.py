"""Products of a training by oneDNN, and results that are made again, beside PyTorch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soundstage.model.arithmetic import PLAIN, ModulationRows
from soundstage.model.modulation import Modulation
from soundstage.model.rope import RopeTable, Rotation
from soundstage.speed import learning
from soundstage.speed.learning import learn
from soundstage.speed.onednn import OneDnnLinear
from soundstage.training.recompute import InputsKept, Recomputation
from soundstage.weights.quantize import FP8, Quantized


@pytest.mark.parametrize("trained", [False, True])
def test_a_product_of_a_training_gives_the_gradients_of_pytorchs_own(
    trained: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learning, "MIN_LEARNING", 0)
    torch.manual_seed(0)
    layer = nn.Linear(24, 16).requires_grad_(trained)
    x, grad = torch.randn(2, 5, 24, requires_grad=True), torch.randn(2, 5, 16)
    params = [x, *layer.parameters()] if trained else [x]
    wanted = torch.autograd.grad(layer(x), params, grad)
    learn(layer)
    made = layer(x)
    assert type(made.grad_fn).__name__ == "LearningProductBackward"
    for found, true in zip(torch.autograd.grad(made, params, grad), wanted, strict=True):
        torch.testing.assert_close(found, true)


def test_products_without_gradients_stay_those_of_inference() -> None:
    layer = nn.Linear(8, 8).requires_grad_(False)
    layer.__class__ = OneDnnLinear
    own = layer.product
    learn(layer)
    learn(layer)  # a second training on the same model
    assert layer.product.own is own  # type: ignore[union-attr]
    x = torch.randn(3, 8)
    with torch.no_grad():
        assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))


def rotation() -> Rotation:
    angles = torch.randn(1, 6, 2, 4)
    return RopeTable(angles.cos(), angles.sin()).rotation(torch.float32)


def everything(arithmetic: InputsKept | None, x: Tensor, groups: Tensor | None) -> Tensor:
    """Return a number that all of the arithmetic leads to."""
    way = PLAIN if arithmetic is None else arithmetic
    torch.manual_seed(1)
    rows = Modulation(torch.randn(1, 1 if groups is None else 2, 4, 16), groups)
    norm, linear = nn.RMSNorm(16, eps=1e-6), nn.Linear(16, 16)
    nn.init.normal_(norm.weight).requires_grad_(False)
    places = [ModulationRows(0, 1), ModulationRows(2, 3)]
    first, second = way.modulated_norms(x, 1e-6, rows, places)
    heads = way.heads(linear(first), norm, 2, rotation()) * way.heads(second, norm, 2, None)
    gated = way.gate_heads(heads, heads.sum(-1))
    added = way.add_gated(x, rows, 1, way.linear_gelu(linear, gated))
    return way.norm(added, 1e-6).square().mul(torch.arange(16.0)).sum()


@pytest.mark.parametrize("groups", [None, torch.tensor([0, 0, 1, 1, 1, 0])], ids=["one group", "two"])
def test_results_that_are_made_again_give_the_same_gradients(groups: Tensor | None) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 6, 16, requires_grad=True)
    (wanted,) = torch.autograd.grad(everything(None, x, groups), x)
    recomputation = Recomputation()
    with recomputation:
        made = everything(InputsKept(PLAIN, recomputation), x, groups)
    (found,) = torch.autograd.grad(made, x)
    torch.testing.assert_close(found, wanted)


def test_a_result_that_was_changed_or_freed_is_not_made_again() -> None:
    recomputation = Recomputation()
    x = torch.randn(4, 16, requires_grad=True)
    weight = torch.randn(16, 16, requires_grad=True)
    with recomputation:
        (made,) = recomputation.computed(lambda x: (x * 2,), x)
        changed = made.detach().mul_(3)
        product = changed @ weight
        del made
        fresh = [torch.full((4, 16), float(i)) @ weight for i in range(8)]
    for i, one in enumerate(fresh):
        (grad,) = torch.autograd.grad(one.sum(), weight)
        assert (grad == 4 * i).all()
    (grad,) = torch.autograd.grad(product.sum(), weight)
    torch.testing.assert_close(grad, changed.sum(0)[:, None].expand(16, 16))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_every_number_of_e4m3_is_widened_to_itself(dtype: torch.dtype) -> None:
    codes = torch.arange(256, dtype=torch.uint8).view(FP8)
    codes = codes[~codes.float().isnan()].view(1, -1)
    wide = Quantized(codes, torch.ones(1, 1)).dequantize(dtype)
    assert torch.equal(wide, codes.to(dtype))
    assert torch.equal(wide.signbit(), codes.to(dtype).signbit())


@pytest.mark.parametrize("code", [0x7F, 0xFF])
def test_a_weight_of_e4m3_that_is_no_number_stays_none(code: int) -> None:
    """A damaged file is found by it, with an even and with an odd count of numbers."""
    codes = torch.tensor([[1, code, 0x48, 2]], dtype=torch.uint8).view(FP8)
    for count in (4, 3):
        wide = Quantized(codes[:, :count], torch.ones(1, 1)).dequantize()
        assert wide.isnan().tolist() == [[False, True, False, False][:count]]
