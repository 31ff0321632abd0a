"""Gated multi-head attention and the feed-forward, as the transformer and the connectors use them.

One kernel signature, `AttentionKernel`, with PyTorch's own as the default; another (flash, context
parallel) is put in place from outside by setting `Attention.kernel`.

Source: spec of the LTX-2.3 transformer, sections 7 and 9.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soundstage.model.arithmetic import PLAIN, Arithmetic
from soundstage.model.bias import Bias, attend
from soundstage.model.rope import Rotation

NORM_EPS = 1e-6

# (queries (B, N, H, d), keys (B, M, H, d), values (B, M, H, d), bias) -> (B, N, H, d). The bias is None
# or broadcasts to (B, H, N, M) and is added to the logits, which are scaled by 1/sqrt(d).
AttentionKernel = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


def torch_attention(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None = None) -> Tensor:
    """PyTorch's scaled dot product attention."""
    out = F.scaled_dot_product_attention(
        queries.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2), attn_mask=bias
    )
    return out.transpose(1, 2)


def strength_bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Self-attention mask (B, N, M) in [0, 1] -> bias (B, 1, N, M): log of the mask, lowest where <= 0.

    A weight of 0.5 halves what a token contributes before normalisation.
    """
    limits = torch.finfo(dtype)
    bias = torch.log(mask.float().clamp(min=limits.tiny))
    return bias.masked_fill(mask <= 0, limits.min).to(dtype).unsqueeze(1)


def context_bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Text mask -> bias that broadcasts to (B, H, N, S).

    mask: (B, S) for all tokens alike or (B, N, S). Integers and booleans say which text tokens are seen;
    floating point is added to the logits as it is.
    """
    if not mask.is_floating_point():
        mask = (mask.to(dtype) - 1) * torch.finfo(dtype).max
    mask = mask.to(dtype)
    return mask[:, None, None, :] if mask.ndim == 2 else mask[:, None]


class Attention(nn.Module):
    """Attention from `width` to `context_width`, with normed queries and keys and a gate per head.

    `heads_of` and `finish` split the forward at the place where guidance methods that mix attention
    results (NAG) have to reach in.
    """

    arithmetic: Arithmetic = PLAIN

    def __init__(self, width: int, context_width: int, *, num_heads: int, head_dim: int) -> None:
        super().__init__()
        inner = num_heads * head_dim
        self.num_heads = num_heads
        self.kernel: AttentionKernel = torch_attention
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
        """x (B, N, width), context (B, M, context_width) or None for x itself -> (B, N, width).

        rope rotates the queries, and the keys unless context_rope does. keep=False replaces the result by
        the values (only for x as its own context); a boolean tensor (B, 1, 1) decides per sample.
        """
        heads = self.heads_of(x, context, rope=rope, context_rope=context_rope, bias=bias, keep=keep)
        return self.finish(x, heads)

    def heads_of(
        self,
        x: Tensor,
        context: Tensor | None = None,
        *,
        rope: Rotation | None = None,
        context_rope: Rotation | None = None,
        bias: Bias | None = None,
        keep: bool | Tensor = True,
        queries: Tensor | None = None,
    ) -> Tensor:
        """The attention result (B, N, H, d), before the gate. queries: from `queries_of`, if made already."""
        context = x if context is None else context
        values = self._split(self.to_v(context))
        if keep is False:
            return values
        queries = self.queries_of(x, rope) if queries is None else queries
        rotation = rope if context_rope is None else context_rope
        keys = self.arithmetic.heads(self.to_k(context), self.k_norm, self.num_heads, rotation)
        heads = attend(self.kernel, queries, keys, values, bias)
        if keep is True:
            return heads
        return torch.where(keep.unsqueeze(-1), heads, values)

    def queries_of(self, x: Tensor, rope: Rotation | None = None) -> Tensor:
        """Queries (B, N, H, d), rotated if a rotation is given."""
        return self.arithmetic.heads(self.to_q(x), self.q_norm, self.num_heads, rope)

    def finish(self, x: Tensor, heads: Tensor) -> Tensor:
        """Gate each head by what x asks for and project (B, N, H, d) -> (B, N, width)."""
        gated = self.arithmetic.gate_heads(heads, self.to_gate_logits(x))
        return self.to_out[0](gated)  # type: ignore[no-any-return]

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], self.num_heads, -1)


class GeluProjection(nn.Module):
    arithmetic: Arithmetic = PLAIN

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, inner)

    def forward(self, x: Tensor) -> Tensor:
        return self.arithmetic.linear_gelu(self.proj, x)


class FeedForward(nn.Module):
    """Two linear layers, four times as wide between.

    rows: which of its tokens are at work, where it is made to take them in pieces; None is all.
    """

    rows: slice | None = None

    def __init__(self, width: int) -> None:
        super().__init__()
        # The empty middle keeps the published indices, net.0 and net.2.
        self.net = nn.Sequential(GeluProjection(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)  # type: ignore[no-any-return]
