"""The model's arithmetic where PyTorch's own choice is slow: inference on the CPU.

Every function here has a plain PyTorch meaning, and falls back to it for training, under autocast and on
other devices. What is gained, on one Zen 5 core with PyTorch 2.13 (1536 tokens, width 1024):

- `linear`: PyTorch sends float32 products to MKL, which does not use AVX-512 on AMD: 95 GFLOP/s against
  oneDNN's 210. In both formats bias and GELU come free of a pass of their own (51 against 33 ms).
- `attention`: PyTorch's flash kernel does 80 GFLOP/s in either format; this one 190 in bfloat16, 160 in
  float32.
- `rms`: there is no kernel on the CPU; PyTorch composes it of more passes than it needs.
"""

from __future__ import annotations

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Queries are taken in groups whose logits, 2 MiB in float32, stay near the core: 52 ms against 76
# for all 1536 at once. Fewer than MIN_ROWS would starve the products.
MAX_SCORES = 1 << 19
MIN_ROWS = 128
# Below this many logits a head, the calls cost more than they save.
MIN_SCORES = 1 << 16

_HAS_ONEDNN = torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_linear_pointwise")
_FORMATS = (torch.float32, torch.bfloat16)


@cache
def _works(dtype: torch.dtype) -> bool:
    """Whether oneDNN has a product in this format for this processor: bfloat16 needs more than AVX2."""
    try:
        x = torch.ones(8, 8, dtype=dtype)
        torch.ops.mkldnn._linear_pointwise(x, x, None, "none", [], "")
    except RuntimeError:
        return False
    return True


def _plain(*tensors: Tensor | None) -> bool:
    """Whether oneDNN may be called past PyTorch's autograd and autocast, which do not know its operators."""
    given = [t for t in tensors if t is not None]
    return (
        _HAS_ONEDNN
        and given[0].dtype in _FORMATS
        and _works(given[0].dtype)
        and all(t.device.type == "cpu" and t.dtype == given[0].dtype for t in given)
        and not (torch.is_grad_enabled() and any(t.requires_grad for t in given))
        and not torch.is_autocast_enabled("cpu")
    )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., in) times weight (out, in), plus bias (out,) -> (..., out)."""
    if not (_plain(x, weight, bias) and weight.is_contiguous()):
        return F.linear(x, weight, bias)
    return _product(x.contiguous(), weight, bias)


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """GELU (tanh form) of `linear`."""
    if not (_plain(x, weight, bias) and weight.is_contiguous()):
        return F.gelu(F.linear(x, weight, bias), approximate="tanh")
    return _product(x.contiguous(), weight, bias, "gelu", "tanh")


def _product(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, after: str = "none", form: str = ""
) -> Tensor:
    """oneDNN's product. All contiguous: for others it takes a reference kernel, a hundred times slower."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, after, [], form)  # type: ignore[no-any-return]


class Linear(nn.Linear):
    """nn.Linear through `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)

    def gelu(self, x: Tensor) -> Tensor:
        """GELU (tanh form) of the layer's result."""
        return linear_gelu(x, self.weight, self.bias)


def attention(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None = None) -> Tensor:
    """Scaled dot product attention: (B, N, H, d), twice (B, M, H, d) -> (B, N, H, d).

    The bias broadcasts to (B, H, N, M) and is added to the logits, which are scaled by 1/sqrt(d).
    """
    if queries.shape[1] * keys.shape[1] >= MIN_SCORES and _plain(queries, keys, values, bias):
        return _attention_by_head(queries, keys, values, bias)
    out = F.scaled_dot_product_attention(
        queries.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2), attn_mask=bias
    )
    return out.transpose(1, 2)


def _attention_by_head(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
    """Logits are float32 in both formats; rounded to bfloat16 they would cost 1 % of the result's norm."""
    batch, length, num_heads, head_dim = queries.shape
    num_keys = keys.shape[1]
    rows = _even_share(length, max(MIN_ROWS, MAX_SCORES // num_keys))
    if bias is not None:
        bias = bias.expand(batch, num_heads, length, num_keys)
    out = torch.empty_like(queries)
    for sample in range(batch):
        columns = values[sample].flatten(1).T.contiguous().view(num_heads, head_dim, num_keys)
        for head in range(num_heads):
            q = queries[sample, :, head].float().contiguous() * head_dim**-0.5
            k = keys[sample, :, head].float().contiguous()
            for start in range(0, length, rows):
                chosen = slice(start, start + rows)
                logits = _product(q[chosen], k)
                if bias is not None:
                    logits += bias[sample, head, chosen]
                weights = torch.softmax(logits, dim=-1).to(values.dtype)
                out[sample, chosen, head] = _product(weights, columns[head])
    return out


def _even_share(length: int, most: int) -> int:
    """Size of parts, at most `most`, that leaves no small rest: every product reorders all the keys."""
    return math.ceil(length / math.ceil(length / most))


def rms(x: Tensor, eps: float, weight: Tensor | None = None) -> Tensor:
    """Divide by the root mean square of the last axis, times a weight; float32 inside, x's dtype outside."""
    if not _plain(x, weight):
        return F.rms_norm(x, x.shape[-1:], weight, eps)
    wide = x.float()
    squares = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_()
    factor = squares.div_(x.shape[-1]).add_(eps).rsqrt_()
    wide = wide * factor if wide is x else wide.mul_(factor)
    return (wide if weight is None else wide.mul_(weight)).to(x.dtype)


class RMSNorm(nn.RMSNorm):
    """nn.RMSNorm through `rms`."""

    def forward(self, x: Tensor) -> Tensor:
        assert self.eps is not None
        return rms(x, self.eps, self.weight)
