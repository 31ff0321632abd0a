"""The CPU's own ways give what the plain ones give, stand back for training, and are tried before use."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soundstage.model.arithmetic import PLAIN, Arithmetic, ModulationRows
from soundstage.model.attention import Attention, GeluProjection
from soundstage.model.modulation import Modulation
from soundstage.model.rope import Rotation
from soundstage.model.transformer import Transformer
from soundstage.speed import onednn, rows
from soundstage.speed.rows import RowArithmetic
from soundstage.weights.quantize import QuantizedLinear, quantize
from tests.limits import joined
from tests.tiny_transformer import modalities, transformer

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 6e-3}
FORMATS = pytest.mark.parametrize("dtype", list(TOLERANCE))
ALL = frozenset({"products", "attention", "rows"})


def works(dtype: torch.dtype) -> bool:
    """Whether oneDNN has a product in this format for this processor."""
    try:
        onednn.product(torch.ones(2, 2, dtype=dtype), torch.ones(2, 2, dtype=dtype))
    except RuntimeError:
        return False
    return True


def need(dtype: torch.dtype) -> None:
    if not works(dtype):
        pytest.skip(f"oneDNN multiplies no {dtype} on this processor; the trial leaves it out")


@pytest.fixture(autouse=True)
def small_products_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "MIN_PRODUCT", 0)


def noise(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def assert_near(found: Tensor, wanted: Tensor) -> None:
    """Close by norm to a float32 result, as close as found's format allows."""
    assert ((found.float() - wanted).norm() / wanted.norm()).item() < TOLERANCE[found.dtype]


@FORMATS
def test_linear_and_gelu_are_pytorchs(dtype: torch.dtype) -> None:
    need(dtype)
    x, weight, bias = noise(2, 7, 24, dtype=dtype), noise(40, 24, dtype=dtype), noise(40, dtype=dtype)
    wanted = F.linear(x.float(), weight.float(), bias.float())
    assert_near(onednn.linear(x, weight, bias), wanted)
    assert_near(onednn.linear_gelu(x, weight, bias), F.gelu(wanted, approximate="tanh"))
    assert_near(
        onednn.linear(x, noise(24, 40, dtype=dtype).T),
        F.linear(x.float(), noise(24, 40, dtype=dtype).T.float()),
    )


def test_gelu_by_sigmoid_is_pytorchs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "GROUP_BYTES", 4 * 24 * 3)  # groups that do not divide the rows
    x = 4 * noise(2, 5, 24)
    assert_near(rows.gelu_by_rows(x.clone()), F.gelu(x, approximate="tanh"))
    weight, bias = noise(40, 24), noise(40)
    found = onednn.linear_sigmoid_gelu(x, weight, bias)
    assert_near(found, F.gelu(F.linear(x, weight, bias), approximate="tanh"))


@FORMATS
@pytest.mark.parametrize("bias_shape", [None, (2, 1, 1, 300), (1, 1, 310, 300), (2, 3, 310, 300)])
def test_attention_by_head_is_pytorchs(
    dtype: torch.dtype, bias_shape: tuple[int, ...] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    need(dtype)
    monkeypatch.setattr(onednn, "MAX_SCORES", 300 * 130)  # groups that do not divide the queries
    shapes = (2, 310, 3, 16), (2, 300, 3, 16), (2, 300, 3, 16)
    q, k, v = (noise(*shape, dtype=dtype).transpose(1, 2) for shape in shapes)
    bias = None if bias_shape is None else noise(*bias_shape, dtype=dtype)
    mask = None if bias is None else bias.float()
    wanted = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=mask)
    assert_near(onednn.attention_by_head(q, k, v, bias), wanted)
    assert_near(onednn.attention(q, k, v, bias), wanted)


@FORMATS
@pytest.mark.parametrize("per_token", [False, True])
def test_norms_by_rows_are_the_plain_ones(
    dtype: torch.dtype, per_token: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "GROUP_BYTES", 4 * 48 * 3)  # groups that do not divide the rows
    monkeypatch.setattr(rows, "MIN_NUMBERS", 0)
    x = 3 * noise(2, 10, 48, dtype=dtype)
    before, wide = x.clone(), x.float()
    groups = torch.arange(10) % 3 if per_token else None
    modulation = Modulation(noise(2, 3 if per_token else 1, 4, 48, dtype=dtype), groups)
    wide_modulation = Modulation(modulation.rows.float(), groups)
    norm, wide_norm = nn.RMSNorm(48, eps=1e-6).to(dtype), nn.RMSNorm(48, eps=1e-6)
    with torch.no_grad():
        norm.weight.copy_(noise(48))
        wide_norm.weight.copy_(norm.weight)
    rotation = Rotation(noise(1, 10, 3, 16, dtype=dtype), noise(1, 10, 3, 16, dtype=dtype))
    wide_rotation = Rotation(rotation.cos.float(), rotation.sin.float())
    places = ModulationRows(0, 1), ModulationRows(3, 2)
    fast = RowArithmetic()
    with torch.no_grad():
        assert_near(fast.norm(x, 1e-6), PLAIN.norm(wide, 1e-6))
        found = fast.modulated_norms(x, 1e-6, modulation, places)
        wanted = PLAIN.modulated_norms(wide, 1e-6, wide_modulation, places)
        for one, other in zip(found, wanted, strict=True):
            assert_near(one, other)
        for turn, wide_turn in ((None, None), (rotation, wide_rotation)):
            assert_near(fast.heads(x, norm, 3, turn), PLAIN.heads(wide, wide_norm, 3, wide_turn))
        assert torch.equal(fast.norm(torch.zeros(1, 4), 1e-6), torch.zeros(1, 4))
    assert torch.equal(x, before)


def transformer_and_inputs() -> tuple[Transformer, Callable[[nn.Module], Tensor]]:
    model = transformer().requires_grad_(False)
    return model, lambda module: torch.cat([part.flatten() for part in module(*modalities())])


@pytest.mark.parametrize("names", [ALL, frozenset({"sigmoid", "rows"})], ids=["fused", "sigmoid"])
@pytest.mark.parametrize("scheme", [None, "int8"])
def test_a_model_with_them_gives_the_plain_ones_numbers_under_the_same_names(
    names: frozenset[str], scheme: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "MIN_NUMBERS", 0)
    monkeypatch.setattr(onednn, "MIN_SCORES", 0)
    model, run = transformer_and_inputs()
    if scheme is not None:
        quantize(model, "int8")
    keys, wanted = list(model.state_dict()), run(model)
    onednn.put_on(model, names)
    kinds = {type(part) for part in model.modules() if isinstance(part, nn.Linear | QuantizedLinear)}
    assert nn.Linear not in kinds
    assert list(model.state_dict()) == keys
    found = run(model)
    assert_near(found, wanted)
    assert not torch.equal(found, wanted)  # something else did compute


def test_gradients_are_those_of_the_plain_operators() -> None:
    torch.manual_seed(0)
    attention = Attention(48, 48, num_heads=3, head_dim=16)
    onednn.put_on(attention, ALL)
    x = noise(1, 300, 48)
    with torch.no_grad():
        direct = attention(x)
    trained = attention(x.requires_grad_())
    torch.testing.assert_close(direct, trained.detach(), atol=1e-5, rtol=1e-4)
    trained.square().mean().backward()
    assert x.grad is not None
    step = 1e-2 * x.grad / x.grad.norm()
    with torch.no_grad():
        change = attention(x + step).square().mean() - attention(x - step).square().mean()
    assert change.item() == pytest.approx(2 * (x.grad * step).sum().item(), rel=2e-2)
    assert all(p.grad is not None for p in attention.parameters())


def test_autocast_still_chooses_the_format() -> None:
    layer = nn.Sequential(nn.Linear(8, 4))
    onednn.put_on(layer, ALL)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(noise(3, 8)).dtype == torch.bfloat16


def test_what_replaces_or_watches_the_gelu_projection_is_called() -> None:
    feed = GeluProjection(8, 16).requires_grad_(False)
    onednn.put_on(feed, ALL)
    x = noise(3, 8)
    plain = feed(x)
    handle = feed.proj.register_forward_hook(lambda _module, _inputs, output: output + 1)
    hooked = feed(x)
    handle.remove()
    assert not torch.allclose(hooked, plain)
    feed.add_module("proj", nn.Sequential(feed.proj, nn.Identity()))  # as an adapter would wrap it
    torch.testing.assert_close(feed(x), plain, atol=1e-6, rtol=1e-5)


# --- what is tried, and remembered ----------------------------------------------------------------------


def test_the_switch_leaves_all_out(monkeypatch: pytest.MonkeyPatch) -> None:
    model, run = transformer_and_inputs()
    wanted = run(model)
    monkeypatch.setenv("SOUNDSTAGE_FAST_PATHS", "off")
    assert onednn.apply(model, torch.float32) == frozenset()
    assert torch.equal(run(model), wanted)


def test_a_format_that_onednn_refuses_leaves_its_products_out() -> None:
    if works(torch.bfloat16):
        pytest.skip("oneDNN multiplies bfloat16 on this processor")
    assert not onednn._passing(torch.bfloat16) & {"products", "attention"}


def test_each_machine_and_setting_has_answers_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    here = onednn.machine()
    assert torch.__version__ in here
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")
    assert onednn.machine() not in (here, "")


def test_arithmetic_of_other_formats_is_left_to_pytorch() -> None:
    x = noise(1, 700, 512).double()
    assert torch.equal(RowArithmetic().norm(x, 1e-6), Arithmetic().norm(x, 1e-6))


def test_one_thread_is_for_the_cpu_and_for_a_while() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with onednn.one_thread(torch.device("cpu")):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
        with onednn.one_thread(torch.device("cuda")):
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_thread_that_comes_while_another_computes_on_one_gets_all_back() -> None:
    cpu, before = torch.device("cpu"), torch.get_num_threads()
    seen: list[int] = []

    def other() -> None:
        with onednn.one_thread(cpu):
            seen.append(torch.get_num_threads())
        seen.append(torch.get_num_threads())

    try:
        torch.set_num_threads(2)
        with onednn.one_thread(cpu):
            thread = threading.Thread(target=other)
            thread.start()
            joined(thread)
        assert [*seen, torch.get_num_threads()] == [1, 2, 2]
    finally:
        torch.set_num_threads(before)
