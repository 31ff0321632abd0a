"""Gated multi-head attention and the feed-forward, as the transformer and the connectors use them.

The kernel is PyTorch's `scaled_dot_product_attention`; another one of the same signature (flash, context
parallel) is put in its place from outside by setting `Attention.kernel`.

Source: docs/model/transformer.md, "Attention".
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soundstage.model.arithmetic import PLAIN, Arithmetic
from soundstage.model.bias import Bias, BiasParts, attend_in_parts
from soundstage.model.rope import Rotation

NORM_EPS = 1e-6

# As PyTorch's: (queries (B, H, N, d), keys (B, H, M, d), values (B, H, M, d), bias) -> (B, H, N, d). The bias
# is None or broadcasts to (B, H, N, M) and is added to the logits, which are scaled by 1/sqrt(d).
AttentionKernel = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


def strength_bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the bias (B, 1, N, M) of a self-attention mask (B, N, M) in [0, 1]: its log, lowest where <= 0.

    A weight of 0.5 halves what a token contributes before normalisation.
    """
    limits = torch.finfo(dtype)
    bias = torch.log(mask.float().clamp(min=limits.tiny))
    return bias.masked_fill(mask <= 0, limits.min).to(dtype).unsqueeze(1)


def context_bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the bias of a text mask, which broadcasts to (B, H, N, S).

    mask: (B, S) for all tokens alike or (B, N, S). Integers and booleans say which text tokens are seen;
    floating point is added to the logits as it is.
    """
    if not mask.is_floating_point():
        mask = (mask.to(dtype) - 1) * torch.finfo(dtype).max
    mask = mask.to(dtype)
    return mask[:, None, None, :] if mask.ndim == 2 else mask[:, None]


class Attention(nn.Module):
    """Attend from `width` to `context_width`, with normed queries and keys and a gate per head.

    Guidance that mixes attention results (NAG) calls `kernel` between `queries_of`, `keys_of` and `values_of`
    and `finish`, as the forward does.
    """

    arithmetic: Arithmetic = PLAIN
    kernel: AttentionKernel = staticmethod(F.scaled_dot_product_attention)

    def __init__(self, width: int, context_width: int, *, num_heads: int, head_dim: int) -> None:
        super().__init__()
        inner = num_heads * head_dim
        self.num_heads = num_heads
        self.to_q = nn.Linear(width, inner)
        self.to_k = nn.Linear(context_width, inner)
        self.to_v = nn.Linear(context_width, inner)
        self.q_norm = nn.RMSNorm(inner, eps=NORM_EPS)
        self.k_norm = nn.RMSNorm(inner, eps=NORM_EPS)
        self.to_gate_logits = nn.Linear(width, num_heads)
        self.to_out = nn.ModuleList([nn.Linear(inner, width)])

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        *,
        rope: Rotation | None = None,
        context_rope: Rotation | None = None,
        bias: Bias | None = None,
        keep: bool | Tensor = True,
    ) -> Tensor:
        """Return the attention of x (B, N, width) to a context (B, M, context_width), as (B, N, width).

        context: None for x itself. rope rotates the queries, and the keys unless context_rope does.
        keep=False replaces the result by the values (only for x as its own context); a boolean tensor
        (B, 1, 1) decides per sample.
        """
        context = x if context is None else context
        values = self.values_of(context)
        if keep is False:
            return self.finish(x, values)
        queries = self.queries_of(x, rope)
        keys = self.keys_of(context, rope if context_rope is None else context_rope)
        if isinstance(bias, BiasParts):
            heads = attend_in_parts(self.kernel, queries, keys, values, bias)
        else:
            heads = self.kernel(queries, keys, values, bias)
        if keep is not True:
            heads = torch.where(keep.unsqueeze(-1), heads, values)
        return self.finish(x, heads)

    def queries_of(self, x: Tensor, rope: Rotation | None = None) -> Tensor:
        """Return queries (B, H, N, d), rotated if a rotation is given."""
        return self.arithmetic.heads(self.to_q(x), self.q_norm, self.num_heads, rope).transpose(1, 2)

    def keys_of(self, context: Tensor, rope: Rotation | None = None) -> Tensor:
        """Return keys (B, H, M, d), rotated if a rotation is given."""
        return self.arithmetic.heads(self.to_k(context), self.k_norm, self.num_heads, rope).transpose(1, 2)

    def values_of(self, context: Tensor) -> Tensor:
        """Return values (B, H, M, d)."""
        return self.to_v(context).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # type: ignore[no-any-return]

    def finish(self, x: Tensor, heads: Tensor) -> Tensor:
        """Multiply each of the heads (B, H, N, d) by its gate, made from x, and project to (B, N, width)."""
        gated = self.arithmetic.gate_heads(heads.transpose(1, 2), self.to_gate_logits(x))
        return self.to_out[0](gated)  # type: ignore[no-any-return]


class GeluProjection(nn.Module):
    arithmetic: Arithmetic = PLAIN

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, inner)

    def forward(self, x: Tensor) -> Tensor:
        return self.arithmetic.linear_gelu(self.proj, x)


class FeedForward(nn.Module):
    """Apply two linear layers with GELU between, four times as wide there."""

    def __init__(self, width: int) -> None:
        super().__init__()
        # The empty middle keeps the published indices, net.0 and net.2.
        self.net = nn.Sequential(GeluProjection(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)  # type: ignore[no-any-return]
