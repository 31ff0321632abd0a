"""The CPU's own paths give what PyTorch's plain ones give, and stand back for training."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soundstage.model import kernels
from soundstage.model.attention import Attention, GeluProjection

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 6e-3}
FORMATS = pytest.mark.parametrize("dtype", list(TOLERANCE))


def noise(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def assert_near(found: Tensor, wanted: Tensor) -> None:
    """Close by norm to a float32 result, as close as found's format allows."""
    assert ((found.float() - wanted).norm() / wanted.norm()).item() < TOLERANCE[found.dtype]


@FORMATS
def test_linear_and_gelu_are_pytorchs(dtype: torch.dtype) -> None:
    x, weight, bias = noise(2, 7, 24, dtype=dtype), noise(40, 24, dtype=dtype), noise(40, dtype=dtype)
    wanted = F.linear(x.float(), weight.float(), bias.float())
    assert_near(kernels.linear(x, weight, bias), wanted)
    assert_near(kernels.linear_gelu(x, weight, bias), F.gelu(wanted, approximate="tanh"))
    assert_near(
        kernels.linear(x, noise(24, 40, dtype=dtype).T),
        F.linear(x.float(), noise(24, 40, dtype=dtype).T.float()),
    )


@FORMATS
@pytest.mark.parametrize("bias_shape", [None, (2, 1, 1, 300), (1, 1, 310, 300), (2, 3, 310, 300)])
def test_attention_by_head_is_pytorchs(
    dtype: torch.dtype, bias_shape: tuple[int, ...] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "MAX_SCORES", 300 * 130)  # groups that do not divide the queries
    q, k, v = (
        noise(2, 310, 3, 16, dtype=dtype),
        noise(2, 300, 3, 16, dtype=dtype),
        noise(2, 300, 3, 16, dtype=dtype),
    )
    bias = None if bias_shape is None else noise(*bias_shape, dtype=dtype)
    heads_first = [t.float().transpose(1, 2) for t in (q, k, v)]
    mask = None if bias is None else bias.float()
    wanted = F.scaled_dot_product_attention(
        heads_first[0], heads_first[1], heads_first[2], attn_mask=mask
    ).transpose(1, 2)
    assert_near(kernels._attention_by_head(q, k, v, bias), wanted)
    assert_near(kernels.attention(q, k, v, bias), wanted)


@FORMATS
def test_rms_is_pytorchs(dtype: torch.dtype) -> None:
    x, weight = 3 * noise(2, 5, 48, dtype=dtype), noise(48, dtype=dtype)
    before = x.clone()
    assert_near(kernels.rms(x, 1e-6), F.rms_norm(x.float(), (48,), eps=1e-6))
    assert_near(kernels.rms(x, 1e-6, weight), F.rms_norm(x.float(), (48,), weight.float(), 1e-6))
    assert torch.equal(x, before)
    assert torch.equal(kernels.rms(torch.zeros(1, 4), 1e-6), torch.zeros(1, 4))


def test_gradients_are_those_of_the_plain_operators() -> None:
    torch.manual_seed(0)
    attention = Attention(48, 48, num_heads=3, head_dim=16)
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
    layer = kernels.Linear(8, 4)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(noise(3, 8)).dtype == torch.bfloat16


def test_what_replaces_or_watches_the_gelu_projection_is_called() -> None:
    feed = GeluProjection(8, 16).requires_grad_(False)
    x = noise(3, 8)
    plain = feed(x)
    handle = feed.proj.register_forward_hook(lambda _module, _inputs, output: output + 1)
    hooked = feed(x)
    handle.remove()
    assert not torch.allclose(hooked, plain)
    feed.add_module("proj", nn.Sequential(feed.proj, nn.Identity()))  # as an adapter would wrap it
    torch.testing.assert_close(feed(x), plain, atol=1e-6, rtol=1e-5)
